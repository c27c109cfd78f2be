"""The verdict on one reading between its neighbours: what counts, what is held, what is only odd."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.readings.models import ReadingQuality
from standpipe.readings.validation import (
    FLOW_SLACK_ML,
    GAP,
    MAX_FLOW_ML_PER_H,
    SPIKE_TIMES,
    AcceptedReading,
    NewReading,
    Reason,
    ValidationContext,
    Verdict,
    register_position,
    validate,
)

AT = datetime(2026, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TOP = 100_000_000
PLAIN = ValidationContext(None, None, None)
BELOW = AcceptedReading(AT, 500_000, 500_000)


def look(register_ml: int, after: timedelta = HOUR, around: ValidationContext = PLAIN, **more: object) -> Verdict:
    above = more.pop("above", None)
    below = more.pop("below", BELOW)
    jump_ml = more.pop("jump_ml", None)
    return validate(NewReading(AT + after, register_ml, **more), below, above, around, jump_ml)  # type: ignore[arg-type]


def held(verdict: Verdict) -> Reason | None:
    assert verdict.quality == ReadingQuality.HELD
    assert not verdict.counts
    return verdict.reason


def test_a_plain_reading_counts_as_it_stands() -> None:
    assert look(510_000) == Verdict(ReadingQuality.MEASURED, None, 510_000)
    assert look(500_000).counted_ml == 500_000


def test_t5_backwards_is_held() -> None:
    verdict = look(499_999)
    assert (held(verdict), verdict.counted_ml) == (Reason.BACKWARDS, None)


def test_t5_more_than_a_later_reading_is_held() -> None:
    assert held(look(520_000, above=AcceptedReading(AT + 2 * HOUR, 510_000, 510_000))) is Reason.BACKWARDS


@pytest.mark.parametrize(("extra_ml", "fits"), [(0, True), (1, False)])
def test_no_more_than_a_household_s_meter_can_pass(extra_ml: int, fits: bool) -> None:
    verdict = look(500_000 + MAX_FLOW_ML_PER_H + FLOW_SLACK_ML + extra_ml)
    assert verdict.counts is fits
    assert fits or verdict.reason is Reason.IMPLAUSIBLE_FLOW


def test_t5_what_stands_upon_a_jump_is_held_however_long_nobody_looks() -> None:
    jump_ml = 500_000 + 200 * FLOW_SLACK_ML
    # A year later the pipe could have passed it; but one hour had been said to be enough.
    assert held(look(jump_ml, timedelta(days=365), jump_ml=jump_ml)) is Reason.IMPLAUSIBLE_FLOW
    assert look(jump_ml - 1, timedelta(days=365), jump_ml=jump_ml).counts
    assert look(jump_ml, timedelta(days=365)).counts


def test_t4_a_register_rolls_over_and_consumption_goes_on() -> None:
    below = AcceptedReading(AT, TOP - 1_000, TOP - 1_000)
    around = ValidationContext(TOP, None, None)
    assert look(2_000, around=around, below=below) == Verdict(ReadingQuality.MEASURED, Reason.ROLL_OVER, TOP + 2_000)
    # The next one goes on from there, and a late one of before still finds its place.
    rolled = AcceptedReading(AT + HOUR, 2_000, TOP + 2_000)
    assert look(3_000, 2 * HOUR, around, below=rolled).counted_ml == TOP + 3_000
    assert look(TOP - 500, HOUR / 2, around, below=below, above=rolled).counted_ml == TOP - 500
    assert look(1_000, HOUR / 2, around, below=below, above=rolled).counted_ml == TOP + 1_000


def test_t5_a_roll_over_that_no_pipe_could_fill_is_a_step_back() -> None:
    assert held(look(100_000, around=ValidationContext(TOP, None, None))) is Reason.BACKWARDS


def test_beyond_the_register_s_top_is_held() -> None:
    around = ValidationContext(TOP, None, None)
    assert held(look(TOP, around=around, below=AcceptedReading(AT, TOP - 1_000, TOP - 1_000))) is Reason.OUT_OF_RANGE


def test_before_what_is_kept_is_held() -> None:
    assert held(look(510_000, around=ValidationContext(None, AT + 2 * HOUR, None))) is Reason.BEFORE_RETENTION


def test_t8_forward_flow_through_an_empty_pipe_is_held_and_left_out_of_what_follows() -> None:
    verdict = look(505_000, empty_pipe=True)
    assert (held(verdict), verdict.counted_ml) == (Reason.EMPTY_PIPE, 500_000)
    below = AcceptedReading(AT + HOUR, 505_000, 500_000)
    assert look(506_000, 2 * HOUR, below=below).counted_ml == 501_000


def test_t8_an_empty_pipe_without_flow_counts() -> None:
    assert look(500_000, empty_pipe=True).counts


@pytest.mark.parametrize("register_ml", [400_000, 500_000 + 2 * MAX_FLOW_ML_PER_H])
def test_t8_air_is_the_reason_whatever_else_is_wrong(register_ml: int) -> None:
    """Or a later look, which asks for the reason alone, would take it for a plain reading."""
    verdict = look(register_ml, empty_pipe=True)
    assert (held(verdict), verdict.counted_ml) == (Reason.EMPTY_PIPE, None)


def test_t9_a_wrong_clock_is_flagged_and_the_reading_counts() -> None:
    assert look(510_000, clock_wrong=True) == Verdict(ReadingQuality.MEASURED, Reason.CLOCK_WRONG, 510_000)


def test_a_gap_is_flagged() -> None:
    assert look(510_000, GAP).reason is None
    assert look(510_000, GAP + timedelta(seconds=1)).reason is Reason.GAP


def test_a_spike_is_flagged_against_the_household_s_habits() -> None:
    usual = ValidationContext(None, None, 1_000_000)
    limit_ml = 500_000 + SPIKE_TIMES * 1_000_000
    assert look(limit_ml, around=usual).reason is None
    assert look(limit_ml + 1, around=usual).reason is Reason.SPIKE
    # Over two days it is half as much a day; and where nothing is known yet nothing is odd.
    assert look(limit_ml + 1, 2 * timedelta(days=1), usual).reason is Reason.GAP
    assert look(limit_ml + 1).reason is None
    # Little water is no spike, however little is usual.
    assert look(2_000_000, around=ValidationContext(None, None, 10)).reason is None


@given(st.integers(0, 10**9), st.integers(-(10**9), 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_what_counts_stands_between_its_neighbours(register: int, offset: int, low: int, rise: int) -> None:
    below = AcceptedReading(AT, low, low + offset)
    above = AcceptedReading(AT + 2 * HOUR, low + rise, low + rise + offset)
    counted_ml, _ = register_position(register, below, above, 10**9 + 1)
    assert counted_ml is None or below.counted_ml <= counted_ml <= above.counted_ml
    if low <= register <= low + rise:
        assert counted_ml == register + offset
