"""Providers' own statements, taken in line by line and matched with the ledger. Taken in twice, a line changes nothing.

Gross must be what the ledger has; fees are booked here; a payout moves money from the provider's clearing to our
bank; a payment that nobody knows waits in suspense. A line that disagrees is shown, never silently made to agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import AccountKind, LedgerTransaction
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.payments.book_models import SettlementEntry, SettlementMark
from standpipe.payments.decide import book_dispute_fee
from standpipe.payments.models import Payment, SuspenseItem
from standpipe.payments.paybill import sweep
from standpipe.payments.rails.port import (
    PaymentStatus,
    PaymentTruth,
    Rail,
    SettlementKind,
    SettlementLine,
)
from standpipe.payments.rows import load_one
from standpipe.payments.settle import lock_payment, save_one, settle
from standpipe.payments.suspense import hold
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import StandpipeError

OVERLAP = timedelta(days=3)
FIRST_LOOK = timedelta(days=30)
PULL_EVERY_S = 6 * 3600
AGAIN_AFTER_S = 600
_MATCHABLE = frozenset({SettlementKind.PAYMENT, SettlementKind.REFUND, SettlementKind.DISPUTE})
_log = structlog.get_logger(__name__)


@dataclass
class ImportResult:
    """Result of an import: lines by state, and those that could not be taken in, with why.

    ``unread``: the statement itself could not be had.
    """

    states: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    unread: bool = False

    def count(self, state: str) -> None:
        """One more line ended so."""
        self.states[state] = self.states.get(state, 0) + 1


async def import_lines(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    *,
    rail: str,
    lines: Sequence[SettlementLine],
) -> ImportResult:
    """Take a statement in, each line in a transaction of its own: a bad one stops no other."""
    result = ImportResult()
    for line in lines:
        try:
            await _settle_first(sessions, rails, clock, rail, line)
            async with sessions.begin() as session:
                result.count(await _import_one(session, rail, line, clock.now()))
        except StandpipeError as error:
            result.refused.append(f"{line.external_id}: {error}")
    return result


async def pull(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, until: datetime, days: int | None = None
) -> dict[str, ImportResult]:
    """Ask every rail that offers it for its statement since the last time (with an overlap), and take it in."""
    found: dict[str, ImportResult] = {}
    for rail in rails.values():
        if not rail.capabilities.settlements and not rail.capabilities.unsolicited:
            continue
        try:
            found[rail.name] = await _pull_one(sessions, rails, rail, clock, until, days)
        except Exception as error:
            # One provider that is away, or that has changed its words, keeps no other from being read.
            _log.exception("statement not read", rail=rail.name)
            found[rail.name] = ImportResult(refused=[f"{rail.name}: {error}"], unread=True)
    return found


async def _pull_one(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    rail: Rail,
    clock: Clock,
    until: datetime,
    days: int | None,
) -> ImportResult:
    since = until - timedelta(days=days) if days else await _since(sessions, rail.name, until)
    if rail.capabilities.unsolicited:
        await sweep(sessions, {rail.name: rail}, clock, since=since, until=until)
    lines = await rail.settlements(since, until) if rail.capabilities.settlements else ()
    result = await import_lines(sessions, rails, clock, rail=rail.name, lines=lines)
    async with sessions.begin() as session:
        await session.execute(
            insert(SettlementMark)
            .values(rail=rail.name, what="statement", read_until=until)
            .on_conflict_do_update(index_elements=["rail", "what"], set_={"read_until": until})
        )
    return result


async def pull_due(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock) -> int:
    """``pull``, at most every PULL_EVERY_S and by one worker; sooner again where a provider did not answer.

    Returns how many rails were read.
    """
    pause = timedelta(seconds=PULL_EVERY_S)
    async with sessions.begin() as session:
        mine = await session.scalar(
            insert(SettlementMark)
            .values(rail="*", what="pull", read_until=func.now())
            .on_conflict_do_update(
                index_elements=["rail", "what"],
                set_={"read_until": func.now()},
                where=SettlementMark.read_until < func.now() - pause,
            )
            .returning(SettlementMark.read_until)
        )
    if mine is None:
        return 0
    found = await pull(sessions, rails, clock, until=mine)
    if any(result.unread for result in found.values()):
        async with sessions.begin() as session:
            await session.execute(
                update(SettlementMark)
                .where(SettlementMark.rail == "*", SettlementMark.what == "pull")
                .values(read_until=func.now() - pause + timedelta(seconds=AGAIN_AFTER_S))
            )
    return sum(not result.unread for result in found.values())


async def ask_soon(session: AsyncSession) -> None:
    """A provider says that it has paid out: the next look reads the statements, however short the last was ago."""
    await session.execute(
        update(SettlementMark)
        .where(SettlementMark.rail == "*", SettlementMark.what == "pull")
        .values(read_until=func.now() - timedelta(seconds=PULL_EVERY_S + 1))
    )


async def _since(sessions: Sessions, rail: str, until: datetime) -> datetime:
    async with sessions() as session:
        last = await session.scalar(
            select(SettlementMark.read_until).where(SettlementMark.rail == rail, SettlementMark.what == "statement")
        )
    return until - FIRST_LOOK if last is None else last - OVERLAP


async def _settle_first(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, rail: str, line: SettlementLine
) -> None:
    """A statement may know of money, or of its return, that no webhook told us: ask before comparing (P50)."""
    if line.kind not in _MATCHABLE or line.payment_ref is None or rail not in rails:
        return
    async with sessions() as session:
        seen = await session.scalar(
            select(SettlementEntry.state).where(
                SettlementEntry.rail == rail, SettlementEntry.external_id == line.external_id
            )
        )
        payment = await _find(session, rail, line)
    if seen == "MATCHED" or payment is None:
        return
    if line.kind is not SettlementKind.PAYMENT or not payment.captured_minor:
        await settle(sessions, rails, payment.id, clock)


async def _import_one(session: AsyncSession, rail: str, line: SettlementLine, now: datetime) -> str:
    entry = await session.scalar(
        select(SettlementEntry)
        .where(SettlementEntry.rail == rail, SettlementEntry.external_id == line.external_id)
        .with_for_update()
    )
    payment = await _find(session, rail, line) if line.kind in _MATCHABLE else None
    if payment is not None:
        payment = await lock_payment(session, payment.id)
    state = await _state_of(session, rail, line, payment, now)
    if entry is None:
        session.add(_entry(rail, line, payment, state))
        await session.flush()
    else:
        entry.state, entry.payout_ref = state, line.payout_ref or entry.payout_ref
        entry.payment_id = payment.id if payment else entry.payment_id
    await _book_fee(session, rail, line, payment, now)
    if line.kind is SettlementKind.PAYOUT:
        await _book_payout(session, rail, line, now)
    return state


async def _state_of(
    session: AsyncSession, rail: str, line: SettlementLine, payment: Payment | None, now: datetime
) -> str:
    if line.kind not in _MATCHABLE:
        return "NOTED"
    if payment is None:
        return await _unknown(session, rail, line, now)
    told = await session.scalar(
        select(func.coalesce(func.sum(SettlementEntry.gross_minor), 0)).where(
            SettlementEntry.payment_id == payment.id,
            SettlementEntry.kind == line.kind,
            SettlementEntry.external_id != line.external_id,
        )
    )
    booked = {
        SettlementKind.PAYMENT: payment.captured_minor,
        SettlementKind.REFUND: -payment.refunded_minor,
        SettlementKind.DISPUTE: -payment.disputed_minor,
    }[line.kind]
    same = line.currency == payment.currency and int(told or 0) + line.gross_minor == booked
    return "MATCHED" if same else "DIFFERENT"


async def _unknown(session: AsyncSession, rail: str, line: SettlementLine, now: datetime) -> str:
    """Money on the statement that no payment has: into suspense, once, whichever way we heard of it first."""
    ref = line.payment_ref or line.external_id
    if line.kind is not SettlementKind.PAYMENT or line.gross_minor <= 0:
        return "DIFFERENT"
    lock = func.pg_advisory_xact_lock(func.hashtextextended(f"unsolicited:{rail}:{ref}", 0))
    await session.execute(select(lock))
    held = select(LedgerTransaction.id).where(LedgerTransaction.key == f"{rail}:{ref}:unsolicited")
    known = select(SuspenseItem.id).where(SuspenseItem.rail == rail, SuspenseItem.rail_ref == ref)
    if await session.scalar(held) is None and await session.scalar(known.limit(1)) is None:
        truth = PaymentTruth(ref, None, PaymentStatus.SUCCEEDED, line.currency, line.gross_minor, line.gross_minor, 0)
        await hold(
            session,
            key=f"{rail}:{ref}:unsolicited",
            rail=rail,
            truth=truth,
            amount_minor=line.gross_minor,
            reason="on the provider's statement, and nobody here knows it",
            now=now,
            account_reference=line.description or None,
        )
    return "SUSPENSE"


async def _find(session: AsyncSession, rail: str, line: SettlementLine) -> Payment | None:
    """The payment that a line is about, by any name that it has there; else by the account reference of its push."""
    if line.payment_ref is None:
        return None
    names = (Payment.rail_ref, Payment.alias_ref, Payment.receipt_ref, Payment.account_reference, Payment.id)
    same = or_(*(name == line.payment_ref for name in names))
    found: Payment | None = await session.scalar(select(Payment).where(Payment.rail == rail, same).limit(1))
    if found is None and line.description:
        by_account = Payment.account_reference == line.description.strip().upper()
        # A reference alone is not the money: whoever types it by hand has paid by himself (P51).
        unnamed = and_(Payment.receipt_ref.is_(None), Payment.captured_minor.in_([0, line.gross_minor]))
        same_money = or_(unnamed, Payment.receipt_ref == line.payment_ref)
        found = await session.scalar(select(Payment).where(Payment.rail == rail, by_account, same_money))
    return found


async def _book_fee(
    session: AsyncSession, rail: str, line: SettlementLine, payment: Payment | None, now: datetime
) -> None:
    """Book the provider's fee, once per line; a dispute's fee goes by its own running total."""
    fee_minor = line.fee_minor - (line.gross_minor if line.kind is SettlementKind.FEE else 0)
    if not fee_minor:
        return
    if line.kind is SettlementKind.DISPUTE and payment is not None:
        told = await session.scalar(
            select(func.coalesce(func.sum(SettlementEntry.fee_minor), 0)).where(
                SettlementEntry.payment_id == payment.id, SettlementEntry.kind == SettlementKind.DISPUTE
            )
        )
        state, meter = await load_one(await session.connection(), payment.id, now)
        await save_one(session, book_dispute_fee(state, meter, int(told or 0), now), now)
        return
    lines = [
        Line(AccountRef(AccountKind.CLEARING, rail, line.currency), fee_minor),
        Line(AccountRef(AccountKind.PROVIDER_FEES, rail, line.currency), -fee_minor),
    ]
    await post(session, key=f"{rail}:fee:{line.external_id}", kind="PROVIDER_FEE", lines=lines, occurred_at=now)


async def _book_payout(session: AsyncSession, rail: str, line: SettlementLine, now: datetime) -> None:
    if not line.gross_minor:
        return
    lines = [
        Line(AccountRef(AccountKind.CLEARING, rail, line.currency), -line.gross_minor),
        Line(AccountRef(AccountKind.BANK, rail, line.currency), line.gross_minor),
    ]
    await post(session, key=f"{rail}:payout:{line.external_id}", kind="PAYOUT", lines=lines, occurred_at=now)


def _entry(rail: str, line: SettlementLine, payment: Payment | None, state: str) -> SettlementEntry:
    return SettlementEntry(
        rail=rail,
        external_id=line.external_id,
        kind=line.kind,
        payment_ref=line.payment_ref,
        payout_ref=line.payout_ref,
        payment_id=payment.id if payment else None,
        currency=line.currency,
        gross_minor=line.gross_minor,
        fee_minor=line.fee_minor,
        occurred_at=line.occurred_at,
        description=line.description[:500],
        state=state,
    )
