"""Domain rows as queues: one lease helper for the inbox, the outbox, deliveries and the payment poller.

Claiming pushes ``due_at`` into the future by the lease and counts the attempt *at claim*, so a row that kills its
worker is seen to have been tried. If the worker dies, the row falls due again by itself. All instants here are the
database's own ``now()``: workers on machines with different clocks agree.

A lease is short, so that what a killed worker held is another's within seconds; whoever works for longer than that
holds its rows meanwhile (``hold``).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.platform import metrics
from standpipe.platform.base import QueueMixin
from standpipe.platform.database import Sessions, after_commit

LEASE_S = 10.0
RENEW_EVERY_S = 3.0
Row = TypeVar("Row", bound=QueueMixin)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Length of a queue, and the time that the oldest in it has waited."""

    count: int
    oldest_s: float


async def claim(
    session: AsyncSession, model: type[Row], *, limit: int, lease_s: float = LEASE_S, where: Sequence[Any] = ()
) -> list[Row]:
    """Lease up to ``limit`` due rows, the longest due, skipping those that another worker holds; one statement.

    In the order of their ids.
    """
    keyed: Any = model
    due = (
        select(keyed.id)
        .where(model.due_at <= func.now(), *where)
        .order_by(model.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        # Or a plan may look for them anew for each row that it meets.
        .cte("due")
        .prefix_with("MATERIALIZED")
    )
    leased = (
        update(model)
        .where(keyed.id == due.c.id)
        .values(attempts=model.attempts + 1, due_at=func.now() + timedelta(seconds=lease_s))
        .returning(model)
    )
    rows = await session.scalars(leased, execution_options={"synchronize_session": False, "populate_existing": True})
    return sorted(rows, key=lambda row: cast("Any", row).id)


@dataclass(slots=True)
class Hold:
    """Claimed rows that are worked on, by their ids."""

    ids: set[Any]
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def let_go(self, *ids: Any) -> None:
        """These are about to be concluded: from here on their ``due_at`` is whoever concludes them's to say."""
        async with self._lock:
            self.ids.difference_update(ids)

    async def renew(self, sessions: Sessions, model: Any, lease_s: float) -> None:
        """Lease anew what is still leased; what somebody made due meanwhile stays so."""
        async with self._lock:
            await _lease(sessions, model, self.ids, lease_s)


@asynccontextmanager
async def hold(
    sessions: Sessions, model: Any, ids: Iterable[Any], *, lease_s: float = LEASE_S, every_s: float = RENEW_EVERY_S
) -> AsyncIterator[Hold]:
    """Keep rows leased for as long as the block runs; where it raises, those not let go fall due soon."""
    held = Hold(set(ids))
    keeper = asyncio.create_task(_keep(held, sessions, model, lease_s, every_s), name=f"hold {model.__name__}")
    try:
        yield held
    except BaseException:
        keeper.cancel()
        await held.renew(sessions, model, random.random())  # noqa: S311 - jitter needs no cryptography.
        raise
    finally:
        keeper.cancel()
        # Whatever it has under way ends with the block.
        await asyncio.wait([keeper])


async def _keep(held: Hold, sessions: Sessions, model: Any, lease_s: float, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await held.renew(sessions, model, lease_s)
        except Exception as error:
            # The database may be away; the work itself will say so.
            _log.warning("lease not renewed", queue=model.__name__, error=type(error).__name__)


async def _lease(sessions: Sessions, model: Any, ids: set[Any], lease_s: float) -> None:
    if not ids:
        return
    later = {"due_at": func.now() + timedelta(seconds=lease_s)}
    async with sessions.begin() as session:
        await session.execute(
            update(model).where(model.id.in_(sorted(ids)), model.due_at > func.now()).values(later),
            execution_options={"synchronize_session": False},
        )


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
    """Count what waits, by the column that says since when; ``waits`` should be the condition of a partial index."""
    age_s = func.extract("epoch", func.now() - func.min(since))
    count, oldest_s = (await session.execute(select(func.count(), age_s).where(waits))).one()
    return Backlog(count, max(float(oldest_s or 0), 0.0))


def backoff_s(attempts: int, *, base_s: float, cap_s: float) -> float:
    """Exponential backoff with full jitter over its upper half."""
    ceiling: float = min(cap_s, base_s * 2.0 ** min(attempts - 1, 30))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - jitter needs no cryptography.
