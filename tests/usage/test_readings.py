"""Readings in any order come to the same days and the same charges; what cannot be is held, and billed to nobody."""

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from standpipe.billing.series import SeriesRequest, UsageInterval, series_of_many
from standpipe.ledger.models import Entry
from standpipe.platform.database import Sessions
from standpipe.platform.units import day_span, local_midnight, period_of, service_day
from standpipe.readings.models import Reading
from standpipe.tariffs.pricing import cost_minor, table_of
from tests.support.lengths import rounds
from tests.support.town import BLOCKS
from tests.support.water import LATER, START, meter, state, take


def slow_state(readings: dict[datetime, int], zone: ZoneInfo) -> dict[str, Any]:
    """The obviously right way: walk the register in order of time and put each step on the day that it closed."""
    days: dict[date, int] = {}
    last = 0
    for at in sorted(readings):
        day = service_day(at, zone)
        days[day] = days.get(day, 0) + readings[at] - last
        last = readings[at]
    periods: dict[date, int] = {}
    for day, volume in days.items():
        periods[period_of(day)[0]] = periods.get(period_of(day)[0], 0) + volume
    charges = {start: cost_minor(table_of(BLOCKS), volume) for start, volume in periods.items()}
    return {
        "days": {day: volume for day, volume in days.items() if volume},
        "charges": {start: charge for start, charge in charges.items() if charge},
        "wallet": -sum(charges.values()),
    }


steps = st.lists(st.tuples(st.integers(1, 30 * 24), st.integers(0, 2_000_000)), min_size=1, max_size=14)


