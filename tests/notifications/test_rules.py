"""When a household is told: once per crossing, the most urgent only, and never out of silence."""

from hypothesis import given
from hypothesis import strategies as st

from standpipe.notifications.rules import EMPTY, THRESHOLDS_DAYS, LowBalanceSignal, evaluate
from standpipe.notifications.texts import text_of


def walk(days: list[float | None], credit_minor: int = 1000) -> list[int]:
    """The levels told of along a history."""
    level, told = None, []
    for left in days:
        decision = evaluate(level, LowBalanceSignal(left, credit_minor))
        level = decision.level
        if decision.tell:
            assert level is not None
            told.append(level)
    return told


def test_n1_a_balance_that_hovers_tells_once_per_crossing() -> None:
    assert walk([8, 7.1, 6.9, 7.1, 6.9, 7.5, 6.8]) == [7]
    assert walk([8, 6.9, 12, 6.9]) == [7, 7]


@given(st.lists(st.floats(6.5, 7.9), min_size=1, max_size=40))
def test_n1_however_it_hovers(days: list[float]) -> None:
    assert len(walk([20.0, *days])) <= 1


@given(st.lists(st.floats(0.01, 30), max_size=40))
def test_levels_only_grow_more_urgent_until_the_credit_has_risen(days: list[float]) -> None:
    told = walk(list(days))
    assert all(level in THRESHOLDS_DAYS for level in told)
    assert len(told) <= len(days)


def test_n2_several_thresholds_at_once_are_the_most_urgent() -> None:
    assert walk([20, 0.5]) == [1]
    assert walk([20, 2.0, 0.4]) == [3, 1]


def test_n3_credit_on_its_way_counts() -> None:
    """The signal's credit is the ledger's, which has a top-up from the moment it is paid."""
    assert evaluate(EMPTY, LowBalanceSignal(20.0, 5000)).level is None


def test_n4_what_is_not_known_raises_nothing() -> None:
    assert walk([None, None]) == []
    assert evaluate(3, LowBalanceSignal(None, 1000)).level == 3


def test_an_empty_wallet_is_told_once_and_again_after_a_refill() -> None:
    empty, full = LowBalanceSignal(0.0, 0), LowBalanceSignal(30.0, 9000)
    assert evaluate(1, empty).tell
    assert not evaluate(EMPTY, empty).tell
    assert evaluate(evaluate(EMPTY, full).level, empty).tell


def test_n9_texts_speak_the_devices_language_and_fall_back_to_english() -> None:
    params = {"label": "Home", "credit_minor": 12_345, "currency": "KES", "days_left": 1}
    assert "1 day." in text_of("LOW_BALANCE", params, "en-KE").body
    assert "2 days." in text_of("LOW_BALANCE", params | {"days_left": 2}, "en").body
    assert "less than a day" in text_of("LOW_BALANCE", params | {"days_left": 0}, "en").body
    assert "siku 1" in text_of("LOW_BALANCE", params, "sw").body
    assert "jour" in text_of("LOW_BALANCE", params, "fr-CI").body
    assert text_of("EMPTY", params, "xx-??").title == text_of("EMPTY", params, "en").title
