"""A meter's report, taken in: readings stored once, roll-ups kept, the period charged by difference.

R(t) is the register's last counted reading at or before t (the meter's first register before any). A day's volume is
R(its end) − R(its start), a period's the sum of its days; so consumption over a gap counts on the day whose reading
ended the gap, and a late reading that fills the gap moves it to where it belongs, by itself.
"""

import itertools
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.meters.reports import RegisterReading
from standpipe.outbox.facts import UsageRecorded, publish
from standpipe.platform.units import service_day
from standpipe.readings.models import RawReport
from standpipe.usage.charges import accrue_standing, charge_periods
from standpipe.usage.models import COUNTED, DailyUsage, Reading, ReadingQuality, StorageHorizon
from standpipe.usage.register import newest
from standpipe.usage.rollups import roll_up
from standpipe.usage.validation import (
    FLOW_SLACK_ML,
    MAX_CLOCK_LEAD,
    Candidate,
    Counted,
    Reason,
    Surroundings,
    Verdict,
    is_large,
    judge,
)

HABIT_DAYS = 28
READINGS = "readings"
"""The name of readings among the storage horizons."""
STANDING = or_(Reading.quality.in_(COUNTED), Reading.counted_ml.is_not(None))
"""Readings that stand somewhere: those that count, and those that are left out for air, from which others go on."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """A reading and what became of it."""

    candidate: Candidate
    claimed_at: datetime | None
    verdict: Verdict


async def judge_raw(session: AsyncSession, meter: Meter, now: datetime) -> None:
    """Judge what a locked meter's reports have brought, one report after the other, and charge what follows."""
    rows = await session.scalars(
        delete(RawReport)
        .where(RawReport.meter_id == meter.id)
        .returning(RawReport)
        .execution_options(synchronize_session=False)
    )
    for row in sorted(rows, key=lambda row: row.arrival):
        air = row.empty_pipe or [False] * len(row.read_at)
        readings = [RegisterReading(*told) for told in zip(row.read_at, row.register_ml, air, strict=True)]
        clock_wrong = row.clock_wrong or (
            row.stated_at is not None and await _is_overtaken(session, meter, row.stated_at, row.received_at)
        )
        await _store(session, meter, readings, row.received_at, now, clock_wrong=clock_wrong)


async def _is_overtaken(session: AsyncSession, meter: Meter, stated_at: datetime, now: datetime) -> bool:
    """Whether readings were kept by their arrival since: the clock was set between two statements of one contact.

    The later one, told in whole seconds, would stand before what came before it.
    """
    found = await session.scalar(
        select(Reading.read_at)
        .where(
            Reading.meter_id == meter.id,
            Reading.read_at > stated_at,
            Reading.read_at <= now,
            Reading.claimed_at.is_not(None),
        )
        .limit(1)
    )
    return found is not None


async def _store(
    session: AsyncSession,
    meter: Meter,
    readings: Sequence[RegisterReading],
    received_at: datetime,
    now: datetime,
    *,
    clock_wrong: bool,
) -> None:
    fresh = await _only_new(session, meter, readings, received_at, clock_wrong=clock_wrong)
    if not fresh:
        return
    judged, days = await judge_in_order(session, meter, fresh, now)
    rows = [
        {
            "meter_id": meter.id,
            "read_at": item.candidate.read_at,
            "register_ml": item.candidate.register_ml,
            "quality": item.verdict.quality,
            "reason": item.verdict.reason,
            "received_at": received_at,
            "counted_ml": item.verdict.counted_ml,
            "claimed_at": item.claimed_at,
        }
        for item in judged
    ]
    await session.execute(insert(Reading).on_conflict_do_nothing(), rows)
    held = [item for item in judged if not item.verdict.counts]
    if held:
        _log.warning("readings held", meter_id=meter.id, count=len(held), reason=held[0].verdict.reason)
    if days:
        await apply_days(session, meter, days, now)


async def apply_days(session: AsyncSession, meter: Meter, days: Collection[date], now: datetime) -> None:
    """Readings of these service days have changed: roll up, charge, tell. The meter is locked."""
    await roll_up(session, meter, days)
    await charge_periods(session, meter, days, now)
    await accrue_standing(session, meter, now)
    await publish(session, UsageRecorded(meter.id))


async def _only_new(
    session: AsyncSession, meter: Meter, readings: Sequence[RegisterReading], now: datetime, *, clock_wrong: bool
) -> list[tuple[Candidate, datetime | None]]:
    """Those whose instant is not stored yet, in order of time; the first to come for an instant stands.

    Where the clock was wrong the instant that was told is kept beside that of the arrival, in the order of the telling.
    """
    by_time: dict[datetime, RegisterReading] = {}
    for reading in readings:
        by_time.setdefault(reading.read_at, reading)
    told = list(by_time)
    stored = await session.execute(
        select(func.coalesce(Reading.claimed_at, Reading.read_at), Reading.register_ml).where(
            Reading.meter_id == meter.id, or_(Reading.read_at.in_(told), Reading.claimed_at.in_(told))
        )
    )
    known = {read_at: register_ml for read_at, register_ml in stored}  # noqa: C416 - dict() does not take rows.
    for read_at, register_ml in known.items():
        if read_at in by_time and by_time[read_at].register_ml != register_ml:
            _log.warning("reading differs from the stored one", meter_id=meter.id, read_at=read_at.isoformat())
    fresh: list[tuple[Candidate, datetime | None]] = []
    for number, told_at in enumerate(at for at in sorted(by_time) if at not in known):
        reading = by_time[told_at]
        if clock_wrong or not meter.installed_at <= told_at <= now + MAX_CLOCK_LEAD:
            # By arrival: a microsecond apart, so that each has an instant of its own.
            arrived_at = now + timedelta(microseconds=number)
            candidate = Candidate(arrived_at, reading.register_ml, reading.empty_pipe, clock_wrong=True)
            fresh.append((candidate, told_at))
        else:
            fresh.append((Candidate(told_at, reading.register_ml, reading.empty_pipe), None))
    return sorted(fresh, key=lambda item: item[0].read_at)


