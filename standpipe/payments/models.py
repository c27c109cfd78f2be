"""Top-ups, their payments, and the inbox of what providers told us."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base, QueueMixin, TracedMixin


class TopUp(TracedMixin, Base):
    """A vend that somebody orders. Its id is our reference at the provider, stored before the first call.

    Written once: what the money did since stands in its payments. ``agreed``: the parts of the quote that the customer
    ordered by. ``origin``: CUSTOMER, GUEST (without an account), AUTO, PAYBILL, AGENT, VOUCHER or SUSPENSE.
    ``funder_id``: whose account pays for it, where that is one of ours.
    """

    __tablename__ = "top_ups"
    __table_args__ = (
        UniqueConstraint("customer_id", "idempotency_key"),
        Index("ix_top_ups_meter_id", "meter_id", "id"),
        Index("uq_top_ups_guest", "idempotency_key", unique=True, postgresql_where=text("origin = 'GUEST'")),
        CheckConstraint("pay_minor > 0", name="pay_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str | None] = mapped_column(ForeignKey("customers.id"))
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    origin: Mapped[str] = mapped_column(server_default="CUSTOMER")
    method_id: Mapped[str | None]
    pay_minor: Mapped[int]
    currency: Mapped[str]
    fee_agreed_minor: Mapped[int] = mapped_column(server_default="0")
    agreed: Mapped[dict[str, int] | None]
    funder_id: Mapped[str | None]
    saved_method_id: Mapped[str | None] = mapped_column(ForeignKey("saved_methods.id"))
    phone: Mapped[str | None]
    return_url: Mapped[str | None]
    idempotency_key: Mapped[str]
    request_hash: Mapped[str]
    created_at: Mapped[datetime]


class Payment(QueueMixin, Base):
    """A rail's word about a top-up. An order's first payment has its id; one that is paid twice has two.

    Running totals already posted: ``captured_minor``, ``refunded_minor``, ``disputed_minor``, ``dispute_fee_minor``,
    ``suspense_minor`` as the provider has them; of the captured, ``fee_minor`` was our service fee, ``emergency_minor``
    repaid emergency credit, ``standing_minor`` paid standing charges, ``debt_minor`` repaid what the meter owed, the
    rest is credit. ``held_minor`` has left the wallet for a refund under way; ``taken_back_minor`` went back to the
    payer, of which ``owed_minor`` had been delivered and is now owed to us. ``asked_minor``: what the rail was asked
    to collect.

    ``payer_ref``: the customer as the provider knew them when it was first asked: a retry must say the same words.
    ``version`` counts the settlements that changed the row. As a queue entry it is the payment poller's: due when it
    wants asking.
    """

    __tablename__ = "payments"
    __table_args__ = (
        UniqueConstraint("rail", "rail_ref"),
        UniqueConstraint("rail", "alias_ref"),
        UniqueConstraint("rail", "receipt_ref"),
        Index("ix_payments_top_up_id", "top_up_id"),
        Index("ix_payments_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("ix_payments_dispute", "top_up_id", postgresql_where=text("dispute IS NOT NULL")),
        CheckConstraint("asked_minor > 0", name="asked_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    top_up_id: Mapped[str] = mapped_column(ForeignKey("top_ups.id"))
    rail: Mapped[str]
    rail_ref: Mapped[str | None]
    alias_ref: Mapped[str | None]
    receipt_ref: Mapped[str | None]
    account_reference: Mapped[str | None] = mapped_column(unique=True)
    payer_ref: Mapped[str | None]
    asked_minor: Mapped[int]
    currency: Mapped[str]
    status: Mapped[str]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    next_action: Mapped[dict[str, Any] | None]
    captured_minor: Mapped[int] = mapped_column(server_default="0")
    refunded_minor: Mapped[int] = mapped_column(server_default="0")
    suspense_minor: Mapped[int] = mapped_column(server_default="0")
    debt_minor: Mapped[int] = mapped_column(server_default="0")
    fee_minor: Mapped[int] = mapped_column(server_default="0")
    emergency_minor: Mapped[int] = mapped_column(server_default="0")
    standing_minor: Mapped[int] = mapped_column(server_default="0")
    disputed_minor: Mapped[int] = mapped_column(server_default="0")
    dispute_fee_minor: Mapped[int] = mapped_column(server_default="0")
    dispute: Mapped[str | None]
    held_minor: Mapped[int] = mapped_column(server_default="0")
    taken_back_minor: Mapped[int] = mapped_column(server_default="0")
    owed_minor: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")
    updated_at: Mapped[datetime]
    asked_real_at: Mapped[datetime | None]
    started_real_at: Mapped[datetime] = mapped_column(server_default=func.now())


class TopUpEvent(Base):
    """One line of a top-up's timeline that payment itself wrote; delivery's lines come from the credit grants."""

    __tablename__ = "top_up_events"
    __table_args__ = (Index("ix_top_up_events_top_up_id", "top_up_id", "id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    top_up_id: Mapped[str] = mapped_column(ForeignKey("top_ups.id"))
    status: Mapped[str]
    at: Mapped[datetime]


class RailEvent(TracedMixin, QueueMixin, Base):
    """A notice as the provider sent it, stored before it is answered. ``body`` is raw: JSONB cannot hold a NUL."""

    __tablename__ = "rail_events"
    __table_args__ = (
        UniqueConstraint("rail", "event_id"),
        Index("ix_rail_events_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    rail: Mapped[str]
    event_id: Mapped[str]
    kind: Mapped[str]
    rail_ref: Mapped[str | None]
    reference: Mapped[str | None]
    subject: Mapped[str] = mapped_column(server_default="PAYMENT")
    answer_to: Mapped[str | None]
    receipt_ref: Mapped[str | None]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    outcome: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AsyncResult(Base):
    """A question that a provider answers by a later callback: its id is ours, stored before the question is asked."""

    __tablename__ = "async_results"
    __table_args__ = (Index("ix_async_results_topic", "rail", "topic", "asked_at"),)

    rail: Mapped[str] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(primary_key=True)
    topic: Mapped[str]
    asked_at: Mapped[datetime] = mapped_column(server_default=func.now())
    answered_at: Mapped[datetime | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)


class Refund(QueueMixin, Base):
    """Money on its way back to the payer. Status: standpipe.payments.refunds. Its id is the key at the provider."""

    __tablename__ = "refunds"
    __table_args__ = (
        UniqueConstraint("payment_id", "request_key"),
        Index("ix_refunds_payment_id", "payment_id"),
        Index("ix_refunds_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        CheckConstraint("amount_minor > 0", name="amount_positive"),
        CheckConstraint("approved_by <> requested_by", name="two_persons"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payments.id"))
    request_key: Mapped[str]
    amount_minor: Mapped[int]
    currency: Mapped[str]
    reason: Mapped[str]
    status: Mapped[str]
    requested_by: Mapped[str]
    approved_by: Mapped[str | None]
    rail_ref: Mapped[str | None]
    failure_code: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class SuspenseItem(Base):
    """Money that we may not place by ourselves, until a person does. ``key`` is the posting that put it here."""

    __tablename__ = "suspense_items"
    __table_args__ = (
        Index("ix_suspense_items_status", "status", "opened_at"),
        CheckConstraint("amount_minor > 0", name="amount_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    rail: Mapped[str]
    rail_ref: Mapped[str]
    currency: Mapped[str]
    amount_minor: Mapped[int]
    reason: Mapped[str]
    account_reference: Mapped[str | None]
    payer: Mapped[str | None]
    payment_id: Mapped[str | None] = mapped_column(ForeignKey("payments.id"))
    status: Mapped[str] = mapped_column(server_default="OPEN")
    opened_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]


class RequestKey(Base):
    """A money mutation that a customer made: what was asked, and what came of it, in the same transaction."""

    __tablename__ = "request_keys"

    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    mutation: Mapped[str]
    request_hash: Mapped[str]
    result: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
