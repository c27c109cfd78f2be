"""Arrears that a meter brings along: debts from before, put on its account by an operator."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.errors import InvalidInputError
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.commands import lock_meter


async def add_arrears(
    session: AsyncSession, *, meter_id: str, amount_minor: int, reference: str, now: datetime
) -> None:
    """Put a debt on a meter; top-ups repay it by the utility's share. ``reference``: the bill it comes from, once each.

    An amount below zero writes debt off. Raises InvalidInputError for nothing, a reference that was used before, or
    more written off than is owed.
    """
    if not amount_minor:
        raise InvalidInputError("The amount must not be zero.")
    meter = await lock_meter(session, meter_id)
    lines = [
        Line(AccountRef(AccountKind.RECEIVABLE, meter.id, meter.currency), -amount_minor),
        Line(AccountRef(AccountKind.OPENING, meter.utility_id, meter.currency), amount_minor),
    ]
    fresh = await post(
        session,
        key=f"arrears:{meter.id}:{reference}",
        kind="ARREARS",
        lines=lines,
        occurred_at=now,
        states_fact=True,
    )
    if not fresh:
        raise InvalidInputError(f"Arrears of the reference {reference} are on this meter already.")
