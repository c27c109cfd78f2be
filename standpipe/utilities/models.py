"""The utilities and their operators, with all that was done in an operator's name."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class Utility(Base):
    """A water utility: it sets the currency, and the time zone of service days and billing periods.

    ``debt_share_percent``: the most of a top-up that may repay what the meter owes; ``debt_weekly_cap_minor``: the
    most in seven days; ``guaranteed_ml``: the water that a top-up buys before any debt or standing charge is taken.
    ``emergency_credit_minor`` may be switched on at ``emergency_threshold_minor`` of credit and below (0: there is
    none). ``cut_off``: what meters do at zero; ``friendly``: when they do not do it (``standpipe.supply``).
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


class OperatorRole(StrEnum):
    """Roles of operators. ADMIN: everything; FINANCE: money; FIELD: meters and supply; SUPPORT: claim codes.

    The roles and the commands of each stand in ``standpipe.utilities.operators``.
    """

    ADMIN = "ADMIN"
    FINANCE = "FINANCE"
    FIELD = "FIELD"
    SUPPORT = "SUPPORT"


class Operator(Base):
    """Somebody at the utility who may do what needs a person.

    Known by a key, of which only the hash is kept, and, once they have set them, by password (argon2id) and TOTP
    (RFC 6238; ``totp_sealed`` is encrypted, ``totp_step`` the last time step used). Real time.
    """

    __tablename__ = "operators"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    key_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]
    role: Mapped[str] = mapped_column(server_default="ADMIN")
    password_hash: Mapped[str | None]
    totp_sealed: Mapped[str | None]
    totp_step: Mapped[int | None]
    totp_confirmed_at: Mapped[datetime | None]


class OperatorSession(Base):
    """An operator signed in with password and TOTP; the token is kept as a hash. Real time."""

    __tablename__ = "operator_sessions"
    __table_args__ = (Index("ix_operator_sessions_operator_id", "operator_id"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    operator_id: Mapped[str] = mapped_column(ForeignKey("operators.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


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
