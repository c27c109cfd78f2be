"""topUpStart: one read of all that an order depends on, one statement that stores it, then the rail is asked."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import structlog
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import HouseholdRole
from standpipe.meters.access import refuse_role
from standpipe.meters.models import WalletKind
from standpipe.payments.asking import payment_request
from standpipe.payments.purchases import OrderedMeter, fits_tariff
from standpipe.payments.quote_lock import require_quote_lock
from standpipe.payments.rails.port import PaymentRequest, Rail, RailRefusedError, RailUnavailableError
from standpipe.payments.rails.registry import check_amount, fee_rule, find_method
from standpipe.payments.request_keys import check_key, hash_of, recall, same_answer
from standpipe.payments.saved_methods import ensure_customer
from standpipe.payments.schedule import polls_of
from standpipe.payments.split import fee_for
from standpipe.payments.state import PaymentState, new_payment
from standpipe.payments.top_ups import CREATED, create_at_provider, new_account_reference
from standpipe.platform import metrics, tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import InvalidInputError, MeterBlockedError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase

MUTATION = "topUpStart"
_log = structlog.get_logger(__name__)

LOAD = text("""
    SELECT c.phone, p.rail_ref AS payer_ref, k.mutation, k.request_hash, k.result, h.role,
           m.id, m.currency, m.closed_at, m.wallet_kind, m.tariff_id, m.installed_at, m.time_zone,
           EXISTS (SELECT FROM top_ups t JOIN payments y ON y.top_up_id = t.id WHERE t.meter_id = m.id
                   AND y.rail = CAST(:rail AS text) AND y.dispute IN ('INQUIRY', 'OPEN')) AS is_disputed
    FROM customers c
    LEFT JOIN request_keys k ON k.customer_id = c.id AND k.key = :key
    LEFT JOIN payment_customers p ON p.customer_id = c.id AND p.rail = CAST(:rail AS text)
    LEFT JOIN (memberships h JOIN meters m ON m.household_id = h.household_id)
        ON h.customer_id = c.id AND m.id = :meter_id
    WHERE c.id = :customer_id""").columns(result=JSONB)
# The key first: where another request has it, nothing is stored. Both wait for each other's transaction.
STORE = text("""
    WITH mine AS (
        INSERT INTO request_keys (customer_id, key, mutation, request_hash, result)
        VALUES (:customer_id, :key, :mutation, :request_hash, jsonb_build_object('top_up_id', CAST(:id AS text)))
        ON CONFLICT (customer_id, key) DO NOTHING RETURNING customer_id, key, request_hash),
    made AS (
        INSERT INTO top_ups (id, customer_id, meter_id, method_id, pay_minor, currency, idempotency_key, request_hash,
            return_url, phone, agreed, fee_agreed_minor, created_at, traceparent)
        SELECT :id, customer_id, :meter_id, :method_id, :asked_minor, :currency, key, request_hash,
            :return_url, :phone, :agreed, :fee_agreed_minor, :now, :traceparent
        FROM mine RETURNING id, pay_minor, currency, created_at),
    asked AS (
        INSERT INTO payments (id, top_up_id, rail, account_reference, payer_ref, asked_minor, currency, status,
            updated_at, due_at)
        SELECT id, id, :rail, :account_reference, :payer_ref, pay_minor, currency, :status, created_at,
            now() + :poll_after
        FROM made),
    told AS (INSERT INTO top_up_events (top_up_id, status, at) SELECT id, :status, created_at FROM made)
    SELECT id FROM made""").bindparams(bindparam("agreed", type_=JSONB(none_as_null=True)))


@dataclass(frozen=True, slots=True)
class TopUpOrder:
    """An order of a customer; amounts in minor units."""

    meter_id: str
    pay_minor: int
    currency: str
    method_id: str
    return_url: str | None = None
    phone: str | None = None
    """E.164; for methods that ring the payer's phone."""
    quote_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Situation:
    """State that an order depends on. ``meter`` is None where this customer has none by that id."""

    phone: str
    payer_ref: str | None
    role: str | None
    meter: OrderedMeter | None
    is_disputed: bool


@dataclass(frozen=True, slots=True)
class _Accepted:
    """An order that may be stored."""

    rail: Rail
    meter: OrderedMeter
    phone: str | None
    fee_agreed_minor: int


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
    known, situation = await _load(sessions, rails, customer_id, idempotency_key, order, request_hash)
    if known is not None:
        return known, True
    agreed = await agree() if agree is not None else None
    payer_ref = situation.payer_ref or await _payer_at_provider(sessions, rails, customer_id, order)
    now = clock.now()
    async with by_statement(sessions) as session:
        accepted = await _accept(session, rails, situation, order, now)
    row = _row(accepted, order, now, agreed) | {
        "customer_id": customer_id, "key": idempotency_key, "request_hash": request_hash, "payer_ref": payer_ref,
    }  # fmt: skip
    if not await _store(sessions, row, accepted.meter, agreed, now):
        async with by_statement(sessions) as session:
            first = await recall(
                session, customer_id=customer_id, key=idempotency_key, mutation=MUTATION, request_hash=request_hash
            )
        assert first is not None, "keys are never deleted"  # noqa: S101 - for the type checker.
        return str(first["top_up_id"]), True
    metrics.TOP_UPS.labels(accepted.rail.name, CREATED).inc()
    await create_at_provider(sessions, rails, clock, row["id"], _created(row))
    return str(row["id"]), False


