"""``settle``: make the ledger agree with the provider. Webhook, redirect, poll and janitor all call this one function.

The provider is asked outside any transaction. Then, under the top-up's row lock, the difference between its running
totals and those already posted is posted. Twice, late, or in another order, the second difference is zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.clock import Clock
from standpipe.db.engine import Sessions
from standpipe.db.notify import LIVE, notify
from standpipe.errors import NotFoundError
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.credit import grant
from standpipe.outbox.facts import MoneyInSuspense, TopUpFailed, TopUpPaid, publish
from standpipe.payments.models import TopUp, TopUpEvent
from standpipe.payments.provider import (
    PaymentRequest,
    PaymentStatus,
    PaymentTruth,
    Provider,
    ProviderUnavailableError,
)
from standpipe.payments.schedule import plan_next_poll

MAX_ROUNDS = 8
CREATE_AGAIN_S = 23 * 3600
"""Stripe keeps idempotency keys for at least 24 hours; an hour is left for slow clocks and slow calls."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    version: int
    provider: str
    provider_ref: str | None
    request: PaymentRequest
    age_s: float


async def settle(
    sessions: Sessions,
    providers: Mapping[str, Provider],
    top_up_id: str,
    clock: Clock,
    *,
    provider_ref: str | None = None,
) -> None:
    """Ask the provider what became of a top-up and post the difference.

    ``provider_ref`` is a hint from a notice, for a top-up whose own row has not learnt it yet.
    Raises NotFoundError, ProviderUnavailableError (nothing changed; ask again), ProviderRefusedError.
    """
    for _ in range(MAX_ROUNDS):
        snapshot = await _snapshot(sessions, top_up_id)
        truth = await _ask(provider_of(providers, snapshot.provider), snapshot, provider_ref)
        async with sessions.begin() as session:
            top_up = await lock_top_up(session, top_up_id)
            # Another worker settled while we asked: what we were told may be older than what it was told (P17).
            if top_up.version == snapshot.version:
                await apply_truth(session, top_up, truth, clock.now())
                return
    _log.warning("settle gave way to others", top_up_id=top_up_id)


def provider_of(providers: Mapping[str, Provider], name: str) -> Provider:
    """The provider of a top-up. Raises ProviderUnavailableError where it is turned off now: its payments can wait."""
    if name not in providers:
        raise ProviderUnavailableError(name, "it is not set up")
    return providers[name]


async def find_top_up(sessions: Sessions, *, provider: str, provider_ref: str | None, reference: str | None) -> str:
    """The top-up that a notice is about, by the provider's id or by our reference. Raises NotFoundError."""
    async with sessions() as session:
        by_ref = select(TopUp.id).where(TopUp.provider == provider, TopUp.provider_ref == provider_ref)
        by_reference = select(TopUp.id).where(TopUp.provider == provider, TopUp.id == reference)
        found = (await session.scalar(by_ref) if provider_ref else None) or (
            await session.scalar(by_reference) if reference else None
        )
    if found is None:
        raise NotFoundError("No top-up matches.")
    return found


async def apply_truth(session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime) -> None:
    """Post what a locked top-up lacks, and move its status. The only place where a payment becomes credit."""
    if truth.reference != top_up.id:
        _log.error("payment is not this top-up's", top_up_id=top_up.id, provider_ref=truth.provider_ref)
        plan_next_poll(top_up)
        return
    if top_up.provider_ref not in (None, truth.provider_ref):
        await _post_unmatched(session, top_up, truth, now)
        plan_next_poll(top_up)
        return
    top_up.provider_ref = truth.provider_ref
    before = (
        top_up.status,
        top_up.captured_minor,
        top_up.refunded_minor,
        top_up.suspense_minor,
        top_up.next_action,
    )
    if truth.currency == top_up.currency:
        await _post_captured(session, top_up, truth.captured_minor, now)
        await _post_refunded(session, top_up, truth.refunded_minor, now)
    else:
        await _post_foreign(session, top_up, truth, now)
    await _move_status(session, top_up, truth, now)
    if truth.next_action is not None:
        top_up.next_action = truth.next_action
    plan_next_poll(top_up)
    after = (
        top_up.status,
        top_up.captured_minor,
        top_up.refunded_minor,
        top_up.suspense_minor,
        top_up.next_action,
    )
    if after != before:
        top_up.version += 1
        top_up.updated_at = now
        await notify(session, LIVE, top_up.id)
        await notify(session, LIVE, top_up.meter_id)


async def _snapshot(sessions: Sessions, top_up_id: str) -> _Snapshot:
    async with sessions() as session:
        top_up = await session.get(TopUp, top_up_id)
        if top_up is None:
            raise NotFoundError("No such top-up.")
        age = datetime.now(UTC) - top_up.started_real_at
        return _Snapshot(top_up.version, top_up.provider, top_up.provider_ref, request_of(top_up), age.total_seconds())


def request_of(top_up: TopUp) -> PaymentRequest:
    """What we ask the provider for: the same words each time, or its idempotency check would refuse us."""
    return PaymentRequest(
        reference=top_up.id,
        amount_minor=top_up.pay_minor,
        currency=top_up.currency,
        description=f"Water top-up {top_up.id}",
        return_url=top_up.return_url,
    )