@given(steps, st.randoms(use_true_random=False), st.integers(1, 6))
@settings(max_examples=rounds(10, 30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_t4_late_duplicated_and_shuffled_readings_come_to_the_same(
    sessions: Sessions, moves: list[tuple[int, int]], chance: Any, size: int
) -> None:
    home, _ = await meter(sessions)
    readings: dict[datetime, int] = {}
    register = 0
    for hour in sorted({hour for hour, _ in moves}):
        register += dict(moves)[hour]
        readings[START + timedelta(hours=hour)] = register
    shuffled = list(readings.items()) * 2
    chance.shuffle(shuffled)
    for at in range(0, len(shuffled), size):
        await take(sessions, home, shuffled[at : at + size])
    assert await state(sessions, home) == slow_state(readings, ZoneInfo("Africa/Nairobi"))
    async with sessions() as session:
        assert await session.scalar(text("SELECT coalesce(sum(amount_minor), 0) FROM ledger_entries")) == 0


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [("Europe/Paris", date(2026, 3, 29), 23), ("Europe/Paris", date(2026, 10, 25), 25),
     ("Pacific/Kiritimati", date(2026, 5, 1), 24), ("Pacific/Pago_Pago", date(2026, 5, 1), 24)],
)  # fmt: skip
async def test_t3_days_and_periods_follow_the_utilitys_zone(
    sessions: Sessions, zone: str, day: date, hours: int
) -> None:
    start = local_midnight(day - timedelta(days=1), ZoneInfo(zone))
    home, tariff_id = await meter(sessions, zone, start)
    span = day_span(day, ZoneInfo(zone))
    assert (span.end - span.start) == timedelta(hours=hours)
    # One litre before the day begins, a kilolitre within it (its last reading at midnight sharp), one litre after it.
    after = span.end + timedelta(hours=1)
    await take(
        sessions, home, [(span.start, 1_000), (span.end, 1_001_000), (after, 1_002_000)], after + timedelta(hours=1)
    )
    found = await state(sessions, home)
    assert found["days"] == {day - timedelta(days=1): 1_000, day: 1_000_000, day + timedelta(days=1): 1_000}
    request = SeriesRequest(home.meter_id, tariff_id, zone, day, day + timedelta(days=1), UsageInterval.HOUR)
    async with sessions() as session:
        buckets = (await series_of_many(session, [request], after + timedelta(days=3)))[request]
    assert len(buckets) == hours
    assert sum(bucket.volume_ml for bucket in buckets) == 1_000_000


async def test_t3_a_new_period_begins_at_local_midnight(sessions: Sessions) -> None:
    zone = ZoneInfo("Pacific/Kiritimati")
    edge = local_midnight(date(2026, 5, 1), zone)
    home, _ = await meter(sessions, str(zone), edge - timedelta(days=2))
    await take(sessions, home, [(edge, 10_000_000), (edge + timedelta(hours=12), 12_000_000)])
    charges = (await state(sessions, home))["charges"]
    # 10 kl at 5000 in April; May begins anew in the first block.
    assert charges == {date(2026, 4, 1): 50_000, date(2026, 5, 1): 10_000}


async def test_t4_a_correction_lowers_the_charge_and_both_postings_stay(sessions: Sessions) -> None:
    home, _ = await meter(sessions)
    april, may = START + timedelta(days=20), START + timedelta(days=50)
    await take(sessions, home, [(may, 12_000_000)])
    assert (await state(sessions, home))["wallet"] == -70_000
    # The late reading shows that ten of the twelve kilolitres ran in April, where they are cheaper.
    await take(sessions, home, [(april, 10_000_000)])
    found = await state(sessions, home)
    assert found["charges"] == {date(2026, 4, 1): 50_000, date(2026, 5, 1): 10_000}
    assert found["wallet"] == -60_000
    async with sessions() as session:
        postings = (await session.scalars(select(Entry.amount_minor).where(Entry.account_version.is_not(None)))).all()
    assert sorted(postings) == [-70_000, -50_000, 60_000]


@pytest.mark.parametrize(
    ("at", "register_ml", "reason"),
    [(START + timedelta(hours=10), 400_000, "BACKWARDS"), (START + timedelta(hours=4), 600_000, "BACKWARDS"),
     (START - timedelta(days=1), 1, "BACKWARDS"),
     (START + timedelta(hours=10), 900_000_000, "IMPLAUSIBLE_FLOW")],
)  # fmt: skip
async def test_t5_what_cannot_be_is_held_and_not_billed(
    sessions: Sessions, at: datetime, register_ml: int, reason: str
) -> None:
    home, _ = await meter(sessions)
    await take(sessions, home, [(START + timedelta(hours=5), 500_000)])
    before = await state(sessions, home)
    await take(sessions, home, [(at, register_ml)])
    assert await state(sessions, home) == before
    async with sessions() as session:
        held = (await session.scalars(select(Reading).where(Reading.quality == "HELD"))).one()
    assert (held.register_ml, held.reason, held.counted_ml) == (register_ml, reason, None)
    # The meter goes on as if nothing had been.
    await take(sessions, home, [(START + timedelta(hours=11), 600_000)])
    assert sum((await state(sessions, home))["days"].values()) == 600_000


async def test_a_spike_and_a_gap_are_flagged_and_charged(sessions: Sessions) -> None:
    home, _ = await meter(sessions)
    days = [(START + timedelta(days=number), 300_000 * number) for number in range(1, 11)]
    now = days[-1][0] + timedelta(hours=13)
    burst, later = days[-1][0] + timedelta(hours=12), days[-1][0] + timedelta(days=3)
    await take(sessions, home, days, now)
    await take(sessions, home, [(burst, 300_000 * 10 + 2_500_000)], now)
    await take(sessions, home, [(later, 300_000 * 10 + 2_600_000)], later)
    async with sessions() as session:
        rows = (
            await session.scalars(select(Reading).where(Reading.reason.is_not(None)).order_by(Reading.read_at))
        ).all()
    assert [(row.read_at, row.reason, row.quality) for row in rows] == [
        (burst, "SPIKE", "MEASURED"), (later, "GAP", "MEASURED"),
    ]  # fmt: skip
    assert sum((await state(sessions, home))["days"].values()) == 5_600_000


async def test_buckets_of_a_period_sum_to_its_charge(sessions: Sessions) -> None:
    home, tariff_id = await meter(sessions)
    readings = [(START + timedelta(hours=number), number * 21_337) for number in range(1, 24 * 40)]
    await take(sessions, home, readings)
    charges = (await state(sessions, home))["charges"]
    april = date(2026, 4, 1)
    async with sessions() as session:
        for interval in UsageInterval:
            request = SeriesRequest(home.meter_id, tariff_id, "Africa/Nairobi", april, date(2026, 5, 1), interval)
            buckets = (await series_of_many(session, [request], LATER))[request]
            assert sum(bucket.cost_minor for bucket in buckets) == charges[april], interval
