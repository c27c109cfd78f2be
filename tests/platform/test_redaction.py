"""What a line may not hold is out of it, whatever stands around it; and a stranger's text cannot keep us busy."""

import re
import string

import phonenumbers
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from standpipe.platform.ids import new_id
from standpipe.platform.redaction import MAX_CHARS, Redactor

REDACTOR = Redactor(["whsec_of_a_test", "a secret with spaces"])
WORDS = st.text(alphabet=string.ascii_letters + " .:,;!?{}[]()'\"\n=&/-\N{NO-BREAK SPACE}é漢", max_size=60)
REGIONS = ("KE", "UG", "TZ", "NG", "GH", "ZA", "RW", "IN", "PH", "BR", "MX", "GB", "US", "DE", "FR")
FORMS = (
    *(phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL),
    *(phonenumbers.PhoneNumberFormat.NATIONAL, phonenumbers.PhoneNumberFormat.RFC3966),
)


def digits_of(text: str) -> str:
    return "".join(letter for letter in text if letter.isdigit())


@st.composite
def phones(draw: st.DrawFn) -> str:
    """Real numbers of many countries, as people and programs write them."""
    example = phonenumbers.example_number_for_type(draw(st.sampled_from(REGIONS)), phonenumbers.PhoneNumberType.MOBILE)
    assert example is not None
    number = phonenumbers.format_number(example, draw(st.sampled_from(FORMS)))
    separator = draw(st.sampled_from(["", " ", "-", ".", "\N{NO-BREAK SPACE}", "\N{EN DASH}"]))
    return re.sub(r"[ -]", separator, number.removeprefix("tel:"))


@given(WORDS, phones(), WORDS)
def test_a_phone_number_is_kept_out_in_every_form(before: str, phone: str, after: str) -> None:
    left = digits_of(REDACTOR.text(before + phone + after))
    assert len(left) < 6, left


@given(WORDS, st.text("0123456789", min_size=6, max_size=40), st.sampled_from([" ", "-", ""]), WORDS)
def test_codes_cards_and_keypad_digits_are_kept_out(before: str, digits: str, gap: str, after: str) -> None:
    written = gap.join(digits[at : at + 4] for at in range(0, len(digits), 4))
    assert digits_of(REDACTOR.text(f"{before} {written} {after}")) == ""


@given(
    WORDS,
    st.text(string.ascii_lowercase + string.digits + "._+-", min_size=1, max_size=30),
    st.sampled_from(["example.com", "mail.example.co.ke", "localhost"]),
    WORDS,
)
def test_an_e_mail_address_is_kept_out(before: str, person: str, host: str, after: str) -> None:
    assert f"{person}@" not in REDACTOR.text(f"{before} {person}@{host} {after}")


@given(WORDS, st.text(string.ascii_letters + string.digits + "-_", min_size=8, max_size=200), WORDS)
def test_tokens_and_keys_are_kept_out(before: str, body: str, after: str) -> None:
    assume(body not in before + after)
    for secret in (
        f"Authorization: Bearer {body}",
        f"eyJhbGciOi.{body}.{body}",
        f"sk_live_{body}",
        f"pi_1_secret_{body}",
        f'"refreshToken": "{body}"',
        f"passkey={body}",
        f"POST /webhooks/mpesa/{body}/stk",
    ):
        assert body not in REDACTOR.text(f"{before} {secret} {after}")


@given(WORDS, st.sampled_from(["Wanjiku", "Jane Wanjiku Otieno", "O", "Ñandú Quispe"]), WORDS)
def test_a_name_is_kept_out_where_it_is_called_one_or_quoted(before: str, name: str, after: str) -> None:
    safe = before.replace("'", "").replace('"', "").replace(name, "")
    for said in (f"customer_name='{name}'", f'"name": "{name}"', f"Key (name)=({name}) already exists."):
        assert name not in REDACTOR.text(f"{safe} {said}")
    assert name not in REDACTOR.text(f"{safe} no such thing: '{name}'", quotes=True)


@given(st.text(max_size=3_000))
def test_any_text_is_taken_and_the_answer_is_bounded(text: str) -> None:
    assert len(REDACTOR.text(text, quotes=True)) <= 12 * MAX_CHARS


def test_secrets_of_the_settings_are_kept_out_letter_by_letter() -> None:
    assert REDACTOR.text("saying whsec_of_a_test and a secret with spaces.").count("[kept out]") == 2
    for at in range(MAX_CHARS - 40, MAX_CHARS + 1):
        assert "a secret" not in REDACTOR.text("x " * (at // 2) + "a secret with spaces")


def test_what_is_needed_stays() -> None:
    meter_id = new_id("mtr")
    for text in (
        meter_id,
        f"no meter {meter_id}",
        "2026-11-24T16:14:29.123456+00:00 is too late",
        "period from 2026-11-24 on",
        "status 503 after 12 tries, 4.04",
        "test_a_top_up_travels_from_the_phone_to_the_meter",
        "[Errno 111] Connect call failed",
    ):
        assert REDACTOR.text(text) == text


@pytest.mark.parametrize(
    "piece",
    ["1 ", "1-", "a@", "a.", "eyJ", "eyJ.", "name=", "'", "Key (", "Bearer ", "a" * 30, "1" * 7 + "a", "\0", "@"],
)
def test_a_megabyte_of_what_a_pattern_likes_best_is_cut_first(piece: str) -> None:
    """Were any of it quadratic in a stranger's text, this would not end."""
    assert len(REDACTOR.text(piece * (1_000_000 // len(piece)), quotes=True)) <= 12 * MAX_CHARS
