"""The unit of work: a transaction's rows, gathered while it decides and written once at its end, table by table.

Rooms define how rows of theirs are written, set-wise: ``FACTS = SetWriter("facts", Order.FACTS, write)``. Whoever
changes something adds rows to the work; before the commit each writer is called once with all of its rows, in the
order of ``Order``, which is also the order of locks: a room's own rows (payments, meters) before guarded accounts.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from standpipe.platform.database import after_commit
from standpipe.platform.notify import notify_many

Row = TypeVar("Row")
_log = structlog.get_logger(__name__)


class Order(IntEnum):
    """Turns of writers, lowest first. Notifications come after all of them."""

    ROWS = 10
    """Rows of the rooms themselves."""
    LEDGER = 20
    """Postings, which lock guarded accounts."""
    FACTS = 30
    AUDIT = 40


@dataclass(frozen=True, slots=True, eq=False)
class SetWriter(Generic[Row]):
    """Writes any number of rows in one statement, on the work's connection. It may add to writers after it."""

    name: str
    order: Order
    write: "Callable[[UnitOfWork, Sequence[Row]], Awaitable[None]]"


class UnitOfWork:
    """One transaction's changes, on its connection. Nothing is written before ``flush``."""

    def __init__(self, conn: AsyncConnection) -> None:
        self.conn = conn
        self._rows: dict[SetWriter[Any], list[Any]] = {}
        self._notifications: dict[tuple[str, str], None] = {}
        self._callbacks: list[Callable[[], object]] = []
        self._session: AsyncSession | None = None

    @classmethod
    async def of(cls, session: AsyncSession) -> "UnitOfWork":
        """A unit on a session's transaction, for as long as there are sessions; its owner calls ``flush``.

        Callbacks run after the session's commit.
        """
        work = cls(await session.connection())
        work._session = session
        return work

    def add(self, writer: SetWriter[Row], *rows: Row) -> None:
        """Have these rows written at the end, in the order in which they were added."""
        self._rows.setdefault(writer, []).extend(rows)

    def notify(self, channel: str, payload: str) -> None:
        """Tell listeners when, and only if, the transaction commits; each once."""
        self._notifications[channel, payload] = None

    def take_notifications(self) -> list[tuple[str, str]]:
        """Take what listeners are to be told so far, by channel: for a writer that tells them in its own statement."""
        taken, self._notifications = list(self._notifications), {}
        return taken

    def after_commit(self, call: Callable[[], object]) -> None:
        """Call when the transaction has committed. What it raises is logged, and undoes nothing."""
        self._callbacks.append(call)

    async def flush(self) -> None:
        """Write all that was gathered. Raises what writers raise; the transaction must then be rolled back."""
        if self._session is not None:
            await self._session.flush()
        while self._rows:
            writer = min(self._rows, key=lambda writer: writer.order)
            rows = self._rows.pop(writer)
            if rows:
                await writer.write(self, rows)
        await notify_many(self.conn, self.take_notifications())
        if self._session is not None:
            for call in self._take_callbacks():
                after_commit(self._session, call)

    def committed(self) -> None:
        """Run the callbacks: the transaction has committed. ``unit`` calls it."""
        for call in self._take_callbacks():
            try:
                call()
            except Exception:
                _log.exception("callback after a commit failed")

    def _take_callbacks(self) -> list[Callable[[], object]]:
        calls, self._callbacks = self._callbacks, []
        return calls


@asynccontextmanager
async def unit(engine: AsyncEngine) -> AsyncIterator[UnitOfWork]:
    """A transaction of its own, flushed and committed at the end; rolled back by whatever is raised within."""
    async with engine.begin() as conn:
        work = UnitOfWork(conn)
        yield work
        await work.flush()
    work.committed()
