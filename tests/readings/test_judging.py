"""Reports judged: second values for an instant, wrong clocks, days, and that batches change nothing (T15, T16).

Pure: no database. What stands after each report is handed to the next as the database would.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.meters.reports import RegisterReading
from standpipe.platform.units import service_day
from standpipe.readings.judging import DayUse, Judged, Register, StoredReading, Surroundings, judge_reports, told_spans
from standpipe.readings.models import ReadingQuality
from standpipe.readings.raw import RawReadings

START = datetime(2026, 5, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ZONE = ZoneInfo("Africa/Nairobi")
REGISTER = Register(START, 0, None, ZONE)


def report(at: datetime, *told: tuple[datetime, int], clock_wrong: bool = False) -> RawReadings:
    return RawReadings("m", at, tuple(RegisterReading(*one) for one in told), clock_wrong)


def after(known: Sequence[StoredReading], days: dict[date, DayUse], told: Sequence[RawReadings]) -> Judged:
    return judge_reports(REGISTER, Surroundings(readings=known, days=days), told)


def one_by_one(told: Sequence[RawReadings]) -> tuple[list[StoredReading], dict[date, DayUse]]:
    known: list[StoredReading] = []
    days: dict[date, DayUse] = {}
    for one in told:
        judged = after(known, days, [one])
        known.extend(judged.readings)
        days |= judged.days
    return known, days


def plain(rows: Sequence[StoredReading]) -> list[tuple[int, str, str | None]]:
    return [(row.register_ml, row.quality, row.reason) for row in rows]


def test_t15_another_value_for_an_instant_that_counts_is_kept_beside_it_and_held() -> None:
    at = START + HOUR
    judged = after([], {}, [report(at, (at, 100)), report(at, (at, 250)), report(at, (at, 100), (at, 250))])
    assert plain(judged.readings) == [(100, "MEASURED", None), (250, "HELD", "SECOND_VALUE")]
    assert [row.arrival for row in judged.readings] == [0, 1]
    assert sum(use.volume_ml for use in judged.days.values()) == 100


def test_t15_where_the_first_is_held_the_second_is_judged_on_its_own() -> None:
    at = START + HOUR
    judged = after([], {}, [report(at, (at, 10**12)), report(at, (at, 100)), report(at + HOUR, (at + HOUR, 150))])
    assert plain(judged.readings) == [
        (10**12, "HELD", "IMPLAUSIBLE_FLOW"), (100, "MEASURED", None), (150, "MEASURED", None),
    ]  # fmt: skip
    assert sum(use.volume_ml for use in judged.days.values()) == 150


def test_t15_two_values_in_one_report_are_both_kept() -> None:
    at = START + HOUR
    judged = after([], {}, [report(at, (at, 100), (at, 90), (at, 100))])
    assert plain(judged.readings) == [(100, "MEASURED", None), (90, "HELD", "SECOND_VALUE")]


def test_t16_a_clock_that_starts_anew_at_every_wake_loses_no_reading() -> None:
    woke = datetime(2000, 1, 1, tzinfo=UTC)
    told = [report(START + n * DAY, (woke, n * 1_000), clock_wrong=True) for n in range(1, 6)]
    known, days = one_by_one(told)
    assert [row.read_at for row in known] == [START + n * DAY for n in range(1, 6)]
    assert {(row.quality, row.reason) for row in known} == {("MEASURED", "CLOCK_WRONG")}
    assert sum(use.volume_ml for use in days.values()) == 5_000
    # Sent again it is the same reading.
    assert after(known, days, [report(START + 9 * DAY, (woke, 3_000), clock_wrong=True)]).readings == ()


def test_t16_an_instant_before_the_meter_or_to_come_is_that_of_arrival() -> None:
    now = START + DAY
    [judged] = after([], {}, [report(now, (START - DAY, 10))]).readings
    assert (judged.read_at, judged.claimed_at, judged.reason) == (now, START - DAY, "CLOCK_WRONG")
    [judged] = after([], {}, [report(now, (now + HOUR, 10))]).readings
    assert (judged.read_at, judged.claimed_at) == (now, now + HOUR)


def test_two_reports_that_arrive_at_one_instant_by_arrival_keep_their_order() -> None:
    now = START + DAY
    known, _ = one_by_one([report(now, (START - HOUR, 10)), report(now, (START - 2 * HOUR, 20))])
    assert [row.register_ml for row in sorted(known, key=lambda row: row.read_at)] == [10, 20]
    assert len({row.read_at for row in known}) == 2


@pytest.mark.parametrize("gap", [1, 3, 40])
def test_a_late_reading_moves_the_water_to_the_day_it_ran(gap: int) -> None:
    first, last = START + HOUR, START + HOUR + gap * DAY
    known, days = one_by_one([report(last, (first, 100), (last, 700))])
    assert days[service_day(last, ZONE)] == DayUse(100, 700)
    between = first + (last - first) / 2
    judged = after(known, days, [report(last + HOUR, (between, 500))])
    days |= judged.days
    assert days[service_day(between, ZONE)].end_ml == (500 if gap > 1 else days[service_day(between, ZONE)].end_ml)
    assert sum(use.volume_ml for use in days.values()) == 700


def test_spans_of_told_instants_are_parted_by_a_week() -> None:
    now = START + 60 * DAY
    told = report(now, *((START + n * DAY, n) for n in (1, 2, 30, 34, 59)))
    assert told_spans(REGISTER, [told]) == [
        (START + DAY, START + 2 * DAY), (START + 30 * DAY, START + 34 * DAY), (START + 59 * DAY, START + 59 * DAY),
    ]  # fmt: skip
    assert told_spans(REGISTER, [report(now, (START - DAY, 1))]) == [(now, now + timedelta(microseconds=1))]


hours = st.integers(1, 24 * 12)
told_readings = st.lists(st.tuples(hours, st.sampled_from([0, 0, 0, 0, 7, -50, 10**10])), max_size=6)


@given(st.lists(told_readings, max_size=8), st.randoms(use_true_random=False))
def test_t4_however_reports_are_batched_the_same_readings_count_and_the_same_days_come_out(
    batches: list[list[tuple[int, int]]], chance: object
) -> None:
    del chance
    now = START + 13 * DAY
    reports = [
        report(now + n * HOUR, *((START + hour * HOUR, hour * 1_000 + bent) for hour, bent in told))
        for n, told in enumerate(batches)
    ]
    known, days = one_by_one(reports)
    at_once = after([], {}, reports)
    assert list(at_once.readings) == known
    assert dict(at_once.days) == days
    # R(t) of docs/readings.md, reckoned slowly.
    counted = sorted((row for row in known if row.quality == ReadingQuality.MEASURED), key=lambda row: row.read_at)
    slow: dict[date, int] = {}
    before = 0
    for row in counted:
        assert row.counted_ml is not None
        day = service_day(row.read_at, ZONE)
        slow[day] = slow.get(day, 0) + row.counted_ml - before
        before = row.counted_ml
    assert {day: use.volume_ml for day, use in days.items()} == slow
