"""What every bench uses: a row of the table, jobs at once, an app on a port."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import uvicorn
from starlette.applications import Starlette

from tests.support.database import free_port

CONNECTIONS = 8


class Row(NamedTuple):
    """A ratio and what it is made of."""

    name: str
    ours: float
    plain: float
    how: str


async def rate(jobs: list[Callable[[], Awaitable[None]]]) -> float:
    """Jobs per second, CONNECTIONS at once."""
    room = asyncio.Semaphore(CONNECTIONS)

    async def one(job: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await job()

    began = time.perf_counter()
    await asyncio.gather(*(one(job) for job in jobs))
    return len(jobs) / (time.perf_counter() - began)


async def median_ms(jobs: list[list[Callable[[], Awaitable[object]]]]) -> list[float]:
    """The median time of each list of jobs. They take turns, so that what else the machine does falls on all alike."""
    took: list[list[float]] = [[] for _ in jobs]
    for turn in zip(*jobs, strict=True):
        for number, job in enumerate(turn):
            began = time.perf_counter()
            await job()
            took[number].append((time.perf_counter() - began) * 1000)
    return [statistics.median(times) for times in took]


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """The app on a port of the loopback, and a client of it."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        yield http
    server.should_exit = True
    await task
