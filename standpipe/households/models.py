"""Customers, households and sign-in codes."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base

MEMBER_ID = "'mem_' || left(replace(gen_random_uuid()::text, '-', ''), 26)"
"""The database gives a membership its id: releases from before the column write none."""


class HouseholdRole(StrEnum):
    """Roles of a household's members."""

    OWNER = "OWNER"
    PAYER = "PAYER"
    VIEWER = "VIEWER"

    def may(self, wanted: "HouseholdRole") -> bool:
        """Tell if this role may do what needs at least ``wanted``: a viewer looks, a payer pays, an owner shares."""
        order = [HouseholdRole.VIEWER, HouseholdRole.PAYER, HouseholdRole.OWNER]
        return order.index(self) >= order.index(wanted)


class Customer(Base):
    """A person, known by phone number (E.164). One who asked to be forgotten keeps the id, which is then a pseudonym:
    ``deleted_at`` is set, and ``phone`` is no number any more.
    """

    __tablename__ = "customers"

    id: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(server_default="")
    language: Mapped[str] = mapped_column(server_default="en")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class CustomerIdentity(Base):
    """A customer as another issuer of tokens knows them (Firebase Auth: issuer and ``sub``)."""

    __tablename__ = "customer_identities"
    __table_args__ = (Index("ix_customer_identities_customer_id", "customer_id"),)

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CustomerSession(Base):
    """One sign-in: the family of all refresh tokens that came out of it. Instants are real time.

    ``kind``: APP (tokens in the app's keeping) or WEB (a cookie). ``ended_reason``: SIGNED_OUT, SIGNED_OUT_EVERYWHERE,
    REUSED (a refresh token came twice), DELETED, EXPIRED.
    """

    __tablename__ = "customer_sessions"
    __table_args__ = (Index("ix_customer_sessions_customer_id", "customer_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"))
    kind: Mapped[str]
    label: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ended_reason: Mapped[str | None]


class RefreshToken(Base):
    """One token of a session's family, kept as a hash. It works once; a second use ends the session.

    ``used_at`` is when its successor first showed itself; until then, presenting it again gives the same successor.
    """

    __tablename__ = "refresh_tokens"
    __table_args__ = (Index("ix_refresh_tokens_session_id", "session_id"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("customer_sessions.id", ondelete="CASCADE"))
    issued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class Household(Base):
    """Those who share a supply."""

    __tablename__ = "households"

    id: Mapped[str] = mapped_column(primary_key=True)
    utility_id: Mapped[str] = mapped_column(ForeignKey("utilities.id"))
    name: Mapped[str]


class Membership(Base):
    """A customer's role in a household."""

    __tablename__ = "memberships"
    __table_args__ = (Index("ix_memberships_customer_id", "customer_id"), UniqueConstraint("id"))

    id: Mapped[str] = mapped_column(server_default=text(MEMBER_ID))
    household_id: Mapped[str] = mapped_column(ForeignKey("households.id"), primary_key=True)
    customer_id: Mapped[str] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    role: Mapped[str]
    joined_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Invite(Base):
    """A place in a household, kept for whoever proves to have a phone number. Real time.

    Open while ``accepted_at`` and ``ended_at`` are empty and ``expires_at`` is to come. ``ended_reason``: DECLINED,
    WITHDRAWN, MOVED_OUT.
    """

    __tablename__ = "invites"
    __table_args__ = (
        Index("ix_invites_phone", "phone"),
        Index(
            "uq_invites_open",
            *("household_id", "phone"),
            unique=True,
            postgresql_where=text("accepted_at IS NULL AND ended_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    household_id: Mapped[str] = mapped_column(ForeignKey("households.id"))
    phone: Mapped[str]
    role: Mapped[str]
    invited_by: Mapped[str | None] = mapped_column(ForeignKey("customers.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    accepted_at: Mapped[datetime | None]
    accepted_by: Mapped[str | None] = mapped_column(ForeignKey("customers.id"))
    ended_at: Mapped[datetime | None]
    ended_reason: Mapped[str | None]


class SignInCode(Base):
    """A one-time code, kept only as a hash. Instants are real time. ``address`` is the asker's, hashed."""

    __tablename__ = "sign_in_codes"
    __table_args__ = (
        Index("ix_sign_in_codes_phone", "phone", "created_at"),
        Index("ix_sign_in_codes_created_at", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str]
    code_hash: Mapped[str]
    tries: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    address: Mapped[str | None]
