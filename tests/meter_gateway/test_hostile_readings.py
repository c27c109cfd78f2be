"""Readings that are not to be believed, over real UDP: air in the pipe, and clocks that are wrong."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select

from standpipe.meters.models import Meter
from standpipe.platform.clock import Clock
from standpipe.platform.units import service_day
from standpipe.readings.models import DailyUsage, Reading
from standpipe_demo.simulator.meter_device import SimulatedMeter
from tests.support.radio import Field, make_meter
from tests.support.rating import rate_due
from tests.support.town import until

pytestmark = pytest.mark.calendar

HOUR = timedelta(hours=1)
ZONE = ZoneInfo("Africa/Nairobi")


async def readings(field: Field) -> list[Reading]:
    await rate_due(field.sessions, field.settings.clock)
    async with field.sessions() as session:
        return list((await session.scalars(select(Reading).order_by(Reading.read_at))).all())


async def charged_ml(field: Field) -> int:
    await rate_due(field.sessions, field.settings.clock)
    async with field.sessions() as session:
        return int(await session.scalar(select(func.coalesce(func.sum(DailyUsage.volume_ml), 0))) or 0)


async def wake(field: Field) -> None:
    """Wakings until the meter's status report has come too."""
    before = field.meter.state.report_counter

    async def stated() -> bool:
        await field.meter.wake()
        state = await field.state()
        return state is not None and state.report_counter > before

    await until(stated, timeout_s=60)


def another(field: Field, folder: Path, **more: Any) -> SimulatedMeter:
    """A meter in the place of the field's, with the same key."""
    return make_meter(field.settings, field.home, folder, dtls_key_hex=field.meter.config.dtls_key_hex, **more)


@pytest.fixture
def running(field: Field) -> Field:
    """The meter has credit, so that water runs."""
    field.meter = another(field, field.folder, credit_remaining=10**6)
    return field


async def test_t8_an_empty_pipe_with_flow_is_held_and_billed_to_nobody(running: Field) -> None:
    field = running
    field.meter.run_dry(3_000_000, ago=2.5 * HOUR)
    await wake(field)
    rows = await readings(field)
    held = [row for row in rows if row.quality == "HELD"]
    # Two or three full hours since then, and the statement of this contact.
    assert len(held) >= 3
    assert {row.reason for row in held} == {"EMPTY_PIPE"}
    # A waking that was repeated has added no air, and counts; what came before the air does too.
    counted = [row for row in rows if row.quality == "MEASURED" and row.read_at < held[0].read_at]
    assert {row.counted_ml for row in rows if row not in counted} == {counted[-1].register_ml}
    assert await charged_ml(field) == counted[-1].register_ml
    # Water is back: from here on it counts again, and the air stays out of it.
    field.meter.fill_again()
    await wake(field)
    last = (await readings(field))[-1]
    assert (last.quality, last.register_ml >= held[-1].register_ml) == ("MEASURED", True)
    assert await charged_ml(field) == counted[-1].register_ml + last.register_ml - held[-1].register_ml
    assert await charged_ml(field) < 1_000_000


async def test_t8_an_empty_pipe_without_flow_is_an_alarm_and_no_more(running: Field) -> None:
    field = running
    field.meter = another(field, field.folder, credit_remaining=0)
    field.meter.run_dry(0, ago=2 * HOUR)
    await wake(field)
    assert {row.quality for row in await readings(field)} == {"MEASURED"}


@pytest.mark.parametrize("days", [1, 365, -365], ids=["a day ahead", "a year ahead", "a year behind"])
async def test_t9_a_wrong_clock_s_readings_count_on_the_day_they_come(running: Field, days: int) -> None:
    field = running
    wrong = datetime.now(UTC) + timedelta(days=days)
    started = (wrong - 5 * HOUR).replace(minute=0, second=0, microsecond=0)
    field.meter = clockwork(field, wrong, started_at=started.isoformat(), credit_remaining=10**6)
    await wake(field)
    now = datetime.now(UTC)
    rows = await readings(field)
    assert len(rows) >= 6
    assert {(row.quality, row.reason) for row in rows} == {("MEASURED", "CLOCK_WRONG")}
    for row in rows:
        assert abs(row.read_at - now) < timedelta(minutes=5)
        assert row.claimed_at is not None
        assert abs(row.claimed_at - wrong) < 6 * HOUR
    # In the order in which the meter told them; and all that ran is charged, on the day of arrival.
    assert [row.claimed_at for row in rows] == sorted(row.claimed_at for row in rows if row.claimed_at)
    async with field.sessions() as session:
        [day] = (await session.scalars(select(DailyUsage))).all()
    assert (day.day, day.volume_ml) == (service_day(now, ZONE), rows[-1].register_ml)


