"""Readings that wait for a person, and what an operator says of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from standpipe.billing import review
from standpipe.billing.review import HeldReading, Outcome
from standpipe.meters.due import FailingMeter, failing_meters
from standpipe.operations.find import meter_of
from standpipe.operations.operation import Desk, operation
from standpipe.utilities.operators import ANYBODY, FIELD_WORK


@operation("readings.held", may=ANYBODY, reads=True)
async def held(desk: Desk, serial: str | None, *, older_than: timedelta) -> Sequence[HeldReading]:
    """Read what is held, of a meter or of all, oldest first; ``older_than`` zero: all of it. Raises NotFoundError."""
    limit = desk.now - older_than if older_than else None
    return await review.held_readings(desk.session, serial=serial, received_before=limit)


@operation("readings.failing", may=ANYBODY, reads=True)
async def failing(desk: Desk) -> Sequence[FailingMeter]:
    """Read which meters could not be rated, and why."""
    return await failing_meters(await desk.session.connection())


@operation("readings.release", may=FIELD_WORK)
async def release(desk: Desk, serial: str, read_at: datetime, *, note: str) -> Outcome:
    """Count a held reading after all, as the meter said it. Raises NotFoundError, InvalidInputError."""
    return await review.release(
        desk.session, operator=desk.by, meter_id=await _id(desk, serial), read_at=read_at, note=note, now=desk.now
    )


@operation("readings.reject", may=FIELD_WORK)
async def reject(desk: Desk, serial: str, read_at: datetime, *, note: str) -> Outcome:
    """Let a held reading stand for nothing. Raises NotFoundError, InvalidInputError."""
    return await review.reject(
        desk.session, operator=desk.by, meter_id=await _id(desk, serial), read_at=read_at, note=note, now=desk.now
    )


@operation("readings.correct", may=FIELD_WORK)
async def correct(desk: Desk, serial: str, read_at: datetime, register_ml: int, *, note: str) -> Outcome:
    """Say that the register stood at another value (millilitres). Raises NotFoundError, InvalidInputError."""
    return await review.correct(
        desk.session,
        operator=desk.by,
        meter_id=await _id(desk, serial),
        read_at=read_at,
        register_ml=register_ml,
        note=note,
        now=desk.now,
    )


@operation("readings.exchange_register", may=FIELD_WORK)
async def exchange_register(
    desk: Desk, serial: str, at: datetime, *, final_ml: int, start_ml: int, note: str
) -> Outcome:
    """Note that the register was changed or set back; consumption goes on from there.

    Raises NotFoundError, InvalidInputError.
    """
    return await review.swap_register(
        desk.session,
        operator=desk.by,
        meter_id=await _id(desk, serial),
        at=at,
        final_ml=final_ml,
        start_ml=start_ml,
        note=note,
        now=desk.now,
    )


@operation("readings.rejudge", may=FIELD_WORK)
async def rejudge(desk: Desk, serial: str) -> Outcome:
    """Look again at what is held of a meter. Raises NotFoundError."""
    return await review.rejudge(desk.session, operator=desk.by, meter_id=await _id(desk, serial), now=desk.now)


async def _id(desk: Desk, serial: str) -> str:
    return (await meter_of(desk.session, serial)).id
