"""Counts SQL statements as the driver sends them: those of the product, and BEGIN, COMMIT, ROLLBACK and pings.

``with counted(engine) as sent: …`` and then ``sent.at_most(12)``: a failure names each statement. Not counted are
preparing (once per connection and text), what SQLAlchemy asks a database when an engine first meets it, and what the
listening connection says to stay alive.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from asyncpg.connection import Connection
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.platform.database import Sessions

PLUMBING = ("BEGIN;", "COMMIT;", "ROLLBACK;", ";")


@dataclass(eq=False)
class Sent:
    """The statements of one database (or of one task and those that it began), in order."""

    database: str
    texts: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """All of them, plumbing too."""
        return len(self.texts)

    @property
    def plumbing(self) -> int:
        """Of them, those that only begin, end and ask whether somebody is there."""
        return sum(text in PLUMBING for text in self.texts)

    def at_most(self, limit: int) -> None:
        """Fail with the list of all of them where there are more."""
        assert self.count <= limit, f"more than {limit}: {self}"

    def __str__(self) -> str:
        lines = [f"{number:3} {' '.join(text.split())[:150]}" for number, text in enumerate(self.texts, 1)]
        return "\n".join([f"{self.count} statements, {self.plumbing} of them plumbing:", *lines])


_counters: set[Sent] = set()
_meeting: WeakSet[Any] = WeakSet()
"""Connections by which an engine meets its database: from that question to the ROLLBACK after it."""
_of_task: ContextVar[tuple[Sent, ...]] = ContextVar("sent_of_task", default=())


@contextmanager
def counted(source: AsyncEngine | Sessions, *, by_task: bool = False) -> Iterator[Sent]:
    """What is sent to this engine's database meanwhile, by whomever in this process.

    ``by_task``: only by this task and those that it begins. A batcher's batches are nobody's.
    """
    engine = source if isinstance(source, AsyncEngine) else source.kw["bind"]
    sent = Sent(engine.url.database or "")
    if by_task:
        token = _of_task.set((*_of_task.get(), sent))
        try:
            yield sent
        finally:
            _of_task.reset(token)
        return
    _counters.add(sent)
    try:
        yield sent
    finally:
        _counters.discard(sent)


def _hear(connection: Any, text: str) -> None:
    parameters = connection._params
    if (parameters.server_settings or {}).get("application_name") == "standpipe-listen":
        return
    listening = [sent for sent in (*_counters, *_of_task.get()) if sent.database == parameters.database]
    if text == "select pg_catalog.version()":
        _meeting.add(connection)
        for sent in listening:
            # Its BEGIN looks like every other one.
            sent.texts.reverse()
            sent.texts.remove("BEGIN;")
            sent.texts.reverse()
    if connection in _meeting:
        if text.startswith("ROLLBACK"):
            _meeting.discard(connection)
        return
    for sent in listening:
        sent.texts.append(text.strip())


def _wrap(owner: Any, name: str, tell: Callable[..., None]) -> None:
    method = getattr(owner, name)

    @functools.wraps(method)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        tell(self, *args)
        return await method(self, *args, **kwargs)

    setattr(owner, name, wrapper)


def _simple(connection: Any, query: str, *args: Any) -> None:
    if not args:
        _hear(connection, query)


# The narrowest places through which everything goes that asyncpg 0.32 sends; the test beside this file fails where a
# newer one has others.
_wrap(Connection, "execute", _simple)
_wrap(Connection, "_execute", lambda connection, query, *_: _hear(connection, query))
_wrap(Connection, "_executemany", lambda connection, query, *_: _hear(connection, query))
_wrap(Connection, "_copy_in", lambda connection, statement, *_: _hear(connection, statement))
_wrap(Connection, "copy_records_to_table", lambda connection, table, *_: _hear(connection, f"COPY {table} FROM STDIN"))
_wrap(Connection, "_copy_out", lambda connection, statement, *_: _hear(connection, statement))
_wrap(
    PreparedStatement,
    "_PreparedStatement__do_execute",
    lambda prepared, *_: _hear(prepared._connection, prepared._query),
)
