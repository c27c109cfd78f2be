"""Suspense: money that we may not place by ourselves. Booked, kept with its reason, and worked off by a person."""

from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.outbox.facts import MoneyInSuspense, publish
from standpipe.payments.models import SuspenseItem, TopUp
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
    top_up_id: str | None = None,
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
            top_up_id=top_up_id,
            opened_at=now,
        )
    )
    _log.error("money in suspense", rail=rail, rail_ref=truth.rail_ref, reason=reason)
    await publish(session, MoneyInSuspense(top_up_id or "", reason))
    return True


async def hold_foreign(session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime) -> None:
    """Money in another currency than asked for is never converted by guess (P22): it waits in suspense.

    What the provider gave back of it leaves suspense again.
    """
    held_minor = truth.captured_minor - truth.refunded_minor - truth.disputed_minor
    difference_minor = held_minor - top_up.suspense_minor
    if not difference_minor:
        return
    key = f"{top_up.rail}:{truth.rail_ref}:foreign:{held_minor}:v{top_up.version}"
    if difference_minor > 0:
        reason = f"paid in {truth.currency}, asked for in {top_up.currency}"
        await hold(
            session,
            key=key,
            rail=top_up.rail,
            truth=truth,
            amount_minor=difference_minor,
            reason=reason,
            now=now,
            top_up_id=top_up.id,
        )
    else:
        await _give_back(session, top_up, truth.currency, -difference_minor, key, now)
    top_up.suspense_minor = held_minor


async def _give_back(
    session: AsyncSession, top_up: TopUp, currency: str, amount_minor: int, key: str, now: datetime
) -> None:
    lines = [
        Line(AccountRef(AccountKind.CLEARING, top_up.rail, currency), amount_minor),
        Line(AccountRef(AccountKind.SUSPENSE, top_up.rail, currency), -amount_minor),
    ]
    await post(session, key=key, kind="SUSPENSE_RETURNED", lines=lines, occurred_at=now)
    items = await session.scalars(
        select(SuspenseItem).where(SuspenseItem.top_up_id == top_up.id, SuspenseItem.status == "OPEN").with_for_update()
    )
    for item in items:
        if item.amount_minor <= amount_minor:
            amount_minor -= item.amount_minor
            item.status, item.resolved_at, item.resolved_by = "RETURNED", now, "the provider"


async def out_of_suspense(
    session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime
) -> AccountRef | None:
    """The suspense account, where this very money has been waiting: a statement told of it before the payment did.

    None where it has not. The item is resolved; the caller posts out of the account, or the money would count twice.
    """
    if top_up.captured_minor or not truth.captured_minor:
        return None
    theirs = [name for name in (truth.rail_ref, *truth.aliases, truth.receipt_ref) if name is not None]
    item = await session.scalar(
        select(SuspenseItem)
        .where(
            SuspenseItem.rail == top_up.rail,
            SuspenseItem.rail_ref.in_(theirs),
            SuspenseItem.currency == truth.currency,
            SuspenseItem.amount_minor == truth.captured_minor,
            SuspenseItem.status == "OPEN",
        )
        .limit(1)
        .with_for_update()
    )
    if item is None:
        return None
    item.status, item.resolved_at, item.resolved_by, item.top_up_id = "ASSIGNED", now, "settle", top_up.id
    return AccountRef(AccountKind.SUSPENSE, top_up.rail, truth.currency)
