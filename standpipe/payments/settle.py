"""``settle``: make the ledger agree with the provider. Webhook, redirect, poll and janitor all call this one function.

The provider is asked outside any transaction. Then, under the top-up's row lock, the difference between its running
totals and those already posted is posted. Twice, late, or in another order, the second difference is zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.outbox.facts import SecondPayment, TopUpFailed, publish
from standpipe.payments.booking import book_captured, book_dispute_fee, book_reversals
from standpipe.payments.models import Refund, TopUp
from standpipe.payments.rails.port import (
    PaymentRequest,
    PaymentStatus,
    PaymentTruth,
    Rail,
    RailRefusedError,
    RailUnavailableError,
    RefundStatus,
    RefundTruth,
)
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.refund_states import AT_PROVIDER, RefundState, apply_refund
from standpipe.payments.saved_methods import keep_card
from standpipe.payments.schedule import plan_next_poll
from standpipe.payments.suspense import hold_foreign, out_of_suspense
from standpipe.payments.timeline import note_status
from standpipe.payments.vend_models import SavedMethod
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.notify import LIVE, notify

MAX_ROUNDS = 8
INTERNAL = frozenset({"AGENT", "VOUCHER"})
"""Origins that are paid inside our own ledger: there is no provider to ask."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Snapshot:
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
    top_up_id: str,
    clock: Clock,
    *,
    rail_ref: str | None = None,
    receipt_ref: str | None = None,
    account: str | None = None,
) -> None:
    """Ask the provider what became of a top-up and post the difference.

    ``rail_ref`` and ``receipt_ref`` are hints from a notice, for a top-up whose own row has not learnt them yet;
    ``account`` is the account reference that came with ``rail_ref``, for a payment that does not carry our id.
    Raises NotFoundError, ProviderUnavailableError (nothing changed; ask again), ProviderRefusedError.
    """
    for _ in range(MAX_ROUNDS):
        snapshot = await _snapshot(sessions, top_up_id)
        if snapshot.internal:
            return
        with tracing.continue_from(snapshot.traceparent), tracing.span("settle", rail=snapshot.rail):
            truth = await _ask(rail_of(rails, snapshot.rail), snapshot, rail_ref)
            truth = replace(truth, receipt_ref=truth.receipt_ref or receipt_ref)
            if truth.reference is None and account is not None and account == snapshot.request.account_reference:
                truth = replace(truth, reference=top_up_id)
            async with sessions.begin() as session:
                top_up = await lock_top_up(session, top_up_id)
                # Another worker settled while we asked: what we were told may be older than what it was told (P17).
                if top_up.version == snapshot.version:
                    await apply_truth(session, top_up, truth, clock.now(), rail_of(rails, top_up.rail))
                    return
    # What others saw may be older than what we were called for: whoever called asks again.
    raise RailUnavailableError(snapshot.rail, "others settle this payment at the same moment")


async def find_top_up(
    sessions: Sessions,
    *,
    rail: str,
    rail_ref: str | None,
    reference: str | None,
    receipt_ref: str | None = None,
) -> str:
    """The top-up that a notice is about, by any of the provider's ids or by our reference. Raises NotFoundError."""
    theirs = or_(TopUp.rail_ref == rail_ref, TopUp.alias_ref == rail_ref)
    by_receipt = or_(TopUp.receipt_ref == receipt_ref, TopUp.rail_ref == receipt_ref)
    async with sessions() as session:
        by_ref = select(TopUp.id).where(TopUp.rail == rail, theirs)
        by_reference = select(TopUp.id).where(
            TopUp.rail == rail, or_(TopUp.id == reference, TopUp.account_reference == reference)
        )
        found = (await session.scalar(by_ref) if rail_ref else None) or (
            await session.scalar(by_reference) if reference else None
        )
        if found is None and receipt_ref:
            found = await session.scalar(select(TopUp.id).where(TopUp.rail == rail, by_receipt).limit(1))
    if found is None:
        raise NotFoundError("No top-up matches.")
    return found


