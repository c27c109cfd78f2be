"""Credit to a meter: a running total that only our ledger states, and that only ever rises."""

from datetime import datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.errors import InvalidInputError
from standpipe.meters.commands import enqueue, lock_meter
from standpipe.meters.models import CommandKind, CreditGrant


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
