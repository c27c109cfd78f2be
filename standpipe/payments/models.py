"""Top-ups and the inbox of what providers told us."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.db.base import Base, QueueMixin


class TopUp(QueueMixin, Base):
    """A vend that a customer pays for. Its id is our reference at the provider, stored before the first call.

    ``captured_minor``, ``refunded_minor`` and ``suspense_minor`` are running totals already posted; ``version``
    changes with each settlement that changed the row. As a queue entry it is the janitor's: due when it wants asking.
    """

    __tablename__ = "top_ups"
    __table_args__ = (
        UniqueConstraint("customer_id", "idempotency_key"),
        UniqueConstraint("provider", "provider_ref"),
        Index("ix_top_ups_meter_id", "meter_id", "id"),
        Index("ix_top_ups_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        CheckConstraint("pay_minor > 0", name="pay_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    provider: Mapped[str]
    provider_ref: Mapped[str | None]
    pay_minor: Mapped[int]
    currency: Mapped[str]
    idempotency_key: Mapped[str]
    request_hash: Mapped[str]
    return_url: Mapped[str | None]
    status: Mapped[str]
    failure_code: Mapped[str | None]
    failure_message: Mapped[str | None]
    next_action: Mapped[dict[str, Any] | None]
    captured_minor: Mapped[int] = mapped_column(server_default="0")
    refunded_minor: Mapped[int] = mapped_column(server_default="0")
    suspense_minor: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime]
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


class ProviderEvent(QueueMixin, Base):
    """A notice as the provider sent it, stored before it is answered. ``body`` is raw: JSONB cannot hold a NUL."""

    __tablename__ = "provider_events"
    __table_args__ = (
        UniqueConstraint("provider", "event_id"),
        Index("ix_provider_events_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    provider: Mapped[str]
    event_id: Mapped[str]
    kind: Mapped[str]
    provider_ref: Mapped[str | None]
    reference: Mapped[str | None]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    outcome: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
