"""Vends paid inside our own ledger: an agent's float or a voucher batch pays, in the transaction that makes the vend.

A top-up row, a posting and a grant as for every other payment; only the account that pays is another
(``decide.funding``).
"""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.decide import capture
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rows import Opening, load_meter
from standpipe.payments.settle import save_one
from standpipe.payments.state import new_payment
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase
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
        raise InvalidInputError(phrase("The amount must be above zero and within reason."), ("amount",))
    payment = new_payment(
        customer_id=customer_id,
        meter_id=meter_id,
        rail=origin.lower(),
        rail_ref=rail_ref,
        method_id=origin.lower(),
        origin=origin,
        funder_id=funder_id,
        asked_minor=amount_minor,
        currency=currency,
        now=now,
    )
    await session.flush()
    meter = await load_meter(await session.connection(), meter_id, now)
    await save_one(session, capture(payment, meter, amount_minor, now), now, Opening(key, request_hash))
    return payment.id


async def find_vend(session: AsyncSession, *, origin: str, rail_ref: str) -> TopUp | None:
    """The vend that was made under this reference, or None."""
    found: TopUp | None = await session.scalar(
        select(TopUp)
        .join(Payment, Payment.top_up_id == TopUp.id)
        .where(Payment.rail == origin.lower(), Payment.rail_ref == rail_ref)
    )
    return found
