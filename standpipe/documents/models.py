"""Trusted documents."""

from datetime import datetime

from sqlalchemy import CheckConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base


class TrustedDocument(Base):
    """One document, known by the SHA-256 of its text (64 hex digits). ``client`` is who brought it: ``android@2.1``."""

    __tablename__ = "trusted_documents"
    __table_args__ = (CheckConstraint("id ~ '^[0-9a-f]{64}$'", name="id_is_sha256"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str]
    name: Mapped[str] = mapped_column(server_default="")
    client: Mapped[str] = mapped_column(server_default="")
    added_at: Mapped[datetime] = mapped_column(server_default=func.now())
