"""Credit to a meter: a running total that only our ledger states.

It rises with each grant, and falls only where credit is taken back that the meter has not accepted (``retract``). The
lower total goes out under a higher sequence number: a meter that takes it refuses every older command from then on,
and one that had taken the higher total already says so. Either way its next statement is the proof.
"""

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.errors import InvalidInputError
from standpipe.meters.commands import enqueue, lock_meter
from standpipe.meters.models import CommandKind, CreditGrant, Meter, MeterCommand, MeterState


async def grant(
    session: AsyncSession, *, meter_id: str, credit_key: str, source_id: str, amount_minor: int, now: datetime
) -> bool:
    """Raise the meter's credit total by ``amount_minor`` and queue the new total for it.

    Returns False where this ``credit_key`` was granted before: the total then stays as it is. ``source_id`` is what
    the customer knows the credit by, e.g. a top-up. Raises InvalidInputError for an amount that is not positive.
    """
    if amount_minor <= 0:
        raise InvalidInputError("Credit must be above zero.")
    meter = await lock_meter(session, meter_id)
    total_minor = meter.credit_granted_minor + amount_minor
    fresh = await session.scalar(
        insert(CreditGrant)
        .values(
            credit_key=credit_key,
            meter_id=meter_id,
            source_id=source_id,
            amount_minor=amount_minor,
            total_after_minor=total_minor,
            granted_at=now,
        )
        .on_conflict_do_nothing(index_elements=["credit_key"])
        .returning(CreditGrant.credit_key)
    )
    if fresh is None:
        return False
    meter.credit_granted_minor = total_minor
    await enqueue(session, meter, kind=CommandKind.CREDIT, value=total_minor)
    return True


async def undelivered_minor(session: AsyncSession, meter: Meter, source_id: str) -> int:
    """What of a source's credit a locked meter has not stated to hold. It may still be on the air."""
    accepted_minor = await _accepted_minor(session, meter.id)
    return sum(_above(grant, accepted_minor) for grant in await _grants(session, meter.id, source_id))


async def free_to_retract_minor(session: AsyncSession, meter: Meter, source_id: str) -> int:
    """What of a source's credit certainly never reached a locked meter: above all that any command carried to it."""
    highest_minor = max(await _accepted_minor(session, meter.id), await _may_have_reached_minor(session, meter.id))
    return sum(_above(grant, highest_minor) for grant in await _grants(session, meter.id, source_id))


async def retract(session: AsyncSession, meter: Meter, *, source_id: str, amount_minor: int) -> None:
    """Take undelivered credit of a source off a locked meter's total, and queue the lower total.

    Raises InvalidInputError where the meter states to hold it.
    """
    if amount_minor > await undelivered_minor(session, meter, source_id):
        raise InvalidInputError("The meter holds this credit already.")
    accepted_minor, left_minor = await _accepted_minor(session, meter.id), amount_minor
    for grant_ in reversed(await _grants(session, meter.id, source_id)):
        part_minor = min(left_minor, _above(grant_, accepted_minor))
        if not part_minor:
            continue
        grant_.revoked_minor += part_minor
        await session.flush()
        await session.execute(
            update(CreditGrant)
            .where(CreditGrant.meter_id == meter.id, CreditGrant.total_after_minor >= grant_.total_after_minor)
            .values(total_after_minor=CreditGrant.total_after_minor - part_minor)
            .execution_options(synchronize_session=False)
        )
        left_minor -= part_minor
    meter.credit_granted_minor -= amount_minor
    await enqueue(session, meter, kind=CommandKind.CREDIT, value=meter.credit_granted_minor)


async def is_proven(session: AsyncSession, meter: Meter) -> bool:
    """Whether a locked meter certainly holds no more than its total, and never will by a command already sent."""
    total_minor = meter.credit_granted_minor
    return (
        await _accepted_minor(session, meter.id) <= total_minor
        and await _may_have_reached_minor(session, meter.id) <= total_minor
    )


async def over_accepted_minor(session: AsyncSession, meter: Meter) -> int:
    """By how much a locked meter states to hold more than its total: credit that had reached it after all."""
    return max(await _accepted_minor(session, meter.id) - meter.credit_granted_minor, 0)


async def _accepted_minor(session: AsyncSession, meter_id: str) -> int:
    accepted = await session.scalar(select(MeterState.credit_accepted_minor).where(MeterState.meter_id == meter_id))
    return accepted or 0


async def _may_have_reached_minor(session: AsyncSession, meter_id: str) -> int:
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


async def _grants(session: AsyncSession, meter_id: str, source_id: str) -> list[CreditGrant]:
    rows = await session.scalars(
        select(CreditGrant)
        .where(CreditGrant.meter_id == meter_id, CreditGrant.source_id == source_id)
        .order_by(CreditGrant.total_after_minor)
        .execution_options(populate_existing=True)
    )
    return list(rows)


def _above(grant_: CreditGrant, total_minor: int) -> int:
    """The part of a step that lies above a total."""
    before_minor = grant_.total_after_minor - (grant_.amount_minor - grant_.revoked_minor)
    return max(grant_.total_after_minor - max(total_minor, before_minor), 0)
