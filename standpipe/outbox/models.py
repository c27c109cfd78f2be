"""The outbox table."""

from datetime import datetime
from typing import Any

from sqlalchemy import Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base, QueueMixin, TracedMixin


class OutboxFact(TracedMixin, QueueMixin, Base):
    """One fact that someone may react to; ``kind`` names its dataclass in ``standpipe.outbox.facts``."""

    __tablename__ = "outbox_facts"
    __table_args__ = (Index("ix_outbox_facts_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
