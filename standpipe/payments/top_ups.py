"""Starting, cancelling and looking after top-ups."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.clock import Clock
from standpipe.db.engine import Sessions
from standpipe.db.queue import claim, retry
from standpipe.errors import (
    AmountOutOfRangeError,
    IdempotencyMismatchError,
    InvalidInputError,
    NotFoundError,
    StandpipeError,
)
from standpipe.ids import new_id
from standpipe.meters.access import require_meter
from standpipe.meters.models import Meter
from standpipe.payments.models import TopUp, TopUpEvent
from standpipe.payments.provider import (
    PaymentMethod,
    PaymentStatus,
    PaymentTruth,
    Provider,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from standpipe.payments.schedule import POLL_AFTER_S
from standpipe.payments.settle import apply_truth, lock_top_up, provider_of, request_of, settle
from standpipe.units import is_storable

CREATED = "CREATED"
MAX_KEY_LENGTH = 128
ASK_EVERY_S = 4
LEASE_S = 60.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TopUpOrder:
    """What a customer asks for; amounts in minor units."""

    meter_id: str
    pay_minor: int
    currency: str
    method_id: str
    return_url: str | None = None


def find_method(
    providers: Mapping[str, Provider], currency: str, method_id: str
) -> tuple[Provider, PaymentMethod] | None:
    """The method with this id in this currency, with its provider."""
    for provider in providers.values():
        for method in provider.methods(currency):
            if method.id == method_id:
                return provider, method
    return None


async def start(
    sessions: Sessions,
    providers: Mapping[str, Provider],
    clock: Clock,
    *,
    customer_id: str,
    idempotency_key: str,
    order: TopUpOrder,
) -> tuple[str, bool]:
    """Begin a top-up; returns its id and whether the key was used before with the same order (P28).

    Our row is committed before the provider is called, so nothing that the provider says can find us without it. A
    provider that does not answer leaves the top-up CREATED; the janitor finds out what became of it.
    Raises NotFoundError, InvalidInputError, AmountOutOfRangeError, IdempotencyMismatchError.
    """
    async with sessions.begin() as session:
        top_up_id, replayed = await _store(session, providers, clock.now(), customer_id, idempotency_key, order)
    if not replayed:
        await _create_at_provider(sessions, providers, clock, top_up_id)
    return top_up_id, replayed


async def cancel(
    sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, *, customer_id: str, top_up_id: str
) -> None:
    """Stop a top-up that was not paid yet; one that was paid meanwhile is settled instead.

    Raises NotFoundError, and InvalidInputError where the provider cannot be reached to stop it.
    """
    async with sessions() as session:
        top_up = await require_top_up(session, customer_id=customer_id, top_up_id=top_up_id)
    if top_up.provider_ref is None:
        raise InvalidInputError("The payment is still being opened. Please try again shortly.", ("topUpId",))
    try:
        await provider_of(providers, top_up.provider).cancel(top_up.provider_ref)
        await settle(sessions, providers, top_up_id, clock)
    except ProviderUnavailableError as error:
        raise InvalidInputError("The payment provider does not answer. Please try again shortly.", ()) from error


async def require_top_up(session: AsyncSession, *, customer_id: str, top_up_id: str) -> TopUp:
    """A top-up of a meter in this customer's household. Raises NotFoundError for any other, and for none."""
    top_up = await session.get(TopUp, top_up_id)
    if top_up is None:
        raise NotFoundError("No such top-up.")
    await require_meter(session, customer_id=customer_id, meter_id=top_up.meter_id)
    return top_up


async def refresh(sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, top_up_id: str) -> None:
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
        await settle(sessions, providers, top_up_id, clock)
    except StandpipeError as error:
        _log.info("top-up not refreshed", top_up_id=top_up_id, error=str(error))


async def poll_due(sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, *, limit: int = 20) -> int:
    """The janitor: ask about top-ups that no notice has settled. Returns how many were claimed."""
    async with sessions.begin() as session:
        due = [row.id for row in await claim(session, TopUp, limit=limit, lease_s=LEASE_S)]
    for top_up_id in due:
        try:
            await settle(sessions, providers, top_up_id, clock)
        except ProviderRefusedError as error:
            await _refuse(sessions, top_up_id, error, clock.now())
        except Exception as error:
            if not isinstance(error, ProviderUnavailableError):
                _log.exception("top-up not settled", top_up_id=top_up_id)
            async with sessions.begin() as session:
                row = await lock_top_up(session, top_up_id)
                await retry(session, row, str(error), max_attempts=len(POLL_AFTER_S), base_s=10, cap_s=24 * 3600)
    return len(due)


