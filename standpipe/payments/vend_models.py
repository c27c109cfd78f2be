"""Agents who vend for cash, vouchers, saved cards and auto top-ups."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class Agent(Base):
    """A shop that vends for cash out of a float that it paid in before; its FLOAT account has this id as owner."""

    __tablename__ = "agents"

    id: Mapped[str] = mapped_column(primary_key=True)
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    name: Mapped[str]
    currency: Mapped[str]
    key_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]


class VoucherBatch(Base):
    """Vouchers made and paid for together; their unredeemed value is the batch's VOUCHERS account."""

    __tablename__ = "voucher_batches"
    __table_args__ = (CheckConstraint("value_minor > 0", name="value_positive"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    currency: Mapped[str]
    value_minor: Mapped[int]
    amount: Mapped[int]
    made_by: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class Voucher(Base):
    """A single-use code, of 80 random bits, of which only a hash is kept."""

    __tablename__ = "vouchers"
    __table_args__ = (Index("ix_vouchers_batch_id", "batch_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    batch_id: Mapped[str] = mapped_column(ForeignKey("voucher_batches.id"))
    code_hash: Mapped[str] = mapped_column(unique=True)
    redeemed_at: Mapped[datetime | None]
    top_up_id: Mapped[str | None] = mapped_column(ForeignKey("top_ups.id"), unique=True)
    blocked_at: Mapped[datetime | None]


class VoucherTry(Base):
    """A code that did not work, counted against whoever tried it: codes must not be guessed."""

    __tablename__ = "voucher_tries"
    __table_args__ = (Index("ix_voucher_tries_customer_id", "customer_id", "at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class PaymentCustomer(Base):
    """A customer as a provider knows them."""

    __tablename__ = "payment_customers"
    __table_args__ = (UniqueConstraint("rail", "rail_ref"),)

    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    rail: Mapped[str] = mapped_column(primary_key=True)
    rail_ref: Mapped[str]


class SavedMethod(Base):
    """A card that a customer keeps at a provider. Nothing of it but its last digits is here."""

    __tablename__ = "saved_methods"
    __table_args__ = (
        UniqueConstraint("rail", "rail_ref"),
        Index("ix_saved_methods_customer_id", "customer_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    rail: Mapped[str]
    rail_ref: Mapped[str]
    brand: Mapped[str]
    last4: Mapped[str]
    expires: Mapped[str | None]
    usable: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[datetime]


class CardSetup(Base):
    """A card that a customer has begun to save; finished when the provider says which card it became."""

    __tablename__ = "card_setups"
    __table_args__ = (UniqueConstraint("rail", "setup_ref"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    rail: Mapped[str]
    setup_ref: Mapped[str | None]
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class AutoTopUp(Base):
    """A customer's standing order for one meter: standpipe.payments.auto_top_up.

    ``awaiting_top_up_id``: the charge under way, of which there is at most one. ``not_before`` is the town's time.
    """

    __tablename__ = "auto_top_ups"
    __table_args__ = (
        CheckConstraint("amount_minor > 0", name="amount_positive"),
        CheckConstraint("daily_cap_minor >= amount_minor", name="cap_covers_one"),
        CheckConstraint("threshold_days BETWEEN 1 AND 30", name="threshold_in_reason"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), unique=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    saved_method_id: Mapped[str] = mapped_column(ForeignKey("saved_methods.id"))
    currency: Mapped[str]
    threshold_days: Mapped[int]
    mode: Mapped[str]
    amount_minor: Mapped[int]
    daily_cap_minor: Mapped[int]
    enabled: Mapped[bool] = mapped_column(server_default="true")
    paused_reason: Mapped[str | None]
    failures: Mapped[int] = mapped_column(server_default="0")
    awaiting_top_up_id: Mapped[str | None] = mapped_column(ForeignKey("top_ups.id"))
    not_before: Mapped[datetime | None]
    updated_at: Mapped[datetime]
