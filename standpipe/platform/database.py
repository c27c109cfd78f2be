"""Engine and session factory. Only doors, workers and commands open transactions with what is made here."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import URL, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, DisconnectionError, TimeoutError  # noqa: A004 - the pool's own time-out.
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from standpipe.platform.reconnect import note_commit

Sessions = async_sessionmaker[AsyncSession]
Engine = AsyncEngine
Connection = AsyncConnection
Conn = AsyncSession
"""A transaction that its caller begins and commits."""
DATABASE_DOWN = (DBAPIError, TimeoutError, OSError)
"""Errors that a door catches to answer "come back later" instead of losing what it was given."""


def async_url(database_url: str) -> URL:
    """The URL with the driver we use, whichever PostgreSQL scheme the operator wrote."""
    return make_url(database_url).set(drivername="postgresql+asyncpg")


def create_engine(database_url: str, *, pool_size: int = 10) -> AsyncEngine:
    """An engine whose connections give up on a lock after 10 s and on an idle transaction after 60 s.

    A stalled process must not hold a payment's row for ever. No connection is pinged before its use: one that the
    server has closed is known without asking, and replaced; one that breaks later is met by whoever tries again.
    """
    engine = create_async_engine(
        async_url(database_url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=10,
        # Errors quote the statement, not the phone numbers and names that it was given.
        hide_parameters=True,
        connect_args={
            "server_settings": {
                "application_name": "standpipe",
                "lock_timeout": "10s",
                "idle_in_transaction_session_timeout": "60s",
                "timezone": "UTC",
                "jit": "off",
            }
        },
    )
    event.listen(engine.sync_engine, "checkout", _require_open)
    event.listen(engine.sync_engine, "commit", note_commit)
    return engine


def _require_open(dbapi_connection: Any, _record: object, _proxy: object) -> None:
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError


def create_sessions(engine: AsyncEngine) -> Sessions:
    """The factory that functions named with ``sessions`` take."""
    return async_sessionmaker(engine, expire_on_commit=False)


def engine_of(sessions: Sessions) -> Engine:
    """The engine whose transactions these sessions are."""
    engine: Engine = sessions.kw["bind"]
    return engine


def without_transactions(engine: Engine) -> Engine:
    """The engine, each of whose statements is a transaction of its own: one statement where it would be three."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


@asynccontextmanager
async def by_statement(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A session whose statements are each a transaction of their own: nothing is begun, ended or held between them.

    For reads, and for single statements that may safely be sent twice: whether one that was lost has happened is
    unknown, and ``reconnect.once_more`` does not see that it may have.
    """
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        yield session


def pool_use(sessions: Sessions) -> tuple[int, int]:
    """Connections in use now, and the most that there may be."""
    pool = sessions.kw["bind"].sync_engine.pool
    return (pool.checkedout(), pool.size() + pool._max_overflow) if isinstance(pool, QueuePool) else (0, 0)  # noqa: SLF001


def after_commit(session: AsyncSession, call: Callable[[], object]) -> None:
    """Run ``call`` once the caller's transaction has committed; never where it is rolled back."""
    event.listen(session.sync_session, "after_commit", lambda _session: call(), once=True)


async def answers(sessions: Sessions) -> bool:
    """Tell whether the database answers at all."""
    try:
        async with sessions() as session:
            await session.execute(select(1))
    except DATABASE_DOWN:
        return False
    return True


async def is_migrated(sessions: Sessions) -> bool:
    """Tell whether the migrations have ever run there. Newer ones than ours are fine: they only add."""
    async with sessions() as session:
        return bool(await session.scalar(select(func.to_regclass("alembic_version").is_not(None))))
