"""``settle``: make the ledger agree with the rail. Webhook, redirect, poll and poller all call this function.

Rails are asked outside any transaction, many at once. Then all that was answered is booked in one: payments and meters
are loaded and locked, ``decide`` says what the difference between running totals becomes, and it is saved table by
table. Twice, late, or in another order, the second difference is zero.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.engine.batcher import BusyError, work_off
from standpipe.engine.unit_of_work import UnitOfWork
from standpipe.outbox.facts import SecondPayment
from standpipe.payments.decide import decide
from standpipe.payments.models import Payment
from standpipe.payments.rails.port import (
    PaymentRequest,
    PaymentTruth,
    Rail,
    RailRefusedError,
    RailUnavailableError,
    RefundStatus,
    RefundTruth,
)
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.refund_states import AT_PROVIDER, RefundState
from standpipe.payments.rows import Loaded, Opening, load, names_of, save
from standpipe.payments.schedule import polls_of
from standpipe.payments.state import Around, Changes, PaymentState
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import new_id

MAX_ROUNDS = 8
BUSY_AFTER_S = (0.02, 0.1, 0.3)
"""Pauses before another look at rows that somebody holds; after them whoever called comes again."""
ASKED_AT_ONCE = 16
"""Questions under way at one rail, by one batch."""
INTERNAL = frozenset({"AGENT", "VOUCHER"})
"""Origins that are paid inside our own ledger: there is no rail to ask."""
_log = structlog.get_logger(__name__)

SNAPSHOT = text("""
    SELECT p.id, p.top_up_id, t.meter_id, t.customer_id, t.created_at,
           p.version, p.rail, p.rail_ref, p.alias_ref, p.asked_minor, p.currency, t.return_url, t.method_id,
           p.account_reference, t.phone, p.payer_ref, t.origin, t.traceparent, s.rail_ref AS saved_ref,
           CAST(extract(epoch FROM now() - p.started_real_at) AS double precision) AS age_s,
           (SELECT json_agg(json_build_array(r.rail_ref, r.amount_minor, r.currency, r.status) ORDER BY r.id)
            FROM refunds r WHERE r.payment_id = p.id AND r.rail_ref IS NOT NULL) AS refunds
    FROM payments p JOIN top_ups t ON t.id = p.top_up_id LEFT JOIN saved_methods s ON s.id = t.saved_method_id
    WHERE p.id = ANY(CAST(:ids AS text[]))""").columns(refunds=JSONB)


@dataclass(frozen=True, slots=True)
class Ask:
    """A payment to settle. ``rail_ref``: how a notice calls it, for one that has not learnt its name yet.

    ``account``: the account reference that came with ``rail_ref``, for a payment that does not carry our id. Both are
    hints: what the rail itself answers counts.
    """

    payment_id: str
    rail_ref: str | None = None
    account: str | None = None
    traceparent: str | None = field(default_factory=tracing.current_traceparent)
    """Of the step that asks, e.g. a notice's; the payment's own trace counts where that is another."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the rail answered about a payment that stood at ``version`` when it was asked."""

    payment_id: str
    rail: str
    version: int
    truth: PaymentTruth
    traceparent: str | None = None