async def _load(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    customer_id: str,
    key: str,
    order: TopUpOrder,
    request_hash: str,
) -> tuple[str | None, _Situation]:
    """The top-up that this key has begun before, and what the order depends on. Raises IdempotencyMismatchError."""
    check_key(key)
    found = find_method(rails, order.currency, order.method_id)
    values = {
        "customer_id": customer_id, "key": key, "meter_id": order.meter_id, "rail": found[0].name if found else None,
    }  # fmt: skip
    async with by_statement(sessions) as session:
        row = (await session.execute(LOAD, values)).one_or_none()
    if row is None:
        raise NotFoundError("No such customer.")
    answer = same_answer(row, MUTATION, request_hash) if row.mutation is not None else None
    meter = None
    if row.id is not None:
        meter = OrderedMeter(
            row.id, row.tariff_id, row.installed_at, row.time_zone, WalletKind(row.wallet_kind), row.currency,
            row.closed_at,
        )  # fmt: skip
    return (
        None if answer is None else str(answer["top_up_id"]),
        _Situation(row.phone, row.payer_ref, row.role, meter, row.is_disputed),
    )


async def _accept(
    session: AsyncSession, rails: Mapping[str, Rail], situation: _Situation, order: TopUpOrder, now: datetime
) -> _Accepted:
    meter = situation.meter
    if meter is None or situation.role is None:
        raise NotFoundError("No such meter.")
    refuse_role(situation.role, HouseholdRole.PAYER)
    if order.currency != meter.currency:
        raise InvalidInputError(phrase("This meter takes {currency}.", currency=meter.currency), ("pay", "currency"))
    if meter.closed_at is not None:
        raise MeterBlockedError(phrase("This meter is out of service and takes no more credit."))
    if not await fits_tariff(session, meter, now):
        raise MeterBlockedError(
            phrase("This meter's tariff does not price what its wallet holds. Please call your utility.")
        )
    found = find_method(rails, order.currency, order.method_id)
    if found is None:
        raise InvalidInputError(phrase("This way to pay is not offered for this meter."), ("methodId",))
    rail, method = found
    check_amount(method, order.pay_minor, order.currency, ("pay", "amount"))
    if situation.is_disputed:
        raise MeterBlockedError(phrase("A payment by this way is being disputed at your bank. Please pay another way."))
    # A way that rings a phone rings the customer's own where the order names none.
    phone = order.phone or (situation.phone if method.phone_required else None)
    return _Accepted(rail, meter, phone, fee_for(fee_rule(rails, order.method_id), order.pay_minor))


def _row(accepted: _Accepted, order: TopUpOrder, now: datetime, agreed: Mapping[str, int] | None) -> dict[str, Any]:
    return {
        "id": new_id("top"),
        "mutation": MUTATION,
        "meter_id": accepted.meter.id,
        "rail": accepted.rail.name,
        "method_id": order.method_id,
        "account_reference": new_account_reference(),
        "asked_minor": order.pay_minor,
        "currency": order.currency,
        "return_url": order.return_url,
        "phone": accepted.phone,
        "agreed": None if agreed is None else dict(agreed),
        "fee_agreed_minor": accepted.fee_agreed_minor,
        "status": CREATED,
        "now": now,
        # Not due before the first call has had its time: the poller must not race the request that is under way.
        "poll_after": timedelta(seconds=polls_of(accepted.rail)[0]),
        "traceparent": tracing.current_traceparent(),
    }


async def _store(
    sessions: Sessions, row: Mapping[str, Any], meter: OrderedMeter, agreed: Mapping[str, int] | None, now: datetime
) -> bool:
    """Store the order. False where another request with its key was first. Raises QuoteOutdatedError."""
    if agreed is None:
        async with by_statement(sessions) as session:
            return await session.scalar(STORE, row) is not None
    async with sessions.begin() as session:
        if await session.scalar(STORE, row) is None:
            return False
        # After the key: an order that is asked for twice at once must not stand in its own way.
        await require_quote_lock(session, meter, agreed, now, top_up_id=row["id"])
        return True


def _created(row: Mapping[str, Any]) -> tuple[PaymentState, PaymentRequest]:
    """The payment just stored, and what its rail is asked for: the words that a retry will say again."""
    payment = new_payment(
        meter_id=row["meter_id"],
        customer_id=row["customer_id"],
        rail=row["rail"],
        rail_ref=None,
        origin="CUSTOMER",
        asked_minor=row["asked_minor"],
        currency=row["currency"],
        now=row["now"],
    )
    return replace(payment, id=row["id"], top_up_id=row["id"]), payment_request(SimpleNamespace(**row, saved_ref=None))


async def _payer_at_provider(
    sessions: Sessions, rails: Mapping[str, Rail], customer_id: str, order: TopUpOrder
) -> str | None:
    """Return the customer at a provider that keeps cards, made at the first top-up; None goes on without."""
    found = find_method(rails, order.currency, order.method_id)
    if found is None or found[0].vault is None:
        return None
    try:
        return await ensure_customer(sessions, found[0].name, found[0].vault, customer_id)
    except (RailUnavailableError, RailRefusedError) as error:
        _log.warning("no customer at the provider; the payment goes on without", error=str(error))
        return None


def _hash(order: TopUpOrder) -> str:
    """Of what is ordered. An order without a quote has the hash that it had before there were quotes to order by."""
    words = asdict(order)
    if order.quote_id is None:
        del words["quote_id"]
    return hash_of(words)
