"""Starting, cancelling and looking after top-ups."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.queue import claim, hold, retry
from standpipe.households.models import Customer, HouseholdRole
from standpipe.meters.access import require_meter
from standpipe.meters.models import Meter
from standpipe.outbox.facts import TopUpFailed, publish
from standpipe.payments.decide import first_answer
from standpipe.payments.models import TopUp
from standpipe.payments.purchases import fits_tariff
from standpipe.payments.quote_lock import require_quote_lock
from standpipe.payments.rails.port import (
    PaymentStatus,
    Rail,
    RailRefusedError,
    RailUnavailableError,
)
from standpipe.payments.rails.registry import check_amount, fee_rule, find_method, rail_of
from standpipe.payments.request_keys import hash_of, recall, remember
from standpipe.payments.rows import save_first_answer
from standpipe.payments.saved_methods import ensure_customer
from standpipe.payments.schedule import polls_of
from standpipe.payments.settle import Ask, apply_truth, created_of, lock_top_up, settle, settle_many
from standpipe.payments.split import fee_for
from standpipe.payments.timeline import note_status
from standpipe.payments.views import SHOWN
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import (
    InvalidInputError,
    MeterBlockedError,
    NotFoundError,
    StandpipeError,
)
from standpipe.platform.ids import new_id

CREATED = "CREATED"
MUTATION = "topUpStart"
ASK_EVERY_S = 4
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TopUpOrder:
    """What a customer asks for; amounts in minor units."""

    meter_id: str
    pay_minor: int
    currency: str
    method_id: str
    return_url: str | None = None
    phone: str | None = None
    """E.164; for methods that ring the payer's phone."""
    quote_id: str | None = None


class _ReplayedError(Exception):
    """Another request with this key was first; what this one began is rolled back."""

    def __init__(self, top_up_id: str) -> None:
        super().__init__(top_up_id)
        self.top_up_id = top_up_id


async def start(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    *,
    customer_id: str,
    idempotency_key: str,
    order: TopUpOrder,
    agree: Callable[[], Awaitable[Mapping[str, int] | None]] | None = None,
) -> tuple[str, bool]:
    """Begin a top-up; returns its id and whether the key was used before with the same order (P28).

    Our row is committed before the provider is called, so nothing that the provider says can find us without it. A
    provider that does not answer leaves the top-up CREATED; the poller finds out what became of it. ``agree`` gives
    the parts of the quote that was ordered by; it is not asked for an order that was begun before.
    Raises what ``agree`` does, QuoteOutdatedError, NotFoundError, InvalidInputError, AmountOutOfRangeError,
    MeterBlockedError, IdempotencyMismatchError.
    """
    request_hash = _hash(order)
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        known = await recall(
            session, customer_id=customer_id, key=idempotency_key, mutation=MUTATION, request_hash=request_hash
        )
    if known is not None:
        return str(known["top_up_id"]), True
    agreed = await agree() if agree is not None else None
    payer_ref = await _payer_at_provider(sessions, rails, customer_id, order)
    try:
        async with sessions.begin() as session:
            top_up_id = await _store(
                session, rails, clock.now(), customer_id, idempotency_key, order, request_hash, payer_ref, agreed
            )
    except _ReplayedError as first:
        return first.top_up_id, True
    await create_at_provider(sessions, rails, clock, top_up_id)
    return top_up_id, False


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
    if top_up.rail_ref is None:
        raise InvalidInputError("The payment is still being opened. Please try again shortly.", ("topUpId",))
    try:
        await rail_of(rails, top_up.rail).cancel(top_up.rail_ref)
        await settle(sessions, rails, top_up_id, clock)
    except RailUnavailableError as error:
        raise InvalidInputError("The payment provider does not answer. Please try again shortly.", ()) from error


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
            update(TopUp)
            .where(
                TopUp.id == top_up_id,
                TopUp.status.in_([CREATED, PaymentStatus.PENDING, PaymentStatus.FAILED]),
                or_(
                    TopUp.asked_real_at.is_(None),
                    TopUp.asked_real_at < func.now() - timedelta(seconds=ASK_EVERY_S),
                ),
            )
            .values(asked_real_at=func.now())
            .returning(TopUp.id)
        )
    if mine is None:
        return
    try:
        await settle(sessions, rails, top_up_id, clock)
    except StandpipeError as error:
        _log.info("top-up not refreshed", top_up_id=top_up_id, error=str(error))


