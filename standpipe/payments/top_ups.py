"""Cancelling and looking after top-ups, and the first call to their rail. How a customer begins one: ``starting``."""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.queue import claim, hold, retry
from standpipe.households.models import HouseholdRole
from standpipe.meters.access import require_meter
from standpipe.outbox.facts import TopUpFailed, publish
from standpipe.payments.asking import Ask, created_of
from standpipe.payments.decide import first_answer
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import (
    PaymentRequest,
    PaymentStatus,
    Rail,
    RailRefusedError,
    RailUnavailableError,
)
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.rows import save_first_answer
from standpipe.payments.schedule import polls_of
from standpipe.payments.settle import apply_truth, lock_payment, settle, settle_many
from standpipe.payments.state import PaymentState
from standpipe.payments.timeline import note_status
from standpipe.payments.views import SHOWN
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import (
    InvalidInputError,
    NotFoundError,
    StandpipeError,
)
from standpipe.platform.language import phrase

CREATED = "CREATED"
ASK_EVERY_S = 4
_log = structlog.get_logger(__name__)


async def cancel(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, customer_id: str, top_up_id: str
) -> None:
    """Stop a top-up that was not paid yet; one that was paid meanwhile is settled instead.

    Raises NotFoundError, ForbiddenError for another's top-up unless the household is theirs, and InvalidInputError
    where the provider cannot be reached to stop it.
    """
    async with sessions() as session:
        top_up = await require_top_up(session, customer_id=customer_id, top_up_id=top_up_id)
        needed = HouseholdRole.PAYER if top_up.customer_id == customer_id else HouseholdRole.OWNER
        await require_meter(session, customer_id=customer_id, meter_id=top_up.meter_id, role=needed)
        payment = await session.get_one(Payment, top_up_id)
    if payment.rail_ref is None:
        raise InvalidInputError(phrase("The payment is still being opened. Please try again shortly."), ("topUpId",))
    try:
        await rail_of(rails, payment.rail).cancel(payment.rail_ref)
        await settle(sessions, rails, top_up_id, clock)
    except RailUnavailableError as error:
        raise InvalidInputError(
            phrase("The payment provider does not answer. Please try again shortly."), ()
        ) from error


async def require_top_up(session: AsyncSession, *, customer_id: str, top_up_id: str) -> TopUp:
    """A top-up that this customer's household sees. Raises NotFoundError for any other, and for none."""
    top_up = await session.scalar(select(TopUp).where(TopUp.id == top_up_id, SHOWN))
    if top_up is None:
        raise NotFoundError("No such top-up.")
    await require_meter(session, customer_id=customer_id, meter_id=top_up.meter_id)
    return top_up


async def refresh(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, top_up_id: str) -> None:
    """The customer is looking: ask the provider now, unless somebody asked within ASK_EVERY_S. Never raises."""
    async with sessions.begin() as session:
        mine = await session.scalar(
            update(Payment)
            .where(
                Payment.id == top_up_id,
                Payment.status.in_([CREATED, PaymentStatus.PENDING, PaymentStatus.FAILED]),
                or_(
                    Payment.asked_real_at.is_(None),
                    Payment.asked_real_at < func.now() - timedelta(seconds=ASK_EVERY_S),
                ),
            )
            .values(asked_real_at=func.now())
            .returning(Payment.id)
        )
    if mine is None:
        return
    try:
        await settle(sessions, rails, top_up_id, clock)
    except StandpipeError as error:
        _log.info("top-up not refreshed", top_up_id=top_up_id, error=str(error))


async def poll_due(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, limit: int = 200) -> int:
    """The payment poller: ask about payments that no notice has settled. Returns how many were claimed."""
    async with by_statement(sessions) as session:
        due = [row.id for row in await claim(session, Payment, limit=limit)]
    if not due:
        return 0
    async with hold(sessions, Payment, due):
        outcomes = await settle_many(sessions, rails, [Ask(payment_id) for payment_id in due], clock)
    for payment_id, error in zip(due, outcomes, strict=True):
        if error is None:
            continue
        if isinstance(error, RailRefusedError) and await _refuse(sessions, payment_id, error, clock.now()):
            continue
        if not isinstance(error, RailUnavailableError | RailRefusedError):
            _log.error("payment not settled", payment_id=payment_id, exc_info=error)
        async with sessions.begin() as session:
            row = await session.get(Payment, payment_id, with_for_update={"key_share": True, "skip_locked": True})
            if row is None:
                # Somebody works on it; its lease ends by itself.
                continue
            polls = polls_of(rails.get(row.rail))
            await retry(session, row, str(error), max_attempts=len(polls), base_s=polls[0], cap_s=polls[-1])
    return len(due)


