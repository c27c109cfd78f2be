"""Refunds by operators: asked for by one, approved by another, and paid only where the meter cannot have the credit.

On approval the credit leaves the wallet and the meter's total falls. Where a command with the higher total may still
reach the meter, its next statement decides: it took the lower total (the refund goes on), or it held the credit
(the refund is denied and the credit restored). States: ``standpipe.payments.refund_states``.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, null, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.rounds import rate_now
from standpipe.engine.queue import claim, hold, retry
from standpipe.meters.commands import lock_meter
from standpipe.payments.asking import INTERNAL
from standpipe.payments.decide import hold_for_refund, release_hold
from standpipe.payments.models import Payment, Refund, TopUp
from standpipe.payments.rails.port import Rail, RailRefusedError, RefundRequest, RefundStatus, RefundTruth
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.refund_states import CLAIMING, RefundState
from standpipe.payments.rows import load_one
from standpipe.payments.settle import lock_payment, save_one, settle
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import InsufficientFundsError, InvalidInputError, NotFoundError, StandpipeError
from standpipe.platform.ids import new_id
from standpipe.utilities.operators import record

ASK_AFTER_S = 60
MAX_ATTEMPTS = 40
"""With the cap of six hours, more than a week; then a person must look."""
_log = structlog.get_logger(__name__)


async def request_refund(
    session: AsyncSession,
    rails: Mapping[str, Rail],
    *,
    operator: str,
    payment_id: str,
    amount_minor: int,
    reason: str,
    request_key: str,
    now: datetime,
) -> str:
    """Ask for a refund; returns its id. The same key again is the same request.

    Raises NotFoundError, and InvalidInputError for more than is left to give back (P37), a rail that cannot, or a
    payment under dispute.
    """
    payment = await lock_payment(session, payment_id)
    known = await session.scalar(
        select(Refund).where(Refund.payment_id == payment_id, Refund.request_key == request_key)
    )
    if known is not None:
        if (known.amount_minor, known.reason) != (amount_minor, reason):
            raise InvalidInputError("This key was used for another refund.", ("key",))
        return known.id
    top_up = await session.get_one(TopUp, payment.top_up_id)
    _check_rail(rails, top_up, payment, amount_minor)
    left_minor = payment.captured_minor - payment.taken_back_minor - await claimed_minor(session, payment_id)
    if not 0 < amount_minor <= left_minor:
        raise InvalidInputError(f"At most {max(left_minor, 0)} can be given back.", ("amount",))
    refund = Refund(
        id=new_id("ref"),
        payment_id=payment_id,
        request_key=request_key,
        amount_minor=amount_minor,
        currency=payment.currency,
        reason=reason,
        status=RefundState.REQUESTED,
        requested_by=operator,
        created_at=now,
        updated_at=now,
        due_at=null(),
    )
    session.add(refund)
    await session.flush()
    detail = {"amount_minor": amount_minor, "currency": payment.currency, "reason": reason, "top_up_id": top_up.id}
    await record(session, operator=operator, action="refund.request", subject_id=refund.id, detail=detail)
    return refund.id


async def approve_refund(session: AsyncSession, *, operator: str, refund_id: str, now: datetime) -> RefundState:
    """Approve what another operator asked for; returns where it stands then.

    Raises NotFoundError, and InvalidInputError for one's own request, one that is not waiting, or credit that the
    meter holds or has used.
    """
    top_up, row, refund = await _lock(session, refund_id)
    if refund.requested_by == operator:
        raise InvalidInputError("A refund needs a second person: somebody else must approve it.")
    if refund.status != RefundState.REQUESTED:
        raise InvalidInputError(f"This refund is {refund.status}, not waiting for approval.")
    _check_undisputed(row)
    if refund.amount_minor > row.captured_minor - row.taken_back_minor:
        raise InvalidInputError("This money has gone back to the payer by another way meanwhile.")
    conn = await session.connection()
    # Water that has run and is not charged yet is not given back.
    await rate_now(conn, top_up.meter_id, now)
    payment, meter = await load_one(conn, row.id, now)
    try:
        change = hold_for_refund(payment, meter, refund.amount_minor, refund.id, now)
    except InsufficientFundsError as error:
        raise InvalidInputError("The water that this credit bought has run already.") from error
    await save_one(session, change, now)
    ready = change.meter.credit.is_proven
    refund.approved_by, refund.updated_at = operator, now
    refund.status = RefundState.READY if ready else RefundState.AWAITING_METER
    refund.due_at = func.now() if ready else null()
    await record(session, operator=operator, action="refund.approve", subject_id=refund.id, detail={"ready": ready})
    return RefundState(refund.status)


async def reject_refund(session: AsyncSession, *, operator: str, refund_id: str, now: datetime) -> None:
    """Turn down a request that waits. Raises NotFoundError, InvalidInputError."""
    _, _, refund = await _lock(session, refund_id)
    if refund.status != RefundState.REQUESTED:
        raise InvalidInputError(f"This refund is {refund.status}, not waiting for approval.")
    refund.status, refund.failure_code, refund.updated_at = RefundState.DENIED, "rejected", now
    await record(session, operator=operator, action="refund.reject", subject_id=refund.id, detail={})


async def meter_stated(sessions: Sessions, meter_id: str, now: datetime) -> None:
    """A meter has spoken: refunds that waited for its word go on, or are denied and their credit restored."""
    async with by_statement(sessions) as session:
        waiting = await session.scalars(
            select(Refund.id)
            .join(Payment, Payment.id == Refund.payment_id)
            .join(TopUp, TopUp.id == Payment.top_up_id)
            .where(TopUp.meter_id == meter_id, Refund.status == RefundState.AWAITING_METER)
            .order_by(Refund.id)
        )
        ids = waiting.all()
    for refund_id in ids:
        async with sessions.begin() as session:
            await _decide(session, refund_id, now)


async def _decide(session: AsyncSession, refund_id: str, now: datetime) -> None:
    _, row, refund = await _lock(session, refund_id)
    if refund.status != RefundState.AWAITING_METER:
        return
    _, meter = await load_one(await session.connection(), row.id, now)
    if meter.credit.over_accepted:
        refund.status, refund.failure_code, refund.updated_at = RefundState.DENIED, "delivered", now
        await _release(session, row.id, refund, now)
        _log.warning("refund denied: the meter holds the credit", refund_id=refund_id)
    elif meter.credit.is_proven:
        refund.status, refund.updated_at = RefundState.READY, now
        refund.due_at = func.now()


async def work_refunds(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, limit: int = 10) -> int:
    """Hand over what is ready, and ask about what the provider has. Returns how many were claimed."""
    async with by_statement(sessions) as session:
        due = [row.id for row in await claim(session, Refund, limit=limit)]
    async with hold(sessions, Refund, due) as held:
        for refund_id in due:
            error = await _try_one(sessions, rails, clock, refund_id)
            await held.let_go(refund_id)
            if error is not None:
                async with sessions.begin() as session:
                    row = await session.get_one(Refund, refund_id, with_for_update=True)
                    if row.due_at is not None:
                        await retry(session, row, str(error), max_attempts=MAX_ATTEMPTS, base_s=15, cap_s=6 * 3600)
    return len(due)


async def _try_one(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, refund_id: str) -> Exception | None:
    try:
        await _work_one(sessions, rails, clock, refund_id)
    except Exception as error:
        if not isinstance(error, StandpipeError):
            _log.exception("refund not worked", refund_id=refund_id)
        return error
    return None


async def _work_one(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, refund_id: str) -> None:
    async with sessions() as session:
        refund = await session.get_one(Refund, refund_id)
        payment = await session.get_one(Payment, refund.payment_id)
    if refund.status == RefundState.READY and payment.dispute == "LOST":
        # The bank has given the payer all of it: a refund on top would be paid by us.
        lost = RefundTruth("", refund.amount_minor, refund.currency, RefundStatus.FAILED, "disputed")
        await _note_sent(sessions, refund_id, lost, clock.now())
    elif refund.status == RefundState.READY:
        _check_undisputed(payment)
        request = RefundRequest(
            key=refund.id,
            rail_ref=payment.alias_ref or payment.rail_ref or "",
            receipt_ref=payment.receipt_ref,
            amount_minor=refund.amount_minor,
            currency=refund.currency,
            reason=refund.reason,
        )
        rail = rail_of(rails, payment.rail)
        try:
            # A first call that was never answered may have been heard; its key may be forgotten by now (P29).
            found = await rail.find_refund(request) if refund.attempts > 1 else None
            truth = found or await rail.refund(request)
        except RailRefusedError as error:
            truth = RefundTruth("", refund.amount_minor, refund.currency, RefundStatus.FAILED, error.code)
        await _note_sent(sessions, refund_id, truth, clock.now())
    await settle(sessions, rails, refund.payment_id, clock)
    async with sessions.begin() as session:
        row = await session.get_one(Refund, refund_id, with_for_update=True)
        if row.status == RefundState.SENT:
            delay_s = ASK_AFTER_S * min(2**row.attempts, 360)
            row.due_at = func.now() + timedelta(seconds=delay_s)


async def _note_sent(sessions: Sessions, refund_id: str, truth: RefundTruth, now: datetime) -> None:
    async with sessions.begin() as session:
        _, row, refund = await _lock(session, refund_id)
        if refund.status != RefundState.READY:
            return
        refund.updated_at = now
        if truth.rail_ref:
            refund.status, refund.rail_ref = RefundState.SENT, truth.rail_ref
        else:
            # Refused outright: nothing was paid back, so what was held is credit again.
            refund.status, refund.failure_code = RefundState.FAILED, truth.failure_code
            refund.due_at = None
            await _release(session, row.id, refund, now)


async def claimed_minor(session: AsyncSession, payment_id: str) -> int:
    """Sum the minor units that refunds under way claim, of money that is not counted as refunded yet."""
    total = await session.scalar(
        select(func.coalesce(func.sum(Refund.amount_minor), 0)).where(
            Refund.payment_id == payment_id, or_(*(Refund.status == state for state in CLAIMING))
        )
    )
    return int(total or 0)


async def _release(session: AsyncSession, payment_id: str, refund: Refund, now: datetime) -> None:
    amount_minor, refund_id = refund.amount_minor, refund.id
    await session.flush()
    payment, meter = await load_one(await session.connection(), payment_id, now)
    await save_one(session, release_hold(payment, meter, amount_minor, refund_id, now), now)


async def _lock(session: AsyncSession, refund_id: str) -> tuple[TopUp, Payment, Refund]:
    """Payment, then meter, then refund, in the lock order of the whole product."""
    payment_id = await session.scalar(select(Refund.payment_id).where(Refund.id == refund_id))
    if payment_id is None:
        raise NotFoundError("No such refund.")
    payment = await lock_payment(session, payment_id)
    top_up = await session.get_one(TopUp, payment.top_up_id)
    await lock_meter(session, top_up.meter_id)
    refund = await session.get_one(Refund, refund_id, with_for_update=True, populate_existing=True)
    return top_up, payment, refund


def _check_rail(rails: Mapping[str, Rail], top_up: TopUp, payment: Payment, amount_minor: int) -> None:
    if top_up.origin in INTERNAL:
        raise InvalidInputError("Cash and vouchers are given back at the counter: reverse the vend instead.")
    capabilities = rail_of(rails, payment.rail).capabilities
    if not capabilities.refunds:
        raise InvalidInputError("This way to pay cannot give money back.")
    if not capabilities.partial_refunds and amount_minor != payment.captured_minor:
        raise InvalidInputError("This way to pay can only give back the whole payment.", ("amount",))
    _check_undisputed(payment)


def _check_undisputed(payment: Payment) -> None:
    if payment.dispute in {"INQUIRY", "OPEN"}:
        raise InvalidInputError("The payer's bank is disputing this payment: a refund now could pay twice.")