class _StaleError(Exception):
    """Another worker settled while we asked: what we were told may be older than what it was told (P17)."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    id: str
    version: int
    rail: str
    rail_ref: str | None
    alias_ref: str | None
    request: PaymentRequest
    age_s: float
    internal: bool
    traceparent: str | None
    refunds: tuple[RefundTruth, ...]
    """Those that the provider took on, as we last knew them. One that succeeded can still come back."""


async def settle(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    payment_id: str,
    clock: Clock,
    *,
    rail_ref: str | None = None,
    account: str | None = None,
) -> None:
    """Ask the rail what became of one payment and post the difference; see ``Ask`` for the hints.

    Raises NotFoundError, RailUnavailableError (nothing changed; ask again), RailRefusedError.
    """
    [outcome] = await settle_many(sessions, rails, [Ask(payment_id, rail_ref, account)], clock)
    if outcome is not None:
        raise outcome


async def settle_many(
    sessions: Sessions, rails: Mapping[str, Rail], asks: Sequence[Ask], clock: Clock
) -> list[Exception | None]:
    """``settle`` for many payments: all rails are asked at once, and one transaction books what they answered.

    The outcomes in the order of the asks; an exception is that payment's own and costs the others nothing. A payment
    whose row somebody holds is left to the next look (RailUnavailableError).
    """
    outcomes: dict[int, Exception | None] = {}
    places = list(range(len(asks)))
    for _ in range(MAX_ROUNDS):
        answers = await _ask_all(sessions, rails, [asks[place] for place in places])
        told = [(place, answer) for place, answer in zip(places, answers, strict=True) if isinstance(answer, Answered)]
        outcomes |= {
            place: answer for place, answer in zip(places, answers, strict=True) if not isinstance(answer, Answered)
        }
        booked = await _book_all(sessions, rails, clock, [answer for _, answer in told])
        places = []
        for (place, answer), outcome in zip(told, booked, strict=True):
            outcomes[place] = outcome
            if isinstance(outcome, BusyError | _StaleError):
                reason = "others settle this payment at the same moment"
                outcomes[place] = RailUnavailableError(answer.rail, reason)
            if isinstance(outcome, _StaleError):
                # What others saw may be older than what we were called for.
                places.append(place)
        if not places:
            break
    return [outcomes[place] for place in range(len(asks))]


async def _book_all(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, items: Sequence[Answered]
) -> list[Exception | None]:
    """``book``, and once more after each pause for those whose rows somebody else holds: they keep nobody waiting."""
    work = partial(book, sessions, rails, clock)
    outcomes = await work_off(work, items, name="settle")
    for pause_s in BUSY_AFTER_S:
        busy = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, BusyError)]
        if not busy:
            break
        await asyncio.sleep(pause_s)
        again = await work_off(work, [items[place] for place in busy], name="settle")
        for place, outcome in zip(busy, again, strict=True):
            outcomes[place] = outcome
    return outcomes


async def book(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, items: Sequence[Answered]
) -> list[Exception | None]:
    """Load, decide and save what the rails answered, in one transaction.

    Answers None, NotFoundError, BusyError (somebody holds the row) or ``_StaleError`` for each. The second truth about
    one payment in a batch is stale: nobody knows which of the two is older.
    """
    now = clock.now()
    async with sessions.begin() as session:
        work = await UnitOfWork.of(session)
        truths: dict[str, PaymentTruth] = {}
        for item in items:
            truths.setdefault(item.payment_id, item.truth)
        loaded = await load(work.conn, list(truths), now, truths, skip_locked=True)
        there = await _existing(work.conn, [key for key in truths if key not in loaded.payments])
        answers: list[Exception | None] = []
        changes: list[Changes] = []
        opened: dict[str, Opening] = {}
        decided: set[str] = set()
        for item in items:
            payment = loaded.payments.get(item.payment_id)
            if payment is None:
                busy = BusyError("This payment is being settled.")
                answers.append(busy if item.payment_id in there else NotFoundError("No such payment."))
            elif payment.version != item.version or item.payment_id in decided:
                answers.append(_StaleError())
            else:
                decided.add(item.payment_id)
                polls_s = polls_of(rails.get(payment.rail))
                with tracing.continue_from(item.traceparent), tracing.span("settle", rail=payment.rail):
                    changes += _decide_one(loaded, payment, item.truth, now, polls_s, opened)
                answers.append(None)
        await save(work, changes, now, opened)
        await work.flush()
    return answers


def _decide_one(
    loaded: Loaded,
    payment: PaymentState,
    truth: PaymentTruth,
    now: datetime,
    polls_s: tuple[int, ...],
    opened: dict[str, Opening],
) -> list[Changes]:
    """A payment's changes and, where the rail told of another one for the same order, that one's too (P31)."""
    around = loaded.around.get(payment.id, Around())
    change = decide(payment, loaded.meters[payment.meter_id], around, truth, now, polls_s)
    loaded.payments[payment.id], loaded.meters[payment.meter_id] = change.payment, change.meter
    if change.problem is not None:
        _log.error("payment not applied", payment_id=payment.id, rail_ref=truth.rail_ref, reason=change.problem)
    if change.second is None:
        return [change]
    second = second_payment(payment, truth, now)
    opened[second.id] = Opening()
    if payment.captured_minor and payment.names & names_of(truth):
        around = replace(around, elsewhere=payment.id)
    own = decide(second, change.meter, replace(around, refunds=(), known_as=None), truth, now, polls_s)
    loaded.meters[payment.meter_id] = own.meter
    _log.error("second payment for one order", top_up_id=payment.top_up_id, payment_id=second.id)
    return [change, replace(own, facts=(SecondPayment(payment.top_up_id, second.id), *own.facts))]


def second_payment(payment: PaymentState, truth: PaymentTruth, now: datetime) -> PaymentState:
    """Another payment for an order: real money for this meter, so it is credited too, and flagged (P31)."""
    second = new_payment(
        meter_id=payment.meter_id,
        customer_id=payment.customer_id,
        rail=payment.rail,
        rail_ref=truth.rail_ref,
        origin=payment.origin,
        funder_id=payment.funder_id,
        method_id=payment.method_id,
        asked_minor=max(truth.requested_minor, 1),
        currency=payment.currency,
        now=now,
    )
    return replace(second, id=new_id("pay"), top_up_id=payment.top_up_id, created_at=payment.created_at)


def new_payment(
    *,
    meter_id: str,
    rail: str,
    rail_ref: str | None,
    origin: str,
    asked_minor: int,
    currency: str,
    now: datetime,
    customer_id: str | None = None,
    receipt_ref: str | None = None,
    method_id: str | None = None,
    funder_id: str | None = None,
    fee_agreed_minor: int = 0,
) -> PaymentState:
    """A top-up and its payment that have no rows yet: nothing of it is booked."""
    top_up_id = new_id("top")
    return PaymentState(
        id=top_up_id,
        top_up_id=top_up_id,
        meter_id=meter_id,
        customer_id=customer_id,
        rail=rail,
        rail_ref=rail_ref,
        alias_ref=None,
        receipt_ref=receipt_ref,
        account_reference=None,
        origin=origin,
        funder_id=funder_id,
        method_id=method_id,
        asked_minor=asked_minor,
        currency=currency,
        fee_agreed_minor=fee_agreed_minor,
        agreed=None,
        status="CREATED",
        failure_code=None,
        failure_message=None,
        next_action=None,
        captured_minor=0,
        refunded_minor=0,
        suspense_minor=0,
        disputed_minor=0,
        dispute_fee_minor=0,
        dispute=None,
        held_minor=0,
        taken_back_minor=0,
        owed_minor=0,
        fee_minor=0,
        emergency_minor=0,
        standing_minor=0,
        debt_minor=0,
        version=0,
        attempts=0,
        created_at=now,
        updated_at=now,
    )


EXISTING = text("SELECT id FROM payments WHERE id = ANY(CAST(:ids AS text[]))")
FIND = text("""
    SELECT a.place, coalesce(
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.rail_ref = a.rail_ref),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.alias_ref = a.rail_ref),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.id = a.reference),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.account_reference = a.reference),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.receipt_ref = a.receipt_ref),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.rail_ref = a.receipt_ref)) AS id
    FROM unnest(CAST(:rails AS text[]), CAST(:rail_refs AS text[]), CAST(:references AS text[]),
                CAST(:receipts AS text[])) WITH ORDINALITY AS a(rail, rail_ref, reference, receipt_ref, place)
    ORDER BY a.place""")


async def _existing(conn: AsyncConnection, ids: Sequence[str]) -> set[str]:
    return set(await conn.scalars(EXISTING, {"ids": list(ids)})) if ids else set()


@dataclass(frozen=True, slots=True)
class Sought:
    """How a notice calls a payment."""

    rail: str
    rail_ref: str | None
    reference: str | None
    receipt_ref: str | None = None


async def find_payments(sessions: Sessions, sought: Sequence[Sought]) -> list[str | None]:
    """The payments that these notices are about, by any of the rail's ids or by our reference; one statement."""
    values = {
        "rails": [one.rail for one in sought],
        "rail_refs": [one.rail_ref for one in sought],
        "references": [one.reference for one in sought],
        "receipts": [one.receipt_ref for one in sought],
    }
    async with sessions() as session:
        rows = await (await _reading(session)).execute(FIND, values)
        return [row.id for row in rows]


