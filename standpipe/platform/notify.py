"""Wake-up calls between processes over LISTEN/NOTIFY.

A notification is a hint, never the truth: whoever hears one reads the rows. A lost one costs a poll interval.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
import structlog
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.platform.database import async_url

WORK = "standpipe_work"
"""Something is due in a queue (payload: which queue)."""
COMMANDS = "standpipe_commands"
"""A command waits for a meter (payload: meter id)."""
LIVE = "standpipe_live"
"""Channel for what a customer sees that has changed (payload: meter or top-up id)."""

NOTIFY = text(
    "SELECT pg_notify(call.channel, call.payload)"
    " FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[])) AS call(channel, payload)"
)
_log = structlog.get_logger(__name__)


async def notify(session: AsyncSession, channel: str, payload: str) -> None:
    """Tell listeners when, and only if, the caller's transaction commits."""
    await session.execute(select(func.pg_notify(channel, payload)))


async def notify_many(conn: AsyncConnection, calls: Sequence[tuple[str, str]]) -> None:
    """``notify`` for any number of (channel, payload), in one statement; in none where there are none."""
    if calls:
        channels, payloads = zip(*calls, strict=True)
        await conn.execute(NOTIFY, {"channels": list(channels), "payloads": list(payloads)})


class Listener:
    """One connection that listens for a whole process and fans out to any number of waiters.

    Each waiter has one flag, not a queue: a slow one misses intermediate states, never the last, and nothing
    grows. The connection is made again when it breaks, and every waiter is woken then, because calls may have
    been missed meanwhile.
    """

    def __init__(self, database_url: str, *channels: str) -> None:
        self._dsn = async_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._channels = channels
        self._waiters: dict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self.is_connected = False

    async def start(self) -> None:
        """Begin listening; returns once the first connection listens."""
        self._task = asyncio.create_task(self._run())
        await asyncio.wait_for(self._ready.wait(), timeout=15)

    async def stop(self) -> None:
        """End the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @asynccontextmanager
    async def subscribe(self, channel: str, *payloads: str) -> AsyncIterator[asyncio.Event]:
        """A flag that is set at each call on ``channel`` with one of these payloads."""
        flag = asyncio.Event()
        keys = [(channel, payload) for payload in payloads]
        for key in keys:
            self._waiters[key].add(flag)
        try:
            yield flag
        finally:
            for key in keys:
                self._waiters[key].discard(flag)
                if not self._waiters[key]:
                    del self._waiters[key]

    async def payloads(self, channel: str) -> AsyncIterator[set[str]]:
        """Batches of distinct payloads heard on ``channel``; an empty set means "anything may have changed"."""
        heard: set[str] = set()
        flag = asyncio.Event()
        sink = _Sink(flag, heard)
        self._waiters[channel, "*"].add(sink)
        try:
            while True:
                await flag.wait()
                flag.clear()
                batch = heard.copy()
                heard.clear()
                yield batch
        finally:
            self._waiters[channel, "*"].discard(sink)

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        text = str(payload)
        for flag in self._waiters.get((channel, text), ()):
            flag.set()
        for sink in self._waiters.get((channel, "*"), ()):
            if isinstance(sink, _Sink):
                sink.add(text)

    async def _run(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(self._dsn, server_settings={"application_name": "standpipe-listen"})
                try:
                    for channel in self._channels:
                        await connection.add_listener(channel, self._heard)
                    self._ready.set()
                    self.is_connected = True
                    self._wake_all()
                    while not connection.is_closed():
                        await asyncio.sleep(5)
                        await connection.execute("SELECT 1", timeout=10)
                finally:
                    self.is_connected = False
                    connection.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                _log.warning("listen connection lost", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.5)

    def _wake_all(self) -> None:
        for flags in self._waiters.values():
            for flag in flags:
                flag.set()


class _Sink(asyncio.Event):
    """A waiter that also collects what it heard; sets are bounded by the number of distinct ids in use."""

    def __init__(self, flag: asyncio.Event, heard: set[str]) -> None:
        super().__init__()
        self._flag, self._payloads = flag, heard

    def add(self, payload: str) -> None:
        self._payloads.add(payload)
        self._flag.set()

    def set(self) -> None:
        self._flag.set()