async def _ask(provider: Provider, snapshot: _Snapshot, hint: str | None) -> PaymentTruth:
    ref = hint or snapshot.provider_ref
    if ref is not None:
        return await provider.fetch(ref)
    # We never learnt whether the first call arrived (P29). While the provider remembers our key, the same reference
    # yields the same payment; later a second create could charge twice, so we only look.
    if snapshot.age_s < CREATE_AGAIN_S:
        created = await provider.create(snapshot.request)
        return await provider.fetch(created.provider_ref)
    found = await provider.find(snapshot.request.reference)
    if found is None:
        raise ProviderUnavailableError(snapshot.provider, "it knows no payment with this reference")
    return found


async def lock_top_up(session: AsyncSession, top_up_id: str) -> TopUp:
    """The top-up's row, locked and fresh. Raises NotFoundError."""
    top_up = await session.get(TopUp, top_up_id, with_for_update={"key_share": True}, populate_existing=True)
    if top_up is None:
        raise NotFoundError("No such top-up.")
    return top_up


async def _post_captured(session: AsyncSession, top_up: TopUp, captured_minor: int, now: datetime) -> None:
    difference_minor = captured_minor - top_up.captured_minor
    if difference_minor < 0:
        _log.error("captured total fell", top_up_id=top_up.id, by_minor=-difference_minor)
    if difference_minor <= 0:
        return
    # The grant first: it locks the meter, which comes before wallets in the lock order (ledger/posting.py).
    await grant(
        session,
        meter_id=top_up.meter_id,
        credit_key=f"{top_up.id}:captured:{captured_minor}",
        source_id=top_up.id,
        amount_minor=difference_minor,
        now=now,
    )
    await post(
        session,
        key=f"{top_up.provider}:{top_up.provider_ref}:captured:{captured_minor}",
        kind="TOP_UP",
        lines=[
            Line(AccountRef(AccountKind.CLEARING, top_up.provider, top_up.currency), -difference_minor),
            Line(AccountRef(AccountKind.WALLET, top_up.meter_id, top_up.currency), difference_minor),
        ],
        occurred_at=now,
    )
    top_up.captured_minor = captured_minor
    await publish(session, TopUpPaid(top_up.id, top_up.meter_id, captured_minor))


async def _post_refunded(session: AsyncSession, top_up: TopUp, refunded_minor: int, now: datetime) -> None:
    """A refund made at the provider: the meter may hold the credit already, so a person decides who bears it."""
    difference_minor = refunded_minor - top_up.refunded_minor
    if not difference_minor:
        return
    lines = [
        Line(AccountRef(AccountKind.CLEARING, top_up.provider, top_up.currency), difference_minor),
        Line(AccountRef(AccountKind.SUSPENSE, top_up.provider, top_up.currency), -difference_minor),
    ]
    # A refund that fails later lowers the total again, so the total alone would not make the key unique.
    key = f"{top_up.provider}:{top_up.provider_ref}:refunded:{refunded_minor}:v{top_up.version}"
    await post(session, key=key, kind="REFUND", lines=lines, occurred_at=now)
    top_up.refunded_minor = refunded_minor
    await publish(session, MoneyInSuspense(top_up.id, "refunded at the provider"))


async def _post_foreign(session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime) -> None:
    """Money in another currency than asked for is never converted by guess (P22): it waits in suspense."""
    held_minor = truth.captured_minor - truth.refunded_minor
    difference_minor = held_minor - top_up.suspense_minor
    if not difference_minor:
        return
    lines = [
        Line(AccountRef(AccountKind.CLEARING, top_up.provider, truth.currency), -difference_minor),
        Line(AccountRef(AccountKind.SUSPENSE, top_up.provider, truth.currency), difference_minor),
    ]
    key = f"{top_up.provider}:{top_up.provider_ref}:foreign:{held_minor}:v{top_up.version}"
    await post(session, key=key, kind="SUSPENSE", lines=lines, occurred_at=now)
    top_up.suspense_minor = held_minor
    await publish(session, MoneyInSuspense(top_up.id, f"paid in {truth.currency}"))


async def _post_unmatched(session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime) -> None:
    """A second payment that names a top-up which another has paid: its money waits in suspense for a person."""
    _log.error("second payment for one top-up", top_up_id=top_up.id, provider_ref=truth.provider_ref)
    if not truth.captured_minor:
        return
    lines = [
        Line(AccountRef(AccountKind.CLEARING, top_up.provider, truth.currency), -truth.captured_minor),
        Line(AccountRef(AccountKind.SUSPENSE, top_up.provider, truth.currency), truth.captured_minor),
    ]
    key = f"{top_up.provider}:{truth.provider_ref}:unmatched"
    if await post(session, key=key, kind="SUSPENSE", lines=lines, occurred_at=now):
        await publish(session, MoneyInSuspense(top_up.id, f"second payment {truth.provider_ref}"))


async def _move_status(session: AsyncSession, top_up: TopUp, truth: PaymentTruth, now: datetime) -> None:
    status = truth.status
    if top_up.captured_minor or top_up.suspense_minor:
        status = PaymentStatus.SUCCEEDED
    top_up.failure_code = truth.failure_code if status is PaymentStatus.FAILED else None
    top_up.failure_message = truth.failure_message if status is PaymentStatus.FAILED else None
    if status == top_up.status:
        return
    top_up.status = status
    session.add(TopUpEvent(top_up_id=top_up.id, status=status, at=now))
    if status is PaymentStatus.FAILED:
        await publish(session, TopUpFailed(top_up.id, top_up.meter_id, truth.failure_code or "unknown"))
