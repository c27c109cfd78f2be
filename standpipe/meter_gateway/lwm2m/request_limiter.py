"""Requests under way: so many and no more, and each is finished once begun."""

import asyncio
from collections.abc import Awaitable, Callable

import aiocoap

MAX_REQUESTS = 256
STOP_WITHIN_S = 5.0


class RequestLimiter:
    """Runs the handlers of incoming requests apart from aiocoap's tasks.

    aiocoap cancels a handler whose token comes again, and a query cancelled half-way costs its database connection:
    anybody could take our connections down with two datagrams each.
    """

    def __init__(self, size: int = MAX_REQUESTS) -> None:
        self._size = size
        self._tasks: set[asyncio.Task[aiocoap.Message]] = set()

    async def run(self, work: Callable[[], Awaitable[aiocoap.Message]]) -> aiocoap.Message:
        """Return the answer of ``work``, which must not raise; 5.03 where too much is under way."""
        if len(self._tasks) >= self._size:
            return aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE)
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Let what is under way finish, for a while."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_WITHIN_S)
            for task in late:
                task.cancel()
