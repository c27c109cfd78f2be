"""Questions to rails about payments, outside any transaction and many at once; and the payment that a notice means."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

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
from standpipe.payments.state import PaymentState, new_payment
from standpipe.platform import tracing
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotFoundError

ASKED_AT_ONCE = 16
"""Questions under way at one rail, by one batch."""
INTERNAL = frozenset({"AGENT", "VOUCHER"})
"""Origins that are paid inside our own ledger: there is no rail to ask."""

_SNAPSHOT = """
    p.id, p.top_up_id, t.meter_id, t.customer_id, t.created_at,
           p.version, p.rail, p.rail_ref, p.alias_ref, p.asked_minor, p.currency, t.return_url, t.method_id,
           p.account_reference, t.phone, p.payer_ref, t.origin, t.traceparent, s.rail_ref AS saved_ref,
           CAST(extract(epoch FROM now() - p.started_real_at) AS double precision) AS age_s,
           (SELECT json_agg(json_build_array(r.rail_ref, r.amount_minor, r.currency, r.status) ORDER BY r.id)
            FROM refunds r WHERE r.payment_id = p.id AND r.rail_ref IS NOT NULL) AS refunds
"""
_ORDERED = "top_ups t ON t.id = p.top_up_id LEFT JOIN saved_methods s ON s.id = t.saved_method_id"
SNAPSHOT = text(
    f"SELECT {_SNAPSHOT} FROM payments p JOIN {_ORDERED} WHERE p.id = ANY(CAST(:ids AS text[]))"  # noqa: S608 - ours.
).columns(refunds=JSONB)


FIND = text(f"""
    WITH sought AS (SELECT a.place, coalesce(
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.rail_ref = a.rail_ref),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.alias_ref = a.rail_ref),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.id = a.reference),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.account_reference = a.reference),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.receipt_ref = a.receipt_ref),
        (SELECT t.id FROM payments t WHERE t.rail = a.rail AND t.rail_ref = a.receipt_ref)) AS id
    FROM unnest(CAST(:rails AS text[]), CAST(:rail_refs AS text[]), CAST(:references AS text[]),
                CAST(:receipts AS text[])) WITH ORDINALITY AS a(rail, rail_ref, reference, receipt_ref, place))
    SELECT {_SNAPSHOT} FROM sought LEFT JOIN (payments p JOIN {_ORDERED}) ON p.id = sought.id
    ORDER BY sought.place""").columns(refunds=JSONB)  # noqa: S608 - our own columns.


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
    """Answer of a rail about a payment that stood at ``version`` when it was asked."""

    payment_id: str
    rail: str
    version: int
    truth: PaymentTruth
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A payment as its rail is asked about it."""

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


@dataclass(frozen=True, slots=True)
class Sought:
    """Names that a notice gives a payment."""

    rail: str
    rail_ref: str | None
    reference: str | None
    receipt_ref: str | None = None


async def find_payments(sessions: Sessions, sought: Sequence[Sought]) -> list[Snapshot | None]:
    """The payments that these notices are about, by any of the rail's ids or by our reference; one statement."""
    values = {
        "rails": [one.rail for one in sought],
        "rail_refs": [one.rail_ref for one in sought],
        "references": [one.reference for one in sought],
        "receipts": [one.receipt_ref for one in sought],
    }
    async with sessions() as session:
        rows = await (await _reading(session)).execute(FIND, values)
        return [None if row.id is None else _snapshot(row) for row in rows]


async def find_payment(
    sessions: Sessions, *, rail: str, rail_ref: str | None, reference: str | None, receipt_ref: str | None = None
) -> str:
    """``find_payments`` for one. Raises NotFoundError."""
    [found] = await find_payments(sessions, [Sought(rail, rail_ref, reference, receipt_ref)])
    if found is None:
        raise NotFoundError("No payment matches.")
    return found.id


async def snapshots(sessions: Sessions, payment_ids: Sequence[str]) -> dict[str, Snapshot]:
    """Read what we ask the rails for: equal words each time, or their idempotency checks would refuse us."""
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
    """Build what a rail is asked for from a payment's row, its order's and its ``saved_ref``."""
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


def _snapshot(row: Any) -> Snapshot:
    request = payment_request(row)
    return Snapshot(
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


async def ask_all(
    sessions: Sessions, rails: Mapping[str, Rail], asks: Sequence[Ask], known: Mapping[str, Snapshot] | None = None
) -> list[Answered | Exception | None]:
    """Ask the rails about these payments, all at once; ``known``: as they stand, where the caller has just read it.

    None for one that is paid inside our own ledger. An exception is that payment's own.
    """
    found = known or await snapshots(sessions, [ask.payment_id for ask in asks])
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


async def _ask(rail: Rail, snapshot: Snapshot, hint: str | None) -> PaymentTruth:
    truth = await _ask_payment(rail, snapshot, hint)
    if rail.capabilities.reports_refunds or truth.rail_ref not in (snapshot.rail_ref, snapshot.alias_ref):
        return truth
    # This rail tells of each refund, not of their sum.
    refunds = [await _refund_now(rail, refund, truth.rail_ref) for refund in snapshot.refunds]
    done_minor = sum(refund.amount_minor for refund in refunds if refund.status is RefundStatus.SUCCEEDED)
    return replace(truth, refunds=tuple(refunds), refunded_minor=done_minor)


async def _refund_now(rail: Rail, ours: RefundTruth, rail_ref: str) -> RefundTruth:
    """Ask how a refund stands, in our own amount. One that the provider has forgotten stays as it was."""
    try:
        theirs = await rail.fetch_refund(ours.rail_ref, rail_ref=rail_ref)
    except RailRefusedError:
        return ours
    return replace(theirs, amount_minor=ours.amount_minor, currency=ours.currency)


async def _ask_payment(rail: Rail, snapshot: Snapshot, hint: str | None) -> PaymentTruth:
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
