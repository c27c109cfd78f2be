"""Credit to a meter: a running total that only our ledger (or, of a VOLUME meter, our purchases) states.

It rises with each grant, and falls only where credit is taken back that the meter has not accepted (``retract``). The
lower total goes out under a higher sequence number: a meter that takes it refuses every older command from then on,
and one that had taken the higher total already says so. Either way its next statement is the proof. Volume that may
have reached its meter is never taken back at all: it is sold.
"""

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.commands import enqueue, lock_meter
from standpipe.meters.measures import MONEY, VOLUME, Measure, measure_of
from standpipe.meters.models import CommandKind, CreditGrant, Meter, MeterCommand, MeterState
from standpipe.meters.tids import reserve_tid
from standpipe.platform.errors import InvalidInputError


async def grant(
    session: AsyncSession, *, meter_id: str, credit_key: str, source_id: str, amount_minor: int, now: datetime
) -> bool:
    """Raise a MONEY meter's credit total by ``amount_minor`` and queue the new total for it.

    Returns False where this ``credit_key`` was granted before: the total then stays as it is. ``source_id`` is what
    the customer knows the credit by, e.g. a top-up. Raises InvalidInputError for an amount that is not positive, and
    for a meter that holds volume.
    """
    meter = await lock_meter(session, meter_id)
    return await _grant(session, meter, MONEY, credit_key, source_id, amount_minor, now)


async def grant_volume(
    session: AsyncSession, meter: Meter, *, credit_key: str, source_id: str, volume_ml: int, now: datetime
) -> bool:
    """The same for volume, to a locked VOLUME meter."""
    return await _grant(session, meter, VOLUME, credit_key, source_id, volume_ml, now)


async def undelivered_minor(session: AsyncSession, meter: Meter, source_id: str) -> int:
    """What of a source's credit a locked meter has not stated to hold. It may still be on the air."""
    accepted = await _accepted(session, meter.id, MONEY)
    return sum(MONEY.above(step, accepted) for step in await _steps(session, meter.id, source_id, MONEY))


async def free_to_retract_minor(session: AsyncSession, meter: Meter, source_id: str) -> int:
    """What of a source's credit certainly never reached a locked meter: above all that any command carried to it."""
    return await _free(session, meter, source_id, MONEY)


async def free_to_retract_ml(session: AsyncSession, meter: Meter, source_id: str) -> int:
    """The same of a source's volume."""
    return await _free(session, meter, source_id, VOLUME)


async def retract(session: AsyncSession, meter: Meter, *, source_id: str, amount_minor: int) -> None:
    """Take undelivered credit of a source off a locked meter's total, and queue the lower total.

    Raises InvalidInputError where the meter states to hold it.
    """
    if amount_minor > await undelivered_minor(session, meter, source_id):
        raise InvalidInputError("The meter holds this credit already.")
    floor = await _accepted(session, meter.id, MONEY)
    await _retract(session, meter, MONEY, source_id, amount_minor, floor)


async def retract_volume(session: AsyncSession, meter: Meter, *, source_id: str, volume_ml: int) -> None:
    """The same of volume that certainly never reached a locked meter. Raises InvalidInputError for any other."""
    if volume_ml > await free_to_retract_ml(session, meter, source_id):
        raise InvalidInputError("This water may have reached the meter already.")
    floor = await _highest(session, meter.id, VOLUME)
    await _retract(session, meter, VOLUME, source_id, volume_ml, floor)


async def is_proven(session: AsyncSession, meter: Meter) -> bool:
    """Whether a locked meter certainly holds no more than its total, and never will by a command already sent."""
    measure = measure_of(meter)
    highest = max(await _accepted(session, meter.id, measure), await _highest(session, meter.id, measure))
    return highest <= measure.granted_to(meter)


async def over_accepted(session: AsyncSession, meter: Meter) -> int:
    """By how much a locked meter states to hold more than its total, in its own unit: it had reached it after all."""
    measure = measure_of(meter)
    return max(await _accepted(session, meter.id, measure) - measure.granted_to(meter), 0)


