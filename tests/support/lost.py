"""Database connections that end under us, all at once or at a chosen statement."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from sqlalchemy import event

from standpipe.platform.database import Sessions

_END = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'standpipe'"""


async def end_all(database_url: str) -> int:
    """End every connection of our pools, as a server does that is told to stop; how many there were."""
    connection = await asyncpg.connect(database_url)
    try:
        return len(await connection.fetch(_END))
    finally:
        await connection.close()


@contextmanager
def lost_at(
    sessions: Sessions, moment: str, *, after: str = "", times: int = 1, late: bool = False
) -> Iterator[list[str]]:
    """Break the connection just before a statement that holds ``moment``, or before a COMMIT; so many times.

    ``late``: just after that statement, before anybody has heard what came of it.
    The COMMIT is the first one whose statements hold ``after``. What is given has an entry for each time.
    """
    engine = sessions.kw["bind"].sync_engine
    seen: set[Any] = set()
    lost: list[str] = []

    def execute(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if after in statement:
            seen.add(connection)
        if moment in statement and not late:
            end(connection)

    def executed(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if moment in statement and late and len(lost) < times:
            end(connection)
            raise connection.dialect.loaded_dbapi.InterfaceError("connection is closed")

    def commit(connection: Any) -> None:
        if moment == "COMMIT" and connection in seen:
            end(connection)

    def end(connection: Any) -> None:
        if len(lost) < times:
            lost.append(moment)
            connection.connection.driver_connection.terminate()

    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "after_cursor_execute", executed)
    event.listen(engine, "commit", commit)
    try:
        yield lost
    finally:
        event.remove(engine, "before_cursor_execute", execute)
        event.remove(engine, "after_cursor_execute", executed)
        event.remove(engine, "commit", commit)
