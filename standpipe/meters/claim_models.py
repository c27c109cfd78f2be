"""Codes that prove a meter to be yours."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class ClaimCode(Base):
    """A single-use code for one meter (80 random bits and more), kept as a hash. Real time.

    Open while ``used_at`` and ``revoked_at`` are empty and ``expires_at`` (None: never) is to come. Codes end when the
    people change: whoever moved out has seen theirs.
    """

    __tablename__ = "claim_codes"
    __table_args__ = (Index("ix_claim_codes_meter_id", "meter_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    meter_id: Mapped[str] = mapped_column(ForeignKey("meters.id"))
    code_hash: Mapped[str] = mapped_column(unique=True)
    issued_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    used_by: Mapped[str | None] = mapped_column(ForeignKey("customers.id"))
    revoked_at: Mapped[datetime | None]