async def find_payment(
    sessions: Sessions, *, rail: str, rail_ref: str | None, reference: str | None, receipt_ref: str | None = None
) -> str:
    """``find_payments`` for one. Raises NotFoundError."""
    [found] = await find_payments(sessions, [Sought(rail, rail_ref, reference, receipt_ref)])
    if found is None:
        raise NotFoundError("No payment matches.")
    return found


async def snapshots(sessions: Sessions, payment_ids: Sequence[str]) -> dict[str, _Snapshot]:
    """What we ask the rails for: the same words each time, or their idempotency checks would refuse us."""
    async with sessions() as session:
        rows = await (await _reading(session)).execute(SNAPSHOT, {"ids": list(payment_ids)})
        return {row.id: _snapshot(row) for row in rows}


async def created_of(sessions: Sessions, payment_id: str) -> tuple[PaymentState, PaymentRequest]:
    """A payment that has just been stored, and what its rail is asked for. Raises NotFoundError."""
    async with sessions() as session:
        row = (await (await _reading(session)).execute(SNAPSHOT, {"ids": [payment_id]})).one_or_none()
    if row is None:
        raise NotFoundError("No such payment.")
    payment = new_payment(
        meter_id=row.meter_id,
        customer_id=row.customer_id,
        rail=row.rail,
        rail_ref=row.rail_ref,
        origin=row.origin,
        asked_minor=row.asked_minor,
        currency=row.currency,
        now=row.created_at,
    )
    return replace(payment, id=row.id, top_up_id=row.top_up_id, version=row.version), _snapshot(row).request