async def poll_due(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, limit: int = 200) -> int:
    """The payment poller: ask about top-ups that no notice has settled. Returns how many were claimed."""
    async with sessions.begin() as session:
        due = [row.id for row in await claim(session, TopUp, limit=limit)]
    if not due:
        return 0
    async with hold(sessions, TopUp, due):
        outcomes = await settle_many(sessions, rails, [Ask(top_up_id) for top_up_id in due], clock)
    for top_up_id, error in zip(due, outcomes, strict=True):
        if error is None:
            continue
        if isinstance(error, RailRefusedError) and await _refuse(sessions, top_up_id, error, clock.now()):
            continue
        if not isinstance(error, RailUnavailableError | RailRefusedError):
            _log.error("top-up not settled", top_up_id=top_up_id, exc_info=error)
        async with sessions.begin() as session:
            row = await session.get(TopUp, top_up_id, with_for_update={"key_share": True, "skip_locked": True})
            if row is None:
                # Somebody works on it; its lease ends by itself.
                continue
            polls = polls_of(rails.get(row.rail))
            await retry(session, row, str(error), max_attempts=len(polls), base_s=polls[0], cap_s=polls[-1])
    return len(due)


async def _payer_at_provider(
    sessions: Sessions, rails: Mapping[str, Rail], customer_id: str, order: TopUpOrder
) -> str | None:
    """Who the customer is at a provider that keeps cards, made there at the first top-up; None goes on without."""
    found = find_method(rails, order.currency, order.method_id)
    if found is None or found[0].vault is None:
        return None
    try:
        return await ensure_customer(sessions, found[0].name, found[0].vault, customer_id)
    except (RailUnavailableError, RailRefusedError) as error:
        _log.warning("no customer at the provider; the payment goes on without", error=str(error))
        return None


async def _store(
    session: AsyncSession,
    rails: Mapping[str, Rail],
    now: datetime,
    customer_id: str,
    idempotency_key: str,
    order: TopUpOrder,
    request_hash: str,
    payer_ref: str | None,
    agreed: Mapping[str, int] | None,
) -> str:
    meter = await require_meter(session, customer_id=customer_id, meter_id=order.meter_id, role=HouseholdRole.PAYER)
    rail = await _check(session, rails, meter, order, now)
    top_up = new_top_up(
        rail,
        customer_id=customer_id,
        meter_id=order.meter_id,
        pay_minor=order.pay_minor,
        currency=order.currency,
        method_id=order.method_id,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        now=now,
    )
    top_up.return_url, top_up.phone, top_up.payer_ref = order.return_url, order.phone, payer_ref
    top_up.agreed = None if agreed is None else dict(agreed)
    if top_up.phone is None and _rings(rails, order):
        top_up.phone = await session.scalar(select(Customer.phone).where(Customer.id == customer_id))
    top_up.fee_agreed_minor = fee_for(fee_rule(rails, order.method_id), order.pay_minor)
    first = await remember(
        session,
        customer_id=customer_id,
        key=idempotency_key,
        mutation=MUTATION,
        request_hash=request_hash,
        result={"top_up_id": top_up.id},
    )
    if first is not None:
        raise _ReplayedError(str(first["top_up_id"]))
    # After the key: an order that is asked for twice at once must not stand in its own way.
    if agreed is not None:
        await require_quote_lock(session, meter, agreed, now)
    session.add(top_up)
    await session.flush()
    note_status(session, top_up_id=top_up.id, rail=top_up.rail, status=CREATED, at=now)
    return top_up.id