async def _store(
    session: AsyncSession,
    providers: Mapping[str, Provider],
    now: datetime,
    customer_id: str,
    idempotency_key: str,
    order: TopUpOrder,
) -> tuple[str, bool]:
    if not 0 < len(idempotency_key) <= MAX_KEY_LENGTH or not is_storable(idempotency_key):
        raise InvalidInputError(f"The key must have 1 to {MAX_KEY_LENGTH} characters.", ("idempotencyKey",))
    request_hash = hashlib.sha256(json.dumps(asdict(order), sort_keys=True).encode()).hexdigest()
    known = await _known(session, customer_id, idempotency_key, request_hash)
    if known is not None:
        return known, True
    meter = await require_meter(session, customer_id=customer_id, meter_id=order.meter_id)
    provider = _check(providers, meter, order)
    values = {
        "id": new_id("top"),
        "customer_id": customer_id,
        "meter_id": order.meter_id,
        "provider": provider.name,
        "pay_minor": order.pay_minor,
        "currency": order.currency,
        "idempotency_key": idempotency_key,
        "request_hash": request_hash,
        "return_url": order.return_url,
        "status": CREATED,
        "created_at": now,
        "updated_at": now,
        # Not due before the first call has had its time: the janitor must not race the request that is under way.
        "due_at": func.now() + timedelta(seconds=POLL_AFTER_S[0]),
    }
    fresh = await session.scalar(
        insert(TopUp)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["customer_id", "idempotency_key"])
        .returning(TopUp.id)
    )
    if fresh is None:
        known = await _known(session, customer_id, idempotency_key, request_hash)
        assert known is not None, "the conflict was with it"  # noqa: S101 - for the type checker.
        return known, True
    session.add(TopUpEvent(top_up_id=fresh, status=CREATED, at=now))
    return fresh, False


async def _known(session: AsyncSession, customer_id: str, idempotency_key: str, request_hash: str) -> str | None:
    row = (
        await session.execute(
            select(TopUp.id, TopUp.request_hash).where(
                TopUp.customer_id == customer_id, TopUp.idempotency_key == idempotency_key
            )
        )
    ).one_or_none()
    if row is not None and row.request_hash != request_hash:
        raise IdempotencyMismatchError
    return None if row is None else str(row.id)


def _check(providers: Mapping[str, Provider], meter: Meter, order: TopUpOrder) -> Provider:
    if order.currency != meter.currency:
        raise InvalidInputError(f"This meter takes {meter.currency}.", ("pay", "currency"))
    found = find_method(providers, order.currency, order.method_id)
    if found is None:
        raise InvalidInputError("This way to pay is not offered for this meter.", ("methodId",))
    provider, method = found
    if not method.minimum_minor <= order.pay_minor <= method.maximum_minor:
        raise AmountOutOfRangeError(method.minimum_minor, method.maximum_minor, order.currency)
    return provider


async def _create_at_provider(
    sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, top_up_id: str
) -> None:
    async with sessions() as session:
        top_up = await session.get_one(TopUp, top_up_id)
    try:
        truth = await providers[top_up.provider].create(request_of(top_up))
    except ProviderRefusedError as error:
        await _refuse(sessions, top_up_id, error, clock.now())
        return
    except ProviderUnavailableError as error:
        _log.warning("provider did not answer a create", top_up_id=top_up_id, error=str(error))
        return
    await _apply_created(sessions, top_up_id, truth, clock.now())


async def _apply_created(sessions: Sessions, top_up_id: str, truth: PaymentTruth, now: datetime) -> None:
    """The answer to a create may be older than what a webhook has settled meanwhile: then it adds nothing."""
    async with sessions.begin() as session:
        top_up = await lock_top_up(session, top_up_id)
        if top_up.version == 0:
            await apply_truth(session, top_up, truth, now)


async def _refuse(sessions: Sessions, top_up_id: str, error: ProviderRefusedError, now: datetime) -> None:
    async with sessions.begin() as session:
        top_up = await lock_top_up(session, top_up_id)
        if top_up.provider_ref is None and top_up.version == 0:
            top_up.status, top_up.failure_code = PaymentStatus.FAILED, error.code
            top_up.failure_message = error.message
            top_up.version += 1
            top_up.updated_at = now
            session.add(TopUpEvent(top_up_id=top_up_id, status=PaymentStatus.FAILED, at=now))
        top_up.due_at = None
