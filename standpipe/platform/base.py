"""Declarative base and column types shared by every domain's models."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from standpipe.platform.tracing import current_traceparent


class Base(DeclarativeBase):
    """Each domain's models derive from this; Alembic compares its metadata with the migrated database."""

    # Stable constraint names: a migration must be able to name what it changes.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this class attribute.
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[str]: JSONB,
        dict[str, int]: JSONB,
    }


class QueueMixin:
    """Columns of a domain row that is also a queue entry; ``standpipe.engine.queue`` claims and finishes them.

    A row waits while ``due_at`` is set. These instants are the database's real time, never the town's clock.
    """

    due_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    dead_at: Mapped[datetime | None]


class TracedMixin:
    """A row that waits for somebody, and keeps the trace of what wrote it (``standpipe.platform.tracing``)."""

    traceparent: Mapped[str | None] = mapped_column(default=current_traceparent)