async def _reading(session: AsyncSession) -> AsyncConnection:
    """A connection for one read, without a BEGIN."""
    return await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


def payment_request(row: Any) -> PaymentRequest:
    """What a rail is asked for, by a payment's row, its order's and its ``saved_ref``."""
    return PaymentRequest(
        reference=row.id,
        amount_minor=row.asked_minor,
        currency=row.currency,
        description=f"Water top-up {row.id}",
        return_url=row.return_url,
        method_id=row.method_id or row.rail,
        account_reference=row.account_reference or "",
        phone=row.phone,
        customer_ref=row.payer_ref,
        saved_method_ref=row.saved_ref,
        off_session=row.saved_ref is not None,
    )


def _snapshot(row: Any) -> _Snapshot:
    request = payment_request(row)
    return _Snapshot(
        id=row.id,
        version=row.version,
        rail=row.rail,
        rail_ref=row.rail_ref,
        alias_ref=row.alias_ref,
        request=request,
        age_s=row.age_s,
        internal=row.origin in INTERNAL,
        traceparent=row.traceparent,
        refunds=tuple(
            RefundTruth(ref, amount_minor, currency, AT_PROVIDER[RefundState(status)])
            for ref, amount_minor, currency, status in row.refunds or ()
            if status in AT_PROVIDER
        ),
    )


async def _ask_all(
    sessions: Sessions, rails: Mapping[str, Rail], asks: Sequence[Ask]
) -> list[Answered | Exception | None]:
    found = await snapshots(sessions, [ask.payment_id for ask in asks])
    limits = {name: asyncio.Semaphore(ASKED_AT_ONCE) for name in {one.rail for one in found.values()}}

    async def one(ask: Ask) -> Answered | Exception | None:
        snapshot = found.get(ask.payment_id)
        if snapshot is None:
            return NotFoundError("No such payment.")
        if snapshot.internal:
            return None
        try:
            async with limits[snapshot.rail]:
                with tracing.continue_from(ask.traceparent), tracing.continue_from(snapshot.traceparent):
                    traceparent = tracing.current_traceparent()
                    truth = await _ask(rail_of(rails, snapshot.rail), snapshot, ask.rail_ref)
        except Exception as error:
            # A rail that answers with nonsense costs its own payment; whoever asked logs what it was.
            return error
        if truth.reference is None and ask.account is not None and ask.account == snapshot.request.account_reference:
            truth = replace(truth, reference=snapshot.id)
        return Answered(snapshot.id, snapshot.rail, snapshot.version, truth, traceparent)

    return list(await asyncio.gather(*(one(ask) for ask in asks)))


