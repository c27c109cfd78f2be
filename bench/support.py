"""What every bench uses: a row of the table, jobs at once, an app on a port, and what a process takes."""

import asyncio
import os
import resource
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
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


async def rate(jobs: list[Callable[[], Awaitable[None]]], *, at_once: int = CONNECTIONS) -> float:
    """Jobs per second, so many at once."""
    room = asyncio.Semaphore(at_once)

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


def print_rows(rows: list[Row]) -> list[str]:
    """The table, printed; its lines."""
    lines = ["| what | ours | baseline | ratio | how |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {number(ours)} | {number(plain)} | {_ratio(ours / plain)} | {how} |"
        for name, ours, plain, how in rows
    ]
    print("\n".join(lines))
    return lines


def number(value: float) -> str:
    """With as many digits as mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def allow_many_files() -> None:
    """As many sockets as the machine lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65_536), most))


def rss_kb(pid: int) -> int:
    """A process's resident memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def cpu_s(pid: int) -> float:
    """The processor time that a process has had so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
