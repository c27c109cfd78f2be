"""A meter's report, taken in: readings stored once, roll-ups kept, the period charged by difference.

R(t) is the register's last counted reading at or before t (the meter's first register before any). A day's volume is
R(its end) − R(its start), a period's the sum of its days; so consumption over a gap counts on the day whose reading
ended the gap, and a late reading that fills the gap moves it to where it belongs, by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.db.notify import LIVE, notify
from standpipe.errors import InvalidInputError
from standpipe.meters import statements
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, MeterStatement, RegisterReading
from standpipe.outbox.facts import UsageRecorded, publish
from standpipe.units import service_day
from standpipe.usage.charges import charge_periods
from standpipe.usage.models import Reading, ReadingQuality
from standpipe.usage.rollups import roll_up

MAX_READINGS = 10_000
MAX_CLOCK_LEAD = timedelta(minutes=15)
MAX_FLOW_ML_PER_H = 20_000_000
"""20 m³/h: beyond the overload flow of a household meter (ISO 4064-1, Q4 for Q3 = 16 m³/h)."""
_FLOW_SLACK_ML = 1_000_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Judged:
    reading: RegisterReading
    quality: ReadingQuality
    reason: str | None


async def take_report(session: AsyncSession, report: MeterReport, now: datetime) -> None:
    """Store all that a report says and post what follows from it; hearing it again changes nothing.

    Raises NotFoundError for an unknown meter, InvalidInputError for a replayed statement or too many readings; the
    caller's transaction is then to be rolled back, and the report is refused whole.
    """
    if len(report.readings) > MAX_READINGS:
        raise InvalidInputError(f"A report may hold {MAX_READINGS} readings.")
    meter = await lock_meter(session, report.meter_id)
    state = await statements.touch(
        session, meter.id, seen_at=report.received_at, battery_percent=report.battery_percent
    )
    readings = list(report.readings)
    if report.statement is not None and await statements.apply(session, meter, state, report.statement, now):
        readings.append(_register_of(report.statement))
    if readings:
        await _store(session, meter, readings, now)
    await notify(session, LIVE, meter.id)


def _register_of(statement: MeterStatement) -> RegisterReading:
    """A statement's register. Its time has whole seconds; the report number puts several within one in order."""
    order = timedelta(microseconds=statement.report_counter % 1_000_000)
    return RegisterReading(statement.stated_at + order, statement.register_ml)


async def _store(session: AsyncSession, meter: Meter, readings: Sequence[RegisterReading], now: datetime) -> None:
    fresh = await _only_new(session, meter.id, readings)
    if not fresh:
        return
    judged, days = await _judge(session, meter, fresh, now)
    rows = [
        {
            "meter_id": meter.id,
            "read_at": item.reading.read_at,
            "register_ml": item.reading.register_ml,
            "quality": item.quality,
            "reason": item.reason,
            "received_at": now,
        }
        for item in judged
    ]
    await session.execute(insert(Reading).on_conflict_do_nothing(), rows)
    held = [item for item in judged if item.quality is ReadingQuality.HELD]
    if held:
        _log.warning("readings held", meter_id=meter.id, count=len(held), reason=held[0].reason)
    if days:
        await roll_up(session, meter, days)
        await charge_periods(session, meter, days, now)
        await publish(session, UsageRecorded(meter.id))


async def _only_new(session: AsyncSession, meter_id: str, readings: Sequence[RegisterReading]) -> list[RegisterReading]:
    """Those whose instant is not stored yet, in order of time; the first to come for an instant stands."""
    by_time: dict[datetime, RegisterReading] = {}
    for reading in readings:
        by_time.setdefault(reading.read_at, reading)
    stored = await session.execute(
        select(Reading.read_at, Reading.register_ml).where(
            Reading.meter_id == meter_id, Reading.read_at.in_(list(by_time))
        )
    )
    known = {read_at: register_ml for read_at, register_ml in stored}  # noqa: C416 - dict() does not take rows.
    for read_at, register_ml in known.items():
        if by_time[read_at].register_ml != register_ml:
            _log.warning("reading differs from the stored one", meter_id=meter_id, read_at=read_at.isoformat())
    return [by_time[read_at] for read_at in sorted(by_time) if read_at not in known]


async def _judge(
    session: AsyncSession, meter: Meter, fresh: list[RegisterReading], now: datetime
) -> tuple[list[_Judged], set[date]]:
    """Decide which readings count, and which service days change by them."""
    zone = ZoneInfo(meter.time_zone)
    counted = await _neighbours(session, meter, fresh[0].read_at, fresh[-1].read_at)
    judged: list[_Judged] = []
    days: set[date] = set()
    below, index = counted[0], 1
    for reading in fresh:
        while index < len(counted) and counted[index].read_at < reading.read_at:
            below, index = counted[index], index + 1
        above = counted[index] if index < len(counted) else None
        reason = _why_held(meter, reading, below, above, now)
        judged.append(_Judged(reading, ReadingQuality.HELD if reason else ReadingQuality.MEASURED, reason))
        if reason is None:
            days.add(service_day(reading.read_at, zone))
            if above is not None:
                days.add(service_day(above.read_at, zone))
            below = reading
    return judged, days


def _why_held(
    meter: Meter,
    reading: RegisterReading,
    below: RegisterReading,
    above: RegisterReading | None,
    now: datetime,
) -> str | None:
    if reading.read_at > now + MAX_CLOCK_LEAD:
        return "FUTURE"
    if reading.read_at < meter.installed_at:
        return "BEFORE_INSTALLATION"
    if reading.register_ml < below.register_ml or (above is not None and reading.register_ml > above.register_ml):
        return "BACKWARDS"
    hours = (reading.read_at - below.read_at) / timedelta(hours=1)
    if reading.register_ml - below.register_ml > hours * MAX_FLOW_ML_PER_H + _FLOW_SLACK_ML:
        return "IMPLAUSIBLE_FLOW"
    return None


async def _neighbours(session: AsyncSession, meter: Meter, first: datetime, last: datetime) -> list[RegisterReading]:
    """Counted readings around and between two instants: one before (or the meter's start), those within, one after."""
    counted = select(Reading.read_at, Reading.register_ml).where(
        Reading.meter_id == meter.id, Reading.quality == ReadingQuality.MEASURED
    )
    before = (
        await session.execute(counted.where(Reading.read_at < first).order_by(Reading.read_at.desc()).limit(1))
    ).all()
    within = (
        await session.execute(counted.where(Reading.read_at.between(first, last)).order_by(Reading.read_at))
    ).all()
    after = (await session.execute(counted.where(Reading.read_at > last).order_by(Reading.read_at).limit(1))).all()
    start = [RegisterReading(meter.installed_at, meter.initial_register_ml)]
    return ([RegisterReading(*row) for row in before] or start) + [RegisterReading(*row) for row in (*within, *after)]
