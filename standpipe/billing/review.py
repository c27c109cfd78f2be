"""Readings before a person (the V and E of VEE): what is held, and what an operator says of it.

A decision changes one reading; whatever stood upon it then finds its place anew, the days and months are rolled up
again, and the charges follow by difference. What the meter said stays as it said it (``register_ml``), and nothing is
estimated. Every decision is undone by another one, and leaves its line in the audit trail.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from standpipe.billing.rounds import rate_now
from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.meters.reports import RegisterReading
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.notify import LIVE, notify
from standpipe.platform.units import service_day
from standpipe.readings.judging import Register, StoredReading, judge_again
from standpipe.readings.models import COUNTED, Reading, ReadingQuality, StorageHorizon
from standpipe.readings.neighbours import READINGS, STANDING, neighbours
from standpipe.readings.raw import RawReadings
from standpipe.readings.rollups import clear, roll_up
from standpipe.readings.surroundings import Wanted, horizon_of, load_surroundings
from standpipe.readings.validation import (
    AcceptedReading,
    NewReading,
    Reason,
    ValidationContext,
    is_possible,
    register_position,
    validate,
)
from standpipe.utilities.operators import record

MAX_LISTED = 500
MAX_REGISTER_ML = 10**15
_AT_ONCE = 500
_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class HeldReading:
    """A reading that waits for a person; ``before_ml``: the register of the last one before it that counts."""

    meter_id: str
    serial: str
    read_at: datetime
    claimed_at: datetime | None
    register_ml: int
    before_ml: int
    reason: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """Effect of a decision: how much more (below zero: less) is charged, how many readings it made count, and how many
    of the meter are still held.
    """

    charged_minor: int
    currency: str
    counted: int
    still_held: int


async def held_readings(
    session: AsyncSession, *, serial: str | None = None, received_before: datetime | None = None
) -> list[HeldReading]:
    """The oldest MAX_LISTED readings that are held, of one meter or of all."""
    held, other = aliased(Reading), aliased(Reading)
    earlier = (
        select(func.coalesce(other.corrected_ml, other.register_ml))
        .where(other.meter_id == held.meter_id, other.read_at < held.read_at, other.quality.in_(COUNTED))
        .order_by(other.read_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        select(
            *(Meter.id, Meter.serial, held.read_at, held.claimed_at, held.register_ml),
            *(func.coalesce(earlier, Meter.initial_register_ml), held.reason, held.received_at),
        )
        .join(Meter, Meter.id == held.meter_id)
        .where(held.quality == ReadingQuality.HELD)
        .order_by(held.received_at, Meter.serial, held.read_at)
        .limit(MAX_LISTED)
    )
    if serial is not None:
        query = query.where(Meter.serial == serial)
    if received_before is not None:
        query = query.where(held.received_at < received_before)
    return [HeldReading(*row) for row in await session.execute(query)]


async def release(
    session: AsyncSession, *, operator: str, meter_id: str, read_at: datetime, note: str, now: datetime
) -> Outcome:
    """The reading counts after all, as the meter said it: one that was held, rejected or corrected.

    Raises NotFoundError, and InvalidInputError for one that counts already or stands nowhere between its neighbours.
    """
    meter = await _locked(session, meter_id, read_at)
    reading = await _reading(session, meter, read_at)
    if reading.quality == ReadingQuality.MEASURED:
        raise InvalidInputError("This reading counts already.")
    if reading.reason == Reason.SWAPPED:
        raise InvalidInputError("This is a swap; enter it anew.")
    was = _said(reading)
    counted_ml = await _placed(session, meter, reading.register_ml, read_at, alone=_is_air(reading))
    reading.quality, reading.reason = ReadingQuality.MEASURED, Reason.RELEASED
    reading.counted_ml, reading.corrected_ml = counted_ml, None
    return await _finish(session, meter, reading, "reading.release", operator, note, was, now)


async def reject(
    session: AsyncSession, *, operator: str, meter_id: str, read_at: datetime, note: str, now: datetime
) -> Outcome:
    """The reading stands for nothing, whether it was held or counted; a swap that was none is rejected as well.

    One that was held for air stays where it is: the air is never billed, and the register goes on from it.
    Raises NotFoundError, and InvalidInputError for one that is rejected already, or that later decisions stand upon.
    """
    meter = await lock_meter(session, meter_id)
    reading = await _reading(session, meter, read_at)
    # One that was held as it came is part of nothing: it can be put away also where its neighbours are gone.
    if reading.quality != ReadingQuality.HELD or reading.counted_ml is not None:
        await _locked(session, meter_id, read_at)
    if reading.quality == ReadingQuality.REJECTED:
        raise InvalidInputError("This reading is rejected already.")
    was = _said(reading)
    if reading.quality != ReadingQuality.HELD:
        reading.counted_ml = None
    reading.quality = ReadingQuality.REJECTED
    return await _finish(session, meter, reading, "reading.reject", operator, note, was, now)


async def correct(
    session: AsyncSession,
    *,
    operator: str,
    meter_id: str,
    read_at: datetime,
    register_ml: int,
    note: str,
    now: datetime,
) -> Outcome:
    """The register stood at ``register_ml`` then, whatever the meter said; later readings go on from there.

    Raises NotFoundError, and InvalidInputError for a value that stands nowhere between its neighbours.
    """
    meter = await _locked(session, meter_id, read_at)
    reading = await _reading(session, meter, read_at)
    if reading.reason == Reason.SWAPPED:
        raise InvalidInputError("This is a swap; reject it and enter it anew.")
    was = _said(reading)
    reading.counted_ml = await _placed(session, meter, register_ml, read_at, alone=_is_air(reading))
    reading.quality, reading.corrected_ml = ReadingQuality.CORRECTED, register_ml
    return await _finish(session, meter, reading, "reading.correct", operator, note, was, now)


async def swap_register(
    session: AsyncSession,
    *,
    operator: str,
    meter_id: str,
    at: datetime,
    final_ml: int,
    start_ml: int,
    note: str,
    now: datetime,
) -> Outcome:
    """The register was changed or set back: the old one ended at ``final_ml``, from ``at`` on it goes by ``start_ml``.

    What counts in the meter's life goes on rising. Readings before ``at`` are the old register's, however late they
    come; those after it are the new one's, and those that counted already are judged anew as such. Air that has run
    through is left out in the same way: from 505 to 500.
    Raises InvalidInputError where the old register had shown more than its final value by then.
    """
    if at > now:
        raise InvalidInputError("This instant is still to come.")
    meter = await _locked(session, meter_id, at)
    _check_register(meter, start_ml)
    while (
        await session.scalar(select(Reading.arrival).where(Reading.meter_id == meter.id, Reading.read_at == at))
        is not None
    ):
        # Readings come at the full hour, and so does the fitter's note.
        at += _INSTANT
    counted_ml = await _placed(session, meter, final_ml, at, alone=True)
    swap = Reading(
        meter_id=meter.id,
        read_at=at,
        register_ml=final_ml,
        quality=ReadingQuality.CORRECTED,
        reason=Reason.SWAPPED,
        received_at=now,
        counted_ml=counted_ml,
        corrected_ml=start_ml,
        claimed_at=None,
    )
    session.add(swap)
    return await _finish(session, meter, swap, "reading.swap", operator, note, None, now)


async def rejudge(session: AsyncSession, *, operator: str, meter_id: str, now: datetime) -> Outcome:
    """Look again at all readings of a meter that are held: those that were held because of others may count now.

    Raises NotFoundError.
    """
    meter = await lock_meter(session, meter_id)
    rows = await session.scalars(
        select(Reading)
        .where(
            Reading.meter_id == meter.id,
            Reading.quality == ReadingQuality.HELD,
            # Air that others go on from already waits for a person, not for other readings.
            Reading.counted_ml.is_(None),
        )
        .order_by(Reading.read_at)
        .execution_options(populate_existing=True)
    )
    held = list(rows)
    before_minor = await wallet_balance_minor(session, meter.id, meter.currency)
    counted = 0
    if held:
        counted = await _judge_again(session, meter, held, now)
    await record(session, operator=operator, action="reading.rejudge", subject_id=meter.id, detail={"counted": counted})
    return await _outcome(session, meter, before_minor, counted)


async def _judge_again(session: AsyncSession, meter: Meter, held: Sequence[Reading], now: datetime) -> int:
    register = Register(meter.installed_at, meter.initial_register_ml, meter.register_max_ml, ZoneInfo(meter.time_zone))
    told = RawReadings(meter.id, now, tuple(RegisterReading(row.read_at, row.register_ml) for row in held))
    conn = await session.connection()
    found = await load_surroundings(conn, {meter.id: Wanted(register, [told])}, now, await horizon_of(conn))
    keys = {(row.read_at, row.arrival): row for row in held}
    around = found[meter.id]
    others = [one for one in around.readings if (one.read_at, one.arrival) not in keys]
    judged = judge_again(register, replace(around, readings=others), [_stored(row) for row in held], now)
    counted = 0
    for one in judged.readings:
        row = keys[one.read_at, one.arrival]
        row.counted_ml = one.counted_ml
        if one.counts:
            row.quality, row.reason = one.quality, one.reason
            counted += 1
    await session.flush()
    if counted:
        await _apply(session, meter, set(judged.days), now)
    return counted


def _stored(row: Reading) -> StoredReading:
    return StoredReading(
        row.read_at,
        row.arrival,
        row.register_ml,
        ReadingQuality(row.quality),
        row.reason,
        row.received_at,
        row.counted_ml,
        row.corrected_ml,
        row.claimed_at,
    )


def _candidate(row: Reading) -> NewReading:
    return NewReading(
        row.read_at,
        row.register_ml,
        empty_pipe=row.reason == Reason.EMPTY_PIPE,
        clock_wrong=row.claimed_at is not None,
    )


async def _locked(session: AsyncSession, meter_id: str, at: datetime) -> Meter:
    meter = await lock_meter(session, meter_id)
    if at < meter.installed_at or await _is_past_keeping(session, at):
        raise InvalidInputError("At that time there are no readings any more, or were none yet: it stays as it is.")
    return meter


async def _is_past_keeping(session: AsyncSession, at: datetime) -> bool:
    horizon = await session.scalar(select(StorageHorizon.before).where(StorageHorizon.what == READINGS))
    return horizon is not None and at < horizon


async def _reading(session: AsyncSession, meter: Meter, read_at: datetime) -> Reading:
    rows = await session.scalars(
        select(Reading)
        .where(Reading.meter_id == meter.id, Reading.read_at == read_at)
        .order_by(Reading.quality.in_(COUNTED).desc(), Reading.arrival)
        .execution_options(populate_existing=True)
    )
    found = rows.first()
    if found is None:
        raise NotFoundError(f"{meter.serial} has no reading at {read_at.isoformat()}.")
    return found


def _is_air(reading: Reading) -> bool:
    """Tell whether what follows this reading was placed without its volume, and will be placed anew with it."""
    return reading.quality not in COUNTED and reading.counted_ml is not None


def _check_register(meter: Meter, register_ml: int) -> None:
    limit_ml = meter.register_max_ml or MAX_REGISTER_ML
    if not 0 <= register_ml < limit_ml:
        raise InvalidInputError("No register of this meter can show that.")


async def _placed(session: AsyncSession, meter: Meter, register_ml: int, at: datetime, *, alone: bool = False) -> int:
    """Place a register value at an instant. ``alone``: whatever was placed after it will be placed anew."""
    _check_register(meter, register_ml)
    below, *others = await neighbours(session, meter, at, at)
    above = next((item for item in others if item.read_at > at), None)
    counted_ml = _stand_ml(register_ml, at, below, None if alone else above, meter)
    if counted_ml is None:
        beside = " and ".join(
            f"{item.register_ml / 10**6:.3f} m³ at {item.read_at.isoformat()}" for item in (below, above) if item
        )
        raise InvalidInputError(f"It does not go with its neighbours, {beside}. Look at those first.")
    return counted_ml


def _stand_ml(
    register_ml: int, at: datetime, below: AcceptedReading, above: AcceptedReading | None, meter: Meter
) -> int | None:
    """Place a person's value, in ml; over the register's top only where so much can have run."""
    counted_ml, rolled = register_position(register_ml, below, above, meter.register_max_ml)
    if counted_ml is None or (rolled and not is_possible(counted_ml - below.counted_ml, at - below.read_at)):
        return None
    return counted_ml


async def _finish(
    session: AsyncSession,
    meter: Meter,
    reading: Reading,
    action: str,
    operator: str,
    note: str,
    was: dict[str, Any] | None,
    now: datetime,
) -> Outcome:
    """A decision has been made on one reading: everything else follows."""
    if not note.strip():
        raise InvalidInputError("Say why; it is kept.", ("note",))
    before_minor = await wallet_balance_minor(session, meter.id, meter.currency)
    await session.flush()
    if not await _is_past_keeping(session, reading.read_at):
        days = {service_day(reading.read_at, ZoneInfo(meter.time_zone))}
        days |= await _settle_after(session, meter, reading.read_at)
        await _apply(session, meter, days, now)
    outcome = await _outcome(session, meter, before_minor, int(reading.quality in COUNTED))
    detail: dict[str, Any] = {"serial": meter.serial, "read_at": reading.read_at.isoformat(), "note": note, "was": was}
    detail |= {"is": _said(reading), "charged_minor": outcome.charged_minor}
    await record(session, operator=operator, action=action, subject_id=meter.id, detail=detail)
    return outcome


def _said(reading: Reading) -> dict[str, Any]:
    return {
        "quality": str(reading.quality),
        "reason": reading.reason,
        "register_ml": reading.register_ml,
        "corrected_ml": reading.corrected_ml,
        "counted_ml": reading.counted_ml,
    }


async def _apply(session: AsyncSession, meter: Meter, days: set[date], now: datetime) -> None:
    await session.flush()
    await clear(session, meter, days)
    await roll_up(session, meter, days)
    await rate_now(await session.connection(), meter.id, now, changed_days=frozenset(days))
    await session.refresh(meter)
    await notify(session, LIVE, meter.id)


async def _outcome(session: AsyncSession, meter: Meter, before_minor: int, counted: int) -> Outcome:
    after_minor = await wallet_balance_minor(session, meter.id, meter.currency)
    held = await session.scalar(
        select(func.count())
        .select_from(Reading)
        .where(Reading.meter_id == meter.id, Reading.quality == ReadingQuality.HELD)
    )
    return Outcome(before_minor - after_minor, meter.currency, counted, held or 0)


async def _settle_after(session: AsyncSession, meter: Meter, since: datetime) -> set[date]:
    """Readings after ``since`` find their places anew, up to the first that stands where it stood.

    Returns the service days that change, the one of the next reading always: what ran before it is another volume now.
    """
    zone = ZoneInfo(meter.time_zone)
    below = (await neighbours(session, meter, since + _INSTANT, since + _INSTANT))[0]
    days: set[date] = set()
    while rows := await _standing_after(session, meter, since):
        for row in rows:
            if row.quality in COUNTED:
                days.add(service_day(row.read_at, zone))
            before = (row.quality, _stands_ml(row))
            _place_anew(row, below, meter)
            if (row.quality, _stands_ml(row)) == before and row.quality in COUNTED:
                return days
            if row.quality in COUNTED or row.counted_ml is not None:
                below = AcceptedReading(row.read_at, _shown_ml(row), _stands_ml(row))
        since = rows[-1].read_at
        await session.flush()
    return days


async def _standing_after(session: AsyncSession, meter: Meter, since: datetime) -> Sequence[Reading]:
    rows = await session.scalars(
        select(Reading)
        .where(Reading.meter_id == meter.id, Reading.read_at > since, STANDING)
        .order_by(Reading.read_at)
        .limit(_AT_ONCE)
        .execution_options(populate_existing=True)
    )
    return rows.all()


def _shown_ml(row: Reading) -> int:
    return row.register_ml if row.corrected_ml is None else row.corrected_ml


def _stands_ml(row: Reading) -> int:
    return row.register_ml if row.counted_ml is None else row.counted_ml


def _place_anew(row: Reading, below: AcceptedReading, meter: Meter) -> None:
    """Judge a reading that stood somewhere by what is below it now; what a person said stands, or is in the way."""
    if row.quality == ReadingQuality.CORRECTED:
        register_ml = row.register_ml if row.reason == Reason.SWAPPED else _shown_ml(row)
        row.counted_ml = _stand_ml(register_ml, row.read_at, below, None, meter)
        if row.counted_ml is None:
            raise InvalidInputError(f"What was decided at {row.read_at.isoformat()} does not go with this.")
    elif row.quality != ReadingQuality.MEASURED:
        stands_ml = _stand_ml(row.register_ml, row.read_at, below, None, meter)
        row.counted_ml = None if stands_ml is None else below.counted_ml
    elif row.reason == Reason.RELEASED:
        row.counted_ml = _stand_ml(row.register_ml, row.read_at, below, None, meter)
        if row.counted_ml is None:
            row.quality, row.reason = ReadingQuality.HELD, Reason.BACKWARDS
    else:
        around = ValidationContext(meter.register_max_ml, None, None)
        verdict = validate(_candidate(row), below, None, around)
        if not verdict.counts or Reason.ROLL_OVER in {row.reason, verdict.reason}:
            row.reason = verdict.reason
        row.quality, row.counted_ml = verdict.quality, verdict.counted_ml