async def store_order(session: AsyncSession, rail: Rail, top_up: TopUp, payer_ref: str | None = None) -> None:
    """Store an order and the payment that is about to be asked for at a provider, with the first step of both."""
    session.add(top_up)
    await session.flush()
    payment = Payment(
        id=top_up.id,
        top_up_id=top_up.id,
        rail=rail.name,
        account_reference=new_account_reference(),
        payer_ref=payer_ref,
        asked_minor=top_up.pay_minor,
        currency=top_up.currency,
        status=CREATED,
        updated_at=top_up.created_at,
        # Not due before the first call has had its time: the poller must not race the request that is under way.
        due_at=func.now() + timedelta(seconds=polls_of(rail)[0]),
    )
    session.add(payment)
    note_status(session, top_up_id=top_up.id, rail=rail.name, status=CREATED, at=top_up.created_at)


def new_account_reference() -> str:
    """Make the reference that a rail with little room shows for a top-up: 10 characters, 45 random bits, unique."""
    return "W" + "".join(secrets.choice("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for _ in range(9))


async def is_disputed(session: AsyncSession, meter_id: str, rail: str) -> bool:
    """Tell if a bank has an open question about a payment for this meter on this rail: it is frozen."""
    found = await session.scalar(
        select(Payment.id)
        .join(TopUp, TopUp.id == Payment.top_up_id)
        .where(TopUp.meter_id == meter_id, Payment.rail == rail, Payment.dispute.in_(["INQUIRY", "OPEN"]))
        .limit(1)
    )
    return found is not None


async def create_at_provider(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    top_up_id: str,
    created: tuple[PaymentState, PaymentRequest] | None = None,
) -> None:
    """Ask the rail for a stored top-up's payment. No answer leaves it CREATED, for the poller to find out.

    ``created``: the payment as it was stored and what its rail is asked for, where the caller has them at hand.
    """
    payment, request = created or await created_of(sessions, top_up_id)
    rail = rails.get(payment.rail)
    try:
        truth = await rail_of(rails, payment.rail).create(request)
    except RailRefusedError as error:
        await _refuse(sessions, top_up_id, error, clock.now())
        return
    except RailUnavailableError as error:
        _log.warning("provider did not answer a create", top_up_id=top_up_id, error=str(error))
        return
    # What a webhook has settled meanwhile is newer than this answer, which then adds nothing.
    answer = None if payment.version else first_answer(payment, truth, clock.now(), polls_of(rail))
    if answer is not None:
        await save_first_answer(sessions, *answer, clock.now())
        return
    async with sessions.begin() as session:
        await apply_truth(session, rails, top_up_id, truth, clock.now(), only_first=True)


async def _refuse(sessions: Sessions, payment_id: str, error: RailRefusedError, now: datetime) -> bool:
    """There is no such payment, and none will be: FAILED. False for one that the provider has had before: a no about
    that is no end, and it is asked again until a person must look.
    """
    async with sessions.begin() as session:
        payment = await lock_payment(session, payment_id)
        if payment.rail_ref is not None or payment.version:
            return False
        payment.status, payment.failure_code = PaymentStatus.FAILED, error.code
        payment.failure_message = error.message
        payment.version += 1
        payment.updated_at = now
        payment.due_at = None
        top_up = await session.get_one(TopUp, payment.top_up_id)
        note_status(session, top_up_id=top_up.id, rail=payment.rail, status=PaymentStatus.FAILED, at=now)
        await publish(session, TopUpFailed(top_up.id, top_up.meter_id, error.code))
    return True
