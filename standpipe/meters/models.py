"""Meters, what they last said, and what waits for them."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base, TracedMixin

_UNIT = "CASE wallet_kind WHEN 'VOLUME' THEN 'VOL' ELSE currency END"
_ACCOUNT_NUMBER = "ltrim(upper(regexp_replace(serial, '[^A-Za-z0-9]', '', 'g')), '0')"


class WalletKind(StrEnum):
    """Kinds of wallet, by where the credit lives, and so where the tiers are computed."""

    MONEY = "MONEY"
    VOLUME = "VOLUME"


VOLUME_UNIT = "VOL"
"""Stands where a currency would, in what is said to and by a VOLUME meter: its values are millilitres."""


class CommandKind(StrEnum):
    """Kinds of command to a meter."""

    CREDIT = "CREDIT"
    VALVE = "VALVE"
    THRESHOLD = "THRESHOLD"
    AT_ZERO = "AT_ZERO"
    """Policy for when the credit ends: see ``standpipe.supply.zero_credit_lookup``."""
    READ_NOW = "READ_NOW"
    """Say at once how the register and the credit stand."""
    CLOCK = "CLOCK"
    """Set the clock; the value is the time of the sending, Unix seconds."""
    TARIFF = "TARIFF"
    """A price table and the instant from which it holds; it is the command's body."""
    DIAGNOSTICS = "DIAGNOSTICS"
    """Say how the meter itself does: see ``standpipe.meters.reports.Diagnostics``."""


class CommandStatus(StrEnum):
    """States of a command; see ``standpipe.meters.commands``."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    CONFIRMED = "CONFIRMED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    SUPERSEDED = "SUPERSEDED"
    UNKNOWN = "UNKNOWN"


class Meter(Base):
    """A prepaid meter. ``credit_granted``: the running total that we state to it, in its own ``unit``: minor units of
    its currency by our ledger, or (VOLUME_UNIT) millilitres by our purchases (decisions 13 and 34).

    ``account_number`` is the serial as a payer may type it (``standpipe.meters.access.account_number_of``);
    ``closed_at``: out of service, takes no more money. ``register_max_ml``: the volume at which the register starts
    at nought again (None: it never does). ``at_zero``: what it was last told to do when its credit ends (None: not
    known).
    """

    __tablename__ = "meters"
    __table_args__ = (
        CheckConstraint("credit_granted >= 0", name="granted_not_negative"),
        Index("ix_meters_account_number", "account_number"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    serial: Mapped[str] = mapped_column(unique=True)
    account_number: Mapped[str | None] = mapped_column(Computed(_ACCOUNT_NUMBER, persisted=True))
    closed_at: Mapped[datetime | None]
    label: Mapped[str]
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    household_id: Mapped[str | None] = mapped_column(ForeignKey("households.id"), index=True)
    tariff_id: Mapped[str] = mapped_column(ForeignKey("tariffs.id"))
    wallet_kind: Mapped[str]
    currency: Mapped[str]
    unit: Mapped[str] = mapped_column(Computed(_UNIT, persisted=True))
    time_zone: Mapped[str]
    initial_register_ml: Mapped[int] = mapped_column(server_default="0")
    installed_at: Mapped[datetime]
    credit_granted: Mapped[int] = mapped_column(server_default="0")
    last_sequence: Mapped[int] = mapped_column(server_default="0")
    register_max_ml: Mapped[int | None]
    at_zero: Mapped[str | None]


class MeterCredential(Base):
    """Credential of a meter: its name on a transport, and its prepaid key, sealed."""

    __tablename__ = "meter_credentials"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    transport_identity: Mapped[str] = mapped_column(unique=True)
    sealed_prepaid_key: Mapped[str]


class MeterState(Base):
    """The meter's last word, one row for each meter from its first contact on; credit in the meter's own unit.

    ``credit_typed``: what of the accepted credit came by keypad and is in no total that the meter has taken since.
    ``clock_error_s``: how far its clock was ahead of ours (below zero: behind) in its last statement.
    """

    __tablename__ = "meter_states"

    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"), primary_key=True)
    last_seen_at: Mapped[datetime]
    battery_percent: Mapped[int | None]
    report_counter: Mapped[int] = mapped_column(server_default="0")
    last_sequence: Mapped[int] = mapped_column(server_default="0")
    credit_accepted: Mapped[int] = mapped_column(server_default="0")
    credit_remaining: Mapped[int | None]
    stated_at: Mapped[datetime | None]
    clock_error_s: Mapped[int | None]
    valve: Mapped[str] = mapped_column(server_default="UNKNOWN")
    valve_reason: Mapped[str] = mapped_column(server_default="UNKNOWN")
    valve_changed_at: Mapped[datetime | None]
    credit_typed: Mapped[int] = mapped_column(server_default="0")


class CreditGrant(TracedMixin, Base):
    """One step of a meter's credit total. ``credit_key`` is the business key that makes the step unique.

    In the meter's ``unit``. ``revoked`` of it was taken back before the meter had it; the totals of later steps fall
    with it.

    ``tid``: what a keypad token for this step will be known by; ``offered_at``: from then on the step may be typed, so
    it is never taken back; ``token_issued_at``: its digits are there; ``typed_at``: the meter has said that they were
    typed (decision 21).
    """

    __tablename__ = "credit_grants"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("revoked BETWEEN 0 AND amount", name="revoked_within"),
        Index("ix_credit_grants_source_id", "source_id"),
        Index("ix_credit_grants_meter_id", "meter_id", "total_after"),
        Index(
            "ix_credit_grants_to_offer",
            "granted_at",
            postgresql_where=text("tid IS NOT NULL AND confirmed_at IS NULL AND offered_at IS NULL"),
        ),
    )

    credit_key: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    source_id: Mapped[str]
    unit: Mapped[str]
    amount: Mapped[int]
    total_after: Mapped[int]
    revoked: Mapped[int] = mapped_column(server_default="0")
    granted_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    tid: Mapped[int | None]
    offered_at: Mapped[datetime | None]
    token_issued_at: Mapped[datetime | None]
    typed_at: Mapped[datetime | None]


class MeterCommand(TracedMixin, Base):
    """A command to one meter, numbered in the order in which the meter must take them.

    ``tid_mark`` of a credit: keypad tokens with a TID up to it are in this total. It is not sent from ``deadline_at``
    on, in real time, nor from ``void_at`` on, by the town's clock.
    ``body``: what does not fit into ``value``, and how far the meter has got with it. ``after_report``: the number of
    the meter's last statement when this was last sent; only a later one can tell of it.
    """

    __tablename__ = "meter_commands"
    __table_args__ = (
        UniqueConstraint("meter_id", "sequence"),
        Index(
            "ix_meter_commands_open",
            "meter_id",
            "sequence",
            postgresql_where=text("status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    sequence: Mapped[int]
    kind: Mapped[str]
    value: Mapped[int]
    tid_mark: Mapped[int | None]
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    deadline_at: Mapped[datetime | None]
    void_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    body: Mapped[dict[str, Any] | None]
    after_report: Mapped[int | None]
