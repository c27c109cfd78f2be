"""The facts that rooms publish. Each room's ``reactions`` says, exhaustively, what it does about which.

A reaction may run twice (its worker may die before it is recorded), so each must be idempotent.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine import queue
from standpipe.engine.queue import Backlog
from standpipe.engine.unit_of_work import Order, SetWriter, UnitOfWork
from standpipe.outbox.models import OutboxFact
from standpipe.platform.notify import WORK
from standpipe.platform.tracing import current_traceparent


@dataclass(frozen=True, slots=True)
class TopUpPaid:
    """The provider holds more of the customer's money than before, and it is booked."""

    top_up_id: str
    payment_id: str
    meter_id: str
    captured_minor: int
    posting_key: str = ""


@dataclass(frozen=True, slots=True)
class TopUpFailed:
    """The provider says that a payment did not succeed. It may still succeed later."""

    top_up_id: str
    meter_id: str
    failure_code: str


@dataclass(frozen=True, slots=True)
class CreditConfirmed:
    """The meter itself stated that it holds credit up to this total, in its own unit."""

    meter_id: str
    accepted: int


@dataclass(frozen=True, slots=True)
class UsageRecorded:
    """A meter's readings moved its balance."""

    meter_id: str


@dataclass(frozen=True, slots=True)
class MoneyInSuspense:
    """Money came that we may not place by ourselves; a person must look. ``top_up_id`` is "" where there is none."""

    top_up_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class MoneyTakenBack:
    """A refund or a dispute moved money out, or in again, and it is booked under ``posting_key``."""

    top_up_id: str
    payment_id: str
    meter_id: str
    posting_key: str


@dataclass(frozen=True, slots=True)
class SecondPayment:
    """One intention was paid twice: both payments are credited, and somebody should know (P31)."""

    top_up_id: str
    payment_id: str


@dataclass(frozen=True, slots=True)
class MeterStated:
    """A meter's own word changed what we know of its credit or of our commands."""

    meter_id: str


@dataclass(frozen=True, slots=True)
class AutoTopUpEnded:
    """An automatic top-up came to an end, for better or worse. ``outcome`` is a word of payments/auto_top_up.py."""

    auto_top_up_id: str
    meter_id: str
    top_up_id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class TokenIssued:
    """The radio did not get through in time, and there is a keypad token for the credit."""

    token_id: str
    meter_id: str
    key_revision: int


@dataclass(frozen=True, slots=True)
class AccessNews:
    """Fact that who may see a meter has changed; those who could see it before (``told``: customers) should know.

    ``how``: CLAIMED (somebody had a claim code), OWNER (a member is an owner now), MOVED_OUT. ``event_id`` is unique.
    """

    event_id: str
    meter_id: str
    label: str
    how: str
    told: list[str]


@dataclass(frozen=True, slots=True)
class AccessEnded:
    """Somebody may do less with a meter than before, or nothing any more."""

    meter_id: str


@dataclass(frozen=True, slots=True)
class CustomerForgotten:
    """A customer asked to be forgotten; each room forgets its part. ``phone`` was theirs, and is gone from this row too
    once all have heard (``redact``). ``household_ids``: those in which nobody is left.
    """

    customer_id: str
    phone: str
    household_ids: list[str]


@dataclass(frozen=True, slots=True)
class PaymentTracesLeft:
    """Traces of a forgotten customer that cannot go yet: a payment is under way, or a provider has to forget too."""

    customer_id: str
    top_up_ids: list[str]


@dataclass(frozen=True, slots=True)
class ConditionChanged:
    """A meter began to complain of something at an instant (ISO 8601), or stopped ("" then)."""

    meter_id: str
    condition: str
    raised_at: str


Fact = (
    TopUpPaid
    | TopUpFailed
    | CreditConfirmed
    | UsageRecorded
    | MoneyInSuspense
    | MoneyTakenBack
    | SecondPayment
    | MeterStated
    | AutoTopUpEnded
    | TokenIssued
    | AccessNews
    | AccessEnded
    | CustomerForgotten
    | PaymentTracesLeft
    | ConditionChanged
)
PATIENT = (CustomerForgotten, PaymentTracesLeft)
"""Facts whose reactions are tried until they succeed: to be forgotten is not given up after some tries."""
_KINDS: dict[str, type[Fact]] = {kind.__name__: kind for kind in Fact.__args__}


STORE = text("""
    WITH stored AS (
        INSERT INTO outbox_facts (kind, payload, traceparent)
        SELECT kind, CAST(payload AS jsonb), traceparent
        FROM unnest(CAST(:kinds AS text[]), CAST(:payloads AS text[]), CAST(:traceparents AS text[]))
            WITH ORDINALITY AS fact(kind, payload, traceparent, position)
        ORDER BY position RETURNING 1)
    SELECT pg_notify(call.channel, call.payload)
    FROM unnest(CAST(:channels AS text[]), CAST(:calls AS text[])) AS call(channel, payload)
    WHERE (SELECT count(*) FROM stored) > 0""")


async def _store(work: UnitOfWork, facts: Sequence[tuple[Fact, str | None]]) -> None:
    work.notify(WORK, "outbox")
    calls = work.take_notifications()
    await work.conn.execute(
        STORE,
        {
            "kinds": [type(fact).__name__ for fact, _ in facts],
            "payloads": [json.dumps(asdict(fact)) for fact, _ in facts],
            "traceparents": [traceparent for _, traceparent in facts],
            "channels": [channel for channel, _ in calls],
            "calls": [payload for _, payload in calls],
        },
    )


FACTS: SetWriter[tuple[Fact, str | None]] = SetWriter("facts", Order.FACTS, _store)


def add_fact(work: UnitOfWork, fact: Fact) -> None:
    """Have the fact stored with what else the work changes, in the trace of the step under way, and wake a worker."""
    work.add(FACTS, (fact, current_traceparent()))


async def publish(session: AsyncSession, fact: Fact) -> None:
    """Store the fact in the caller's transaction and wake a worker when it commits."""
    work = await UnitOfWork.of(session)
    add_fact(work, fact)
    await work.flush()


def redact(row: OutboxFact) -> None:
    """Take out of a fact that all have heard what names a person."""
    if row.kind == CustomerForgotten.__name__:
        row.payload = row.payload | {"phone": ""}


def read(row: OutboxFact) -> Fact:
    """The fact that a row holds. Raises LookupError for a kind that this release does not know."""
    if row.kind not in _KINDS:
        raise LookupError(f"unknown fact {row.kind}")
    return _KINDS[row.kind](**row.payload)


async def backlog(session: AsyncSession) -> Backlog:
    """The facts that nobody has reacted to yet."""
    return await queue.backlog(session, OutboxFact.created_at, OutboxFact.due_at.is_not(None))