async def _grant(
    session: AsyncSession, meter: Meter, measure: Measure, credit_key: str, source_id: str, amount: int, now: datetime
) -> bool:
    if amount <= 0:
        raise InvalidInputError("Credit must be above zero.")
    if measure is not measure_of(meter):
        raise InvalidInputError(f"This meter's wallet holds {meter.wallet_kind}.")
    total = measure.granted_to(meter) + amount
    totals = {MONEY.amount.key: 0, MONEY.total_after.key: 0} | {measure.amount.key: amount}
    fresh = await session.scalar(
        insert(CreditGrant)
        .values(
            credit_key=credit_key,
            meter_id=meter.id,
            source_id=source_id,
            granted_at=now,
            **totals | {measure.total_after.key: total},
        )
        .on_conflict_do_nothing(index_elements=["credit_key"])
        .returning(CreditGrant.credit_key)
    )
    if fresh is None:
        return False
    measure.add_granted(meter, amount)
    tid = await reserve_tid(session, meter, now)
    if tid is not None:
        await session.execute(update(CreditGrant).where(CreditGrant.credit_key == credit_key).values(tid=tid))
    await enqueue(session, meter, kind=CommandKind.CREDIT, value=total)
    return True


async def _retract(
    session: AsyncSession, meter: Meter, measure: Measure, source_id: str, amount: int, floor: int
) -> None:
    """Take ``amount`` off the source's newest steps, as far as they lie above ``floor``, and off all totals after."""
    left = amount
    for step in reversed(await _steps(session, meter.id, source_id, measure)):
        part = min(left, measure.above(step, floor))
        if not part or step.offered_at is not None:
            continue
        total_after = getattr(step, measure.total_after.key)
        setattr(step, measure.revoked.key, getattr(step, measure.revoked.key) + part)
        await session.flush()
        await session.execute(
            update(CreditGrant)
            .where(CreditGrant.meter_id == meter.id, measure.amount > 0, measure.total_after >= total_after)
            .values({measure.total_after.key: measure.total_after - part})
            .execution_options(synchronize_session=False)
        )
        left -= part
    total = measure.add_granted(meter, -amount)
    await enqueue(session, meter, kind=CommandKind.CREDIT, value=total)


async def _free(session: AsyncSession, meter: Meter, source_id: str, measure: Measure) -> int:
    highest = await _highest(session, meter.id, measure)
    steps = await _steps(session, meter.id, source_id, measure)
    # What was offered as a keypad token may be typed at any time, whatever the radio does.
    return sum(measure.above(step, highest) for step in steps if step.offered_at is None)


async def _highest(session: AsyncSession, meter_id: str, measure: Measure) -> int:
    """The highest total that the meter may hold by radio: stated, or on the air."""
    stated = await _accepted(session, meter_id, measure)
    if measure is VOLUME:
        typed_ml = await session.scalar(select(MeterState.volume_typed_ml).where(MeterState.meter_id == meter_id))
        stated -= typed_ml or 0
    return max(stated, await _may_have_reached(session, meter_id))


async def _accepted(session: AsyncSession, meter_id: str, measure: Measure) -> int:
    accepted = await session.scalar(select(measure.accepted).where(MeterState.meter_id == meter_id))
    return accepted or 0


async def _may_have_reached(session: AsyncSession, meter_id: str) -> int:
    """The highest total that went out under a number which the meter has not stated to have passed."""
    passed = select(MeterState.last_sequence).where(MeterState.meter_id == meter_id).scalar_subquery()
    highest = await session.scalar(
        select(func.max(MeterCommand.value)).where(
            MeterCommand.meter_id == meter_id,
            MeterCommand.kind == CommandKind.CREDIT,
            MeterCommand.attempts > 0,
            MeterCommand.sequence > func.coalesce(passed, 0),
        )
    )
    return highest or 0


async def _steps(session: AsyncSession, meter_id: str, source_id: str, measure: Measure) -> list[CreditGrant]:
    rows = await session.scalars(
        select(CreditGrant)
        .where(CreditGrant.meter_id == meter_id, CreditGrant.source_id == source_id, measure.amount > 0)
        .order_by(measure.total_after)
        .execution_options(populate_existing=True)
    )
    return list(rows)
