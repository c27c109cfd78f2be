"""Utilities, customers, households and sign-in codes."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.db.base import Base


class HouseholdRole(StrEnum):
    """What a member may do."""

    OWNER = "OWNER"
    PAYER = "PAYER"
    VIEWER = "VIEWER"


class Utility(Base):
    """A water utility: it sets the currency, and the time zone of service days and billing periods.

    ``debt_share_percent``: the most of a top-up that may repay what the meter owes; ``debt_weekly_cap_minor``: the
    most in seven days; ``guaranteed_ml``: the water that a top-up buys before any debt or standing charge is taken.
    ``emergency_credit_minor`` may be switched on at ``emergency_threshold_minor`` of credit and below (0: there is
    none). ``cut_off``: what meters do at zero; ``friendly``: when they do not do it (``standpipe.usage.cut_off``).
    While ``released_reason`` says why, and until ``released_until`` (None: until it is ended), no meter cuts off.
    A month's statement is made ``statement_after_days`` days after its end.
    """

    __tablename__ = "utilities"
    __table_args__ = (CheckConstraint("debt_share_percent BETWEEN 0 AND 100", name="debt_share_is_percent"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    currency: Mapped[str]
    time_zone: Mapped[str]
    debt_share_percent: Mapped[int] = mapped_column(server_default="25")
    debt_weekly_cap_minor: Mapped[int | None]
    guaranteed_ml: Mapped[int] = mapped_column(server_default="0")
    emergency_credit_minor: Mapped[int] = mapped_column(server_default="0")
    emergency_threshold_minor: Mapped[int] = mapped_column(server_default="0")
    cut_off: Mapped[str] = mapped_column(server_default="DISCONNECT")
    friendly: Mapped[dict[str, Any] | None]
    released_reason: Mapped[str | None]
    released_until: Mapped[datetime | None]
    statement_after_days: Mapped[int] = mapped_column(server_default="3")


class Customer(Base):
    """A person, known by phone number (E.164)."""

    __tablename__ = "customers"

    id: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(server_default="")
    language: Mapped[str] = mapped_column(server_default="en")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Household(Base):
    """Those who share a supply."""

    __tablename__ = "households"

    id: Mapped[str] = mapped_column(primary_key=True)
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    name: Mapped[str]


class Membership(Base):
    """A customer's role in a household."""

    __tablename__ = "memberships"
    __table_args__ = (Index("ix_memberships_customer_id", "customer_id"),)

    household_id: Mapped[str] = mapped_column(ForeignKey("households.id"), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    role: Mapped[str]


class SignInCode(Base):
    """A one-time code, kept only as a hash. Instants are real time."""

    __tablename__ = "sign_in_codes"
    __table_args__ = (Index("ix_sign_in_codes_phone", "phone", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str]
    code_hash: Mapped[str]
    tries: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class Operator(Base):
    """Somebody at the utility who may do what needs a person. Known by a key, of which only the hash is kept."""

    __tablename__ = "operators"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    key_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]


class OperatorAction(Base):
    """The audit trail: who did what to what, written in the transaction that did it. The database refuses changes."""

    __tablename__ = "operator_actions"
    __table_args__ = (Index("ix_operator_actions_subject_id", "subject_id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    operator: Mapped[str]
    action: Mapped[str]
    subject_id: Mapped[str]
    detail: Mapped[dict[str, Any]]
