"""What customers read."""

import pytest

from standpipe.notifications.models import AlertKind
from standpipe.notifications.texts import text_of

PARAMS = {"label": "Home {x}", "credit_minor": 123_450, "currency": "KES", "days_left": 3}


@pytest.mark.parametrize(("language", "days"), [("en", "3 days"), ("sw", "siku 3"), ("fr-FR", "3 jours")])
def test_n9_low_balance_in_the_devices_language(language, days):
    text = text_of("LOW_BALANCE", PARAMS, language)
    assert days in text.body
    assert "Home {x}" in text.body


def test_n9_one_day_is_singular():
    assert "1 day." in text_of("LOW_BALANCE", PARAMS | {"days_left": 1}, "en").body
    assert "1 jour." in text_of("LOW_BALANCE", PARAMS | {"days_left": 1}, "fr").body


@pytest.mark.parametrize(("language", "words"), [("en", "less than a day"), ("fr", "moins d'un jour")])
def test_n9_under_a_day_is_said_in_words(language, words):
    assert words in text_of("LOW_BALANCE", PARAMS | {"days_left": 0}, language).body


def test_n9_money_is_written_as_its_reader_writes_it():
    assert "1,234.50" in text_of("LOW_BALANCE", PARAMS, "en").body
    assert "1,234.50" not in text_of("LOW_BALANCE", PARAMS, "fr").body


@pytest.mark.parametrize("language", ["xx", "", "en_US", "tlh-Piqd"])
def test_an_unknown_language_reads_english(language):
    assert text_of("EMPTY", PARAMS, language).title == "Your water credit is used up"


@pytest.mark.parametrize("language", ["en", "sw", "fr"])
@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("TOP_UP", "TOP_UP_FAILED"),
        *((kind, None) for kind in AlertKind if kind is not AlertKind.ACCESS),
        *[("ACCESS", f"ACCESS_{how}") for how in ("CLAIMED", "OWNER", "MOVED_OUT")],
    ],
)
def test_every_kind_is_worded_in_every_language(language, kind, variant):
    text = text_of(kind, PARAMS | {"variant": variant}, language)
    assert text.title != text_of("OF_A_NEWER_RELEASE", PARAMS, language).title
    assert "Home {x}" in text.body


def test_a_failed_payment_promises_nothing_about_the_charge():
    # It may still succeed: a failure is never proof that no money moved.
    assert "not charged" not in text_of("TOP_UP", PARAMS | {"variant": "TOP_UP_FAILED"}, "en").body