async def _ask(rail: Rail, snapshot: _Snapshot, hint: str | None) -> PaymentTruth:
    truth = await _ask_payment(rail, snapshot, hint)
    if rail.capabilities.reports_refunds or truth.rail_ref not in (snapshot.rail_ref, snapshot.alias_ref):
        return truth
    # This rail tells of each refund, not of their sum.
    refunds = [await _refund_now(rail, refund, truth.rail_ref) for refund in snapshot.refunds]
    done_minor = sum(refund.amount_minor for refund in refunds if refund.status is RefundStatus.SUCCEEDED)
    return replace(truth, refunds=tuple(refunds), refunded_minor=done_minor)


async def _refund_now(rail: Rail, ours: RefundTruth, rail_ref: str) -> RefundTruth:
    """How a refund stands; its amount is what we asked for. One that the provider has forgotten stays as it was."""
    try:
        theirs = await rail.fetch_refund(ours.rail_ref, rail_ref=rail_ref)
    except RailRefusedError:
        return ours
    return replace(theirs, amount_minor=ours.amount_minor, currency=ours.currency)


async def _ask_payment(rail: Rail, snapshot: _Snapshot, hint: str | None) -> PaymentTruth:
    known = {snapshot.rail_ref, snapshot.alias_ref} - {None}
    if snapshot.rail_ref is not None:
        truth = await rail.fetch(snapshot.rail_ref)
        if hint is None or hint in known or hint in truth.aliases:
            return truth
    if hint is not None:
        return await rail.fetch(hint)
    # We never learnt whether the first call arrived (P29). While the provider remembers our key, the same reference
    # yields the same payment; later a second create could charge twice, so we only look.
    if snapshot.age_s < rail.capabilities.create_again_s:
        created = await rail.create(snapshot.request)
        truth = await rail.fetch(created.rail_ref)
        # Some rails tell what the payer must do only when the payment is made.
        return replace(truth, next_action=truth.next_action or created.next_action)
    found = await rail.find(snapshot.request)
    if found is None:
        raise RailUnavailableError(snapshot.rail, "it knows no payment with this reference")
    return found


async def lock_payment(session: AsyncSession, payment_id: str) -> Payment:
    """The payment's row, locked and fresh. Raises NotFoundError."""
    payment = await session.get(Payment, payment_id, with_for_update={"key_share": True}, populate_existing=True)
    if payment is None:
        raise NotFoundError("No such payment.")
    return payment


async def apply_truth(
    session: AsyncSession,
    rails: Mapping[str, Rail],
    payment_id: str,
    truth: PaymentTruth,
    now: datetime,
    *,
    only_first: bool = False,
) -> None:
    """``book`` for one payment whose rail has just answered, in the caller's transaction. Raises NotFoundError.

    ``only_first``: the answer may be older than what others have settled meanwhile, and counts only where nobody has.
    """
    work = await UnitOfWork.of(session)
    await session.flush()
    loaded = await load(work.conn, [payment_id], now, {payment_id: truth})
    if payment_id not in loaded.payments:
        raise NotFoundError("No such payment.")
    opened: dict[str, Opening] = {}
    payment = loaded.payments[payment_id]
    if only_first and payment.version:
        return
    await save(work, _decide_one(loaded, payment, truth, now, polls_of(rails.get(payment.rail)), opened), now, opened)
    await work.flush()


async def save_one(session: AsyncSession, change: Changes, now: datetime, opening: Opening | None = None) -> None:
    """Save a decision on one payment in the caller's transaction."""
    work = await UnitOfWork.of(session)
    await save(work, [change], now, {} if opening is None else {change.payment.id: opening})
    await work.flush()