async def apply_truth(
    session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime, rail: Rail | None = None
) -> None:
    """Post what a locked top-up lacks, and move its status. The only place where a payment becomes credit."""
    if not _is_about(top_up, truth):
        _log.error("payment is not this top-up's", top_up_id=top_up.id, rail_ref=truth.rail_ref)
        plan_next_poll(top_up, rail)
        return
    if top_up.rail_ref not in (None, truth.rail_ref) and truth.rail_ref != top_up.alias_ref:
        await _apply_to_sibling(session, top_up, truth, now, rail)
        plan_next_poll(top_up, rail)
        return
    if truth.captured_is_request:
        truth = replace(truth, captured_minor=top_up.pay_minor, requested_minor=top_up.pay_minor)
    if await _is_credited_elsewhere(session, top_up, truth):
        # Not credited and not dropped: it stands in the report until a person has looked.
        _log.error("this money is another top-up's", top_up_id=top_up.id, receipt_ref=truth.receipt_ref)
        top_up.due_at, top_up.dead_at = None, func.now()
        top_up.last_error = "the provider names the same receipt for this and for another top-up"
        return
    before = _watched(top_up)
    _learn(top_up, truth)
    if truth.saved_card is not None and top_up.customer_id is not None:
        await keep_card(session, customer_id=top_up.customer_id, rail=top_up.rail, card=truth.saved_card, now=now)
    if truth.currency == top_up.currency:
        source = await out_of_suspense(session, top_up, truth, now)
        await book_captured(session, top_up, truth.captured_minor, now, source=source)
        await book_reversals(session, top_up, truth, now)
        await book_dispute_fee(session, top_up, truth.dispute_fee_minor, now)
        for refund in truth.refunds:
            await apply_refund(session, top_up, refund, now)
    else:
        await hold_foreign(session, top_up, truth, now)
    await _move_status(session, top_up, truth, now)
    if truth.next_action is not None:
        # Merged, for what came with the creation alone (a key to the customer's cards) is not told again.
        top_up.next_action = (top_up.next_action or {}) | truth.next_action
    plan_next_poll(top_up, rail)
    if _watched(top_up) != before:
        top_up.version += 1
        top_up.updated_at = now
        await notify(session, LIVE, top_up.id)
        await notify(session, LIVE, top_up.meter_id)


def _watched(top_up: TopUp) -> tuple[object, ...]:
    """What makes a settlement a change that everybody else must see before they apply theirs."""
    return (
        *(top_up.status, top_up.captured_minor, top_up.refunded_minor, top_up.disputed_minor, top_up.suspense_minor),
        *(top_up.next_action, top_up.dispute, top_up.dispute_fee_minor, top_up.held_minor),
    )


def _is_about(top_up: TopUp, truth: PaymentTruth) -> bool:
    if truth.reference is None:
        # Money that nobody ordered, or a rail that does not carry our words: the provider's own id must be ours.
        return top_up.rail_ref == truth.rail_ref
    return truth.reference in {top_up.id, top_up.intention_id, top_up.account_reference}


def _learn(top_up: TopUp, truth: PaymentTruth) -> None:
    """Keep the names that the provider has for this payment."""
    if truth.rail_ref != top_up.alias_ref:
        top_up.rail_ref = truth.rail_ref
    if truth.aliases and top_up.alias_ref is None:
        top_up.alias_ref = truth.aliases[0]
    if truth.receipt_ref is not None and truth.captured_minor and top_up.receipt_ref is None:
        top_up.receipt_ref = truth.receipt_ref


async def _is_credited_elsewhere(session: AsyncSession, top_up: TopUp, truth: PaymentTruth) -> bool:
    """Whether this very money, by the number on the payer's receipt, is another top-up's already (P44)."""
    if top_up.captured_minor or not truth.captured_minor:
        return False
    theirs = [name for name in (truth.rail_ref, *truth.aliases, truth.receipt_ref) if name is not None]
    other = select(TopUp.id).where(
        TopUp.rail == top_up.rail,
        TopUp.id != top_up.id,
        TopUp.captured_minor > 0,
        or_(TopUp.receipt_ref.in_(theirs), TopUp.rail_ref.in_(theirs), TopUp.alias_ref.in_(theirs)),
    )
    return await session.scalar(other.limit(1)) is not None


