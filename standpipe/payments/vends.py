"""Vends paid inside our own ledger: an agent's float or a voucher batch pays, in the transaction that makes the vend.

The same top-up row, the same posting and the same grant as for every other payment; only the account that pays is
another (``booking.funding``).
"""

from datetime import datetime

from sqlalchemy import null, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.booking import book_captured
from standpipe.payments.models import TopUp
from standpipe.payments.rails.port import PaymentStatus
from standpipe.payments.timeline import note_status
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import new_id
from standpipe.platform.units import MAX_MINOR


async def vend(
    session: AsyncSession,
    *,
    origin: str,
    rail_ref: str,
    funder_id: str,
    meter_id: str,
    currency: str,
    amount_minor: int,
    customer_id: str | None,
    key: str,
    request_hash: str,
    now: datetime,
) -> str:
    """Credit a meter out of one of our accounts; returns the top-up's id.

    Raises InvalidInputError for an amount out of bounds, InsufficientFundsError where the account cannot pay.
    """
    if not 0 < amount_minor <= MAX_MINOR:
        raise InvalidInputError("The amount must be above zero and within reason.", ("amount",))
    top_up = TopUp(
        id=new_id("top"),
        customer_id=customer_id,
        meter_id=meter_id,
        rail=origin.lower(),
        rail_ref=rail_ref,
        method_id=origin.lower(),
        origin=origin,
        funder_id=funder_id,
        pay_minor=amount_minor,
        currency=currency,
        idempotency_key=key,
        request_hash=request_hash,
        status=PaymentStatus.SUCCEEDED,
        created_at=now,
        updated_at=now,
        due_at=null(),
    )
    session.add(top_up)
    await session.flush()
    await session.refresh(top_up)
    for status in ("CREATED", PaymentStatus.SUCCEEDED):
        note_status(session, top_up_id=top_up.id, rail=top_up.rail, status=status, at=now)
    await book_captured(session, top_up, amount_minor, now)
    top_up.version += 1
    return top_up.id


async def find_vend(session: AsyncSession, *, origin: str, rail_ref: str) -> TopUp | None:
    """The vend that was made under this reference, or None."""
    found: TopUp | None = await session.scalar(
        select(TopUp).where(TopUp.rail == origin.lower(), TopUp.rail_ref == rail_ref)
    )
    return found