def new_top_up(
    rail: Rail,
    *,
    customer_id: str | None,
    meter_id: str,
    pay_minor: int,
    currency: str,
    method_id: str,
    idempotency_key: str,
    request_hash: str,
    now: datetime,
) -> TopUp:
    """A top-up that is about to be asked for at a provider; the caller adds it."""
    return TopUp(
        id=new_id("top"),
        customer_id=customer_id,
        meter_id=meter_id,
        rail=rail.name,
        method_id=method_id,
        account_reference=new_account_reference(),
        pay_minor=pay_minor,
        currency=currency,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        status=CREATED,
        created_at=now,
        updated_at=now,
        # Not due before the first call has had its time: the poller must not race the request that is under way.
        due_at=func.now() + timedelta(seconds=polls_of(rail)[0]),
    )


def new_account_reference() -> str:
    """What a rail with little room shows and carries for a top-up: 10 characters, 45 random bits, unique."""
    return "W" + "".join(secrets.choice("0123456789ABCDEFGHJKMNPQRSTVWXYZ") for _ in range(9))


async def _check(
    session: AsyncSession, rails: Mapping[str, Rail], meter: Meter, order: TopUpOrder, now: datetime
) -> Rail:
    if order.currency != meter.currency:
        raise InvalidInputError(f"This meter takes {meter.currency}.", ("pay", "currency"))
    if meter.closed_at is not None:
        raise MeterBlockedError("This meter is out of service and takes no more credit.")
    if not await fits_tariff(session, meter, now):
        raise MeterBlockedError("This meter's tariff does not price what its wallet holds. Please call your utility.")
    found = find_method(rails, order.currency, order.method_id)
    if found is None:
        raise InvalidInputError("This way to pay is not offered for this meter.", ("methodId",))
    rail, method = found
    check_amount(method, order.pay_minor, order.currency, ("pay", "amount"))
    if await is_disputed(session, meter.id, rail.name):
        raise MeterBlockedError("A payment by this way is being disputed at your bank. Please pay another way.")
    return rail


def _hash(order: TopUpOrder) -> str:
    """Of what is ordered. An order without a quote has the hash that it had before there were quotes to order by."""
    words = asdict(order)
    if order.quote_id is None:
        del words["quote_id"]
    return hash_of(words)


def _rings(rails: Mapping[str, Rail], order: TopUpOrder) -> bool:
    """Whether this way to pay rings a phone; without a number in the order it is the customer's own."""
    found = find_method(rails, order.currency, order.method_id)
    return found is not None and found[1].phone_required


async def is_disputed(session: AsyncSession, meter_id: str, rail: str) -> bool:
    """Whether a payer's bank has an open question about a payment for this meter on this rail: it is frozen."""
    found = await session.scalar(
        select(TopUp.id)
        .where(TopUp.meter_id == meter_id, TopUp.rail == rail, TopUp.dispute.in_(["INQUIRY", "OPEN"]))
        .limit(1)
    )
    return found is not None


async def create_at_provider(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, top_up_id: str) -> None:
    """Ask the rail for a stored top-up's payment. No answer leaves it CREATED, for the poller to find out."""
    payment, request = await created_of(sessions, top_up_id)
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


async def _refuse(sessions: Sessions, top_up_id: str, error: RailRefusedError, now: datetime) -> bool:
    """There is no such payment, and none will be: FAILED. False for one that the provider has had before: a no about
    that is no end, and it is asked again until a person must look.
    """
    async with sessions.begin() as session:
        top_up = await lock_top_up(session, top_up_id)
        if top_up.rail_ref is not None or top_up.version:
            return False
        top_up.status, top_up.failure_code = PaymentStatus.FAILED, error.code
        top_up.failure_message = error.message
        top_up.version += 1
        top_up.updated_at = now
        top_up.due_at = None
        note_status(session, top_up_id=top_up_id, rail=top_up.rail, status=PaymentStatus.FAILED, at=now)
        await publish(session, TopUpFailed(top_up_id, top_up.meter_id, error.code))
    return True