async def _apply_to_sibling(
    session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime, rail: Rail | None
) -> None:
    """A second payment for one intention: it is real money for this meter, so it is credited too, and flagged (P31)."""
    fresh = await session.scalar(
        insert(TopUp)
        .values(
            id=new_id("top"),
            customer_id=top_up.customer_id,
            meter_id=top_up.meter_id,
            rail=top_up.rail,
            rail_ref=truth.rail_ref,
            origin="SIBLING",
            intention_id=top_up.id,
            pay_minor=max(truth.requested_minor, 1),
            currency=top_up.currency,
            method_id=top_up.method_id,
            idempotency_key=f"sibling:{truth.rail_ref}",
            request_hash="",
            status="CREATED",
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing(index_elements=["rail", "rail_ref"])
        .returning(TopUp.id)
    )
    query = select(TopUp.id).where(TopUp.rail == top_up.rail, TopUp.rail_ref == truth.rail_ref)
    sibling = await lock_top_up(session, fresh or (await session.scalars(query)).one())
    if fresh is not None:
        note_status(session, top_up_id=fresh, rail=top_up.rail, status="CREATED", at=now)
        _log.error("second payment for one intention", top_up_id=top_up.id, sibling_id=fresh)
        await publish(session, SecondPayment(top_up.id, fresh))
        await apply_truth(session, sibling, truth, now, rail)
    else:
        # What we hold was asked for another's sake, and may lack this payment's refunds: the janitor asks for its own.
        sibling.due_at = func.now()


async def _snapshot(sessions: Sessions, top_up_id: str) -> _Snapshot:
    async with sessions() as session:
        top_up = await session.get(TopUp, top_up_id)
        if top_up is None:
            raise NotFoundError("No such top-up.")
        refunds = (await session.scalars(select(Refund).where(Refund.top_up_id == top_up_id))).all()
        age = datetime.now(UTC) - top_up.started_real_at
        return _Snapshot(
            version=top_up.version,
            rail=top_up.rail,
            rail_ref=top_up.rail_ref,
            alias_ref=top_up.alias_ref,
            request=await request_of(session, top_up),
            age_s=age.total_seconds(),
            internal=top_up.origin in INTERNAL,
            traceparent=top_up.traceparent,
            refunds=tuple(
                RefundTruth(row.rail_ref, row.amount_minor, row.currency, AT_PROVIDER[RefundState(row.status)])
                for row in refunds
                if row.rail_ref is not None and row.status in AT_PROVIDER
            ),
        )


async def request_of(session: AsyncSession, top_up: TopUp) -> PaymentRequest:
    """What we ask the provider for: the same words each time, or its idempotency check would refuse us."""
    saved = await session.get(SavedMethod, top_up.saved_method_id) if top_up.saved_method_id else None
    return PaymentRequest(
        reference=top_up.id,
        amount_minor=top_up.pay_minor,
        currency=top_up.currency,
        description=f"Water top-up {top_up.id}",
        return_url=top_up.return_url,
        method_id=top_up.method_id or top_up.rail,
        account_reference=top_up.account_reference or "",
        phone=top_up.phone,
        customer_ref=top_up.payer_ref,
        saved_method_ref=saved.rail_ref if saved else None,
        off_session=saved is not None,
    )


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


async def lock_top_up(session: AsyncSession, top_up_id: str) -> TopUp:
    """The top-up's row, locked and fresh. Raises NotFoundError."""
    top_up = await session.get(TopUp, top_up_id, with_for_update={"key_share": True}, populate_existing=True)
    if top_up is None:
        raise NotFoundError("No such top-up.")
    return top_up


async def _move_status(session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime) -> None:
    status = truth.status
    if top_up.captured_minor or top_up.suspense_minor:
        status = PaymentStatus.SUCCEEDED
    top_up.dispute = truth.dispute
    top_up.failure_code = truth.failure_code if status is PaymentStatus.FAILED else None
    top_up.failure_message = truth.failure_message if status is PaymentStatus.FAILED else None
    if status == top_up.status:
        return
    top_up.status = status
    note_status(session, top_up_id=top_up.id, rail=top_up.rail, status=status, at=now)
    if status is PaymentStatus.FAILED:
        await publish(session, TopUpFailed(top_up.id, top_up.meter_id, truth.failure_code or "unknown"))
