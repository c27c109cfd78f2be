"""Domain rows as queues: one lease helper for the inbox, the outbox, deliveries and the payment poller.

Claiming pushes ``due_at`` into the future by the lease and counts the attempt *at claim*, so a row that kills its
worker is seen to have been tried. If the worker dies, the row falls due again by itself. All instants here are the
database's own ``now()``: workers on machines with different clocks agree.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.platform import metrics
from standpipe.platform.base import QueueMixin
from standpipe.platform.database import after_commit

Row = TypeVar("Row", bound=QueueMixin)


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits, and for how long the oldest has."""

    count: int
    oldest_s: float


async def claim(
    session: AsyncSession, model: type[Row], *, limit: int, lease_s: float, where: Sequence[Any] = ()
) -> list[Row]:
    """Lease up to ``limit`` due rows, oldest first, skipping those that another worker holds."""
    due = (
        select(model)
        .where(model.due_at <= func.now(), *where)
        .order_by(model.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = list(await session.scalars(due))
    now = await database_now(session)
    for row in rows:
        row.attempts += 1
        row.due_at = now + timedelta(seconds=lease_s)
    return rows


async def database_now(session: AsyncSession) -> datetime:
    """The database's real time, as of the transaction's start."""
    return (await session.execute(select(func.now()))).scalar_one()


def finish(row: QueueMixin) -> None:
    """The row's work is done; it leaves the queue and stays as a record."""
    row.due_at = None
    row.last_error = None


async def retry(
    session: AsyncSession,
    row: QueueMixin,
    error: str,
    *,
    max_attempts: int,
    base_s: float = 1.0,
    cap_s: float = 3600.0,
) -> bool:
    """Put the row back with exponential backoff and jitter; after ``max_attempts`` it is dead and waits for a person.

    Returns whether it will be tried again.
    """
    # What others told us may hold anything; a text column holds no NUL.
    row.last_error = error[:500].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    now = await database_now(session)
    if row.attempts >= max_attempts:
        row.due_at, row.dead_at = None, now
        after_commit(session, metrics.QUEUE_GIVEN_UP.labels(type(row).__name__).inc)
        return False
    row.due_at = now + timedelta(seconds=backoff_s(row.attempts, base_s=base_s, cap_s=cap_s))
    return True


async def backlog(session: AsyncSession, since: Any, waits: Any) -> Backlog:
    """What waits, by the column that says since when; ``waits`` should be the condition of a partial index."""
    age_s = func.extract("epoch", func.now() - func.min(since))
    count, oldest_s = (await session.execute(select(func.count(), age_s).where(waits))).one()
    return Backlog(count, max(float(oldest_s or 0), 0.0))


def backoff_s(attempts: int, *, base_s: float, cap_s: float) -> float:
    """Exponential backoff with full jitter over its upper half."""
    ceiling: float = min(cap_s, base_s * 2.0 ** min(attempts - 1, 30))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - jitter needs no cryptography.
