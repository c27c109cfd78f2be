"""Suspense: money that we may not place by ourselves. Booked, kept with its reason, and worked off by a person."""

from datetime import datetime

import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.outbox.facts import MoneyInSuspense, publish
from standpipe.payments.models import SuspenseItem
from standpipe.payments.rails.port import PaymentTruth
from standpipe.platform.ids import new_id

_log = structlog.get_logger(__name__)


async def hold(
    session: AsyncSession,
    *,
    key: str,
    rail: str,
    truth: PaymentTruth,
    amount_minor: int,
    reason: str,
    now: datetime,
    account_reference: str | None = None,
) -> bool:
    """Book money into suspense and open an item for a person; False where this key did so before."""
    lines = [
        Line(AccountRef(AccountKind.CLEARING, rail, truth.currency), -amount_minor),
        Line(AccountRef(AccountKind.SUSPENSE, rail, truth.currency), amount_minor),
    ]
    if not await post(session, key=key, kind="SUSPENSE", lines=lines, occurred_at=now):
        return False
    await session.execute(
        insert(SuspenseItem).values(
            id=new_id("sus"),
            key=key,
            rail=rail,
            rail_ref=truth.rail_ref,
            currency=truth.currency,
            amount_minor=amount_minor,
            reason=reason,
            account_reference=account_reference or truth.account_reference,
            payer=truth.payer,
            opened_at=now,
        )
    )
    _log.error("money in suspense", rail=rail, rail_ref=truth.rail_ref, reason=reason)
    await publish(session, MoneyInSuspense("", reason))
    return True
