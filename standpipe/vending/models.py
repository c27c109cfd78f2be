"""Tokens asked for, and their digits once there are some."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base, QueueMixin


class Purpose(StrEnum):
    """Purposes of a token."""

    CREDIT = "CREDIT"
    CLEAR_CREDIT = "CLEAR_CREDIT"
    CLEAR_TAMPER = "CLEAR_TAMPER"
    KEY_CHANGE = "KEY_CHANGE"


class KeypadToken(QueueMixin, Base):
    """A token (a new key: four) for one meter. As a queue entry it waits for the issuer.

    Everything that its digits follow from is on the row, so that asking twice gives the same token: ``terms`` of the
    key at the time, ``tid``, ``volume_ml``. ``credit_key`` is the step of the credit that it stands for.
    ``requested_at`` and ``issued_at`` are by the town's clock. ``digits`` stays None where it was not needed any more.
    """

    __tablename__ = "keypad_tokens"
    __table_args__ = (
        UniqueConstraint("meter_id", "tid"),
        Index("ix_keypad_tokens_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    purpose: Mapped[str]
    credit_key: Mapped[str | None] = mapped_column(ForeignKey("credit_grants.credit_key"), unique=True)
    tid: Mapped[int | None]
    volume_ml: Mapped[int] = mapped_column(server_default="0")
    terms: Mapped[dict[str, Any]]
    new_terms: Mapped[dict[str, Any] | None]
    digits: Mapped[list[str] | None]
    requested_at: Mapped[datetime]
    issued_at: Mapped[datetime | None]
    operator: Mapped[str | None]