async def test_t9_a_clock_that_is_a_day_behind_is_believed_once_and_no_more(running: Field) -> None:
    """Its kept hours look like late ones until its statement has come; from then on they are taken by arrival."""
    field = running
    async with field.sessions.begin() as session:
        (await session.get_one(Meter, field.home.meter_id)).installed_at -= timedelta(days=5)
    wrong = datetime.now(UTC) - timedelta(days=1)
    started = (wrong - 5 * HOUR).replace(minute=0, second=0, microsecond=0)
    field.meter = clockwork(field, wrong, started_at=started.isoformat(), credit_remaining=10**6)
    await wake(field)
    rows = await readings(field)
    assert (rows[-1].reason, rows[-1].claimed_at is not None) == ("CLOCK_WRONG", True)
    kept = [row for row in rows if row.claimed_at is None]
    assert len(kept) >= 5
    assert {row.reason for row in kept} <= {None, "GAP"}
    field.meter._clock = Clock(1.0, time.time(), wrong + 2 * HOUR)
    await wake(field)
    later = [row for row in await readings(field) if wrong < (row.claimed_at or row.read_at) < wrong + 3 * HOUR]
    hours = [row for row in later if (row.claimed_at or row.read_at).minute == 0]
    assert len(hours) >= 2
    assert {row.reason for row in hours} == {"CLOCK_WRONG"}
    assert {service_day(row.read_at, ZONE) for row in hours} == {service_day(datetime.now(UTC), ZONE)}


async def test_t9_told_again_a_wrong_instant_is_the_same_reading(running: Field) -> None:
    field = running
    wrong = datetime.now(UTC) + timedelta(days=1)
    started = (wrong - 5 * HOUR).replace(minute=0, second=0, microsecond=0)
    field.meter = clockwork(field, wrong, started_at=started.isoformat(), credit_remaining=10**6)
    field.meter.run_dry(0)
    kept = list(field.meter.state.unsent)
    await wake(field)
    before = await told(field, kept)
    assert len(before) == len(kept) >= 5
    field.meter.state.unsent = list(kept)
    await wake(field)
    assert await told(field, kept) == before


async def test_t9_a_clock_that_is_set_in_the_contact_that_found_it_wrong_holds_no_reading(running: Field) -> None:
    field = running
    field.meter.state.clock_error_s = 86_400.0
    await wake(field)
    rows = await readings(field)
    assert {row.quality for row in rows} == {"MEASURED"}
    assert rows[0].reason == "CLOCK_WRONG"
    assert ("CLOCK", "CONFIRMED") in await field.statuses()

    async def in_another_second() -> bool:
        return datetime.now(UTC) - (await readings(field))[-1].read_at > timedelta(seconds=1)

    async def reads_right() -> bool:
        await until(in_another_second)
        await wake(field)
        last = (await readings(field))[-1]
        return (last.quality, last.reason) == ("MEASURED", None)

    # A statement within the second of one that was kept by its arrival is kept by its own: none stands before it.
    await until(reads_right, timeout_s=60)
    assert {row.quality for row in await readings(field)} == {"MEASURED"}


async def told(field: Field, kept: list[tuple[int, int]]) -> list[tuple[datetime, datetime | None]]:
    """Where these kept hours are stored, and when they were said to be."""
    instants = {datetime.fromtimestamp(time_s, UTC) for time_s, _ in kept}
    return [(row.read_at, row.claimed_at) for row in await readings(field) if row.claimed_at in instants]


def clockwork(field: Field, shows: datetime, **more: object):  # type: ignore[no-untyped-def]
    """A meter whose clock shows something else than the time, and that nobody can set."""
    meter = another(field, field.folder / str(shows), **more)
    meter._clock, meter.cannot = Clock(1.0, time.time(), shows), {"clock"}
    return meter
