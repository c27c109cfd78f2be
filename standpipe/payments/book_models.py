"""Receipts, and what providers' statements say."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class ReceiptCounter(Base):
    """The last receipt number of a utility; locked only while a receipt is written, never while money is booked."""

    __tablename__ = "receipt_counters"

    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"), primary_key=True)
    last_number: Mapped[int] = mapped_column(server_default="0")


class Receipt(Base):
    """Receipt of a payment: ``paid_minor`` is the sum of the lines. ``source_key``: the posting."""

    __tablename__ = "receipts"
    __table_args__ = (
        UniqueConstraint("utility_id", "number"),
        Index("ix_receipts_payment_id", "payment_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    number: Mapped[int]
    payment_id: Mapped[str] = mapped_column(ForeignKey("payments.id"))
    source_key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    currency: Mapped[str]
    paid_minor: Mapped[int]
    lines: Mapped[list[dict[str, Any]]]
    issued_at: Mapped[datetime]


class SettlementEntry(Base):
    """A line of a provider's statement, and what it was matched with."""

    __tablename__ = "settlement_entries"
    __table_args__ = (
        UniqueConstraint("rail", "external_id"),
        Index("ix_settlement_entries_payment_id", "payment_id", postgresql_where=text("payment_id IS NOT NULL")),
        Index("ix_settlement_entries_state", "rail", "state"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    rail: Mapped[str]
    external_id: Mapped[str]
    kind: Mapped[str]
    payment_ref: Mapped[str | None]
    payout_ref: Mapped[str | None]
    payment_id: Mapped[str | None] = mapped_column(ForeignKey("payments.id"))
    currency: Mapped[str]
    gross_minor: Mapped[int]
    fee_minor: Mapped[int]
    occurred_at: Mapped[datetime]
    description: Mapped[str] = mapped_column(server_default="")
    state: Mapped[str]
    imported_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SettlementMark(Base):
    """Mark up to which a provider's statement and its unsolicited payments have been read."""

    __tablename__ = "settlement_marks"

    rail: Mapped[str] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    read_until: Mapped[datetime]