async def judge_in_order(
    session: AsyncSession, meter: Meter, fresh: list[tuple[Candidate, datetime | None]], now: datetime
) -> tuple[list[Judged], set[date]]:
    """Decide which readings count, and which service days change by them.

    ``fresh``: readings that do not count yet, in order of time, each with the instant that a wrong clock claimed.
    """
    zone = ZoneInfo(meter.time_zone)
    counted = await neighbours(session, meter, fresh[0][0].read_at, fresh[-1][0].read_at)
    around = await _surroundings(session, meter, fresh, counted, now)
    jumps = _Jumps(await _held_jumps(session, meter, fresh, counted))
    judged: list[Judged] = []
    days: set[date] = set()
    below, index = counted[0], 1
    for candidate, claimed_at in fresh:
        while index < len(counted) and counted[index].read_at < candidate.read_at:
            below, index = counted[index], index + 1
        above = counted[index] if index < len(counted) else None
        verdict = judge(candidate, below, above, around, jumps.lowest_ml(below.read_at, candidate.read_at))
        judged.append(Judged(candidate, claimed_at, verdict))
        if verdict.counts:
            days.add(service_day(candidate.read_at, zone))
            if above is not None:
                days.add(service_day(above.read_at, zone))
        if verdict.counted_ml is not None:
            below = Counted(candidate.read_at, candidate.register_ml, verdict.counted_ml)
        elif verdict.reason is Reason.IMPLAUSIBLE_FLOW:
            jumps.add(candidate.read_at, candidate.register_ml)
    return judged, days


class _Jumps:
    """Readings that are held for a jump, looked through once, in order of time.

    Whoever stands upon one of them stands upon any lower one too, so a higher one before a lower is let go.
    """

    def __init__(self, held: Sequence[tuple[datetime, int]]) -> None:
        self._held = deque(held)
        self._open: deque[tuple[datetime, int]] = deque()

    def add(self, read_at: datetime, register_ml: int) -> None:
        """One more, the newest."""
        while self._open and self._open[-1][1] >= register_ml:
            self._open.pop()
        self._open.append((read_at, register_ml))

    def lowest_ml(self, after: datetime, before: datetime) -> int | None:
        """The lowest register of those between two instants, both of which only ever rise."""
        while self._held and self._held[0][0] < before:
            self.add(*self._held.popleft())
        while self._open and self._open[0][0] <= after:
            self._open.popleft()
        return self._open[0][1] if self._open else None


async def _held_jumps(
    session: AsyncSession, meter: Meter, fresh: list[tuple[Candidate, datetime | None]], counted: list[Counted]
) -> Sequence[tuple[datetime, int]]:
    """What is held for a jump around these readings; asked for only where one of them rises by as much."""
    lowest_ml = min(item.register_ml for item in counted)
    if all(item.register_ml - lowest_ml <= FLOW_SLACK_ML for item, _ in fresh):
        return []
    rows = await session.execute(
        select(Reading.read_at, Reading.register_ml)
        .where(
            Reading.meter_id == meter.id,
            Reading.quality == ReadingQuality.HELD,
            Reading.reason == Reason.IMPLAUSIBLE_FLOW,
            Reading.read_at > counted[0].read_at,
            Reading.read_at < fresh[-1][0].read_at,
        )
        .order_by(Reading.read_at)
    )
    return [(read_at, register_ml) for read_at, register_ml in rows]


async def _surroundings(
    session: AsyncSession,
    meter: Meter,
    fresh: list[tuple[Candidate, datetime | None]],
    counted: list[Counted],
    now: datetime,
) -> Surroundings:
    horizon = await session.scalar(select(StorageHorizon.before).where(StorageHorizon.what == READINGS))
    registers = [counted[0].register_ml, *(item.register_ml for item, _ in fresh)]
    usual_ml = None
    if any(is_large(after - before) for before, after in itertools.pairwise(registers)):
        since = (now - timedelta(days=HABIT_DAYS)).date()
        usual_ml = await session.scalar(
            select(func.max(DailyUsage.volume_ml)).where(DailyUsage.meter_id == meter.id, DailyUsage.day >= since)
        )
    return Surroundings(meter.register_max_ml, horizon, usual_ml or None)


async def neighbours(session: AsyncSession, meter: Meter, first: datetime, last: datetime) -> list[Counted]:
    """Readings that others go on from, around and between two instants: one before (or the meter's start), those
    within, one after.
    """
    shown_ml = func.coalesce(Reading.corrected_ml, Reading.register_ml)
    stands_ml = func.coalesce(Reading.counted_ml, Reading.register_ml)
    counted = select(Reading.read_at, shown_ml, stands_ml).where(Reading.meter_id == meter.id, STANDING)
    before = await newest(session, counted.where(Reading.read_at < first), first)
    within = (
        await session.execute(counted.where(Reading.read_at.between(first, last)).order_by(Reading.read_at))
    ).all()
    after = (await session.execute(counted.where(Reading.read_at > last).order_by(Reading.read_at).limit(1))).all()
    start = Counted(meter.installed_at, meter.initial_register_ml, meter.initial_register_ml)
    return [Counted(*before) if before else start, *(Counted(*row) for row in (*within, *after))]
