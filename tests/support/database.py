"""The suite's PostgreSQL: one embedded server, one migrated template, one clone of it for each test."""

import collections
import fcntl
import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import asyncpg
from sqlalchemy import make_url

from standpipe.platform import embedded_place
from standpipe.platform.embedded import embedded
from standpipe.platform.migrate import upgrade

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """A running server. ``url`` is its migrated template, to which nobody may stay connected."""

    url: str
    admin: Any

    @asynccontextmanager
    async def clone(self) -> AsyncIterator[str]:
        """URL of a fresh, migrated database that is dropped afterwards, whoever is still connected to it."""
        name = f"test_{next(_numbers)}"
        template = make_url(self.url).database
        # With fsync off, copying files takes 10 + 4 ms per test to make and drop; through the WAL it is 13 + 12 ms.
        await self.admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        try:
            yield renamed(self.url, name)
        finally:
            await self.admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@asynccontextmanager
async def database_server() -> AsyncIterator[DatabaseServer]:
    """Start the suite's server in a folder of its own, forgotten at the end."""
    # Where tests/on_any_day.py shifts our clock, PostgreSQL's now() is shifted as far.
    shifted = {name: os.environ[name] for name in os.environ if "FAKE" in name or name == "LD_PRELOAD"}
    with public_folder() as folder, patch.dict(embedded_place._ENVIRONMENT, shifted):
        async with embedded(folder, port=free_port(), durable=False) as url:
            await upgrade(url)
            admin = await asyncpg.connect(renamed(url, "postgres"))
            try:
                yield DatabaseServer(url, admin)
            finally:
                await admin.close()


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that other users can pass through: as root, PostgreSQL runs as one of them."""
    path = Path(tempfile.mkdtemp(prefix="standpipe-test-", dir=_memory()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _memory() -> str | None:
    """Where files are memory, if there is room: a database is copied for each test."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder in it, by mkdtemp.
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _ROOM_BYTES:
        return str(memory)
    return None


_ROOM_BYTES = 6 * 1024**3
_PORTS = range(10_000, 30_000)
"""Below those that the system hands out itself."""
_HELD = 300
_held: collections.deque[IO[str]] = collections.deque(maxlen=_HELD)
_ports = itertools.islice(itertools.cycle(_PORTS), os.getpid() * 97 % len(_PORTS), None)


def free_port() -> int:
    """A port of the loopback, TCP and UDP, that nobody listens on at the moment, and that is ours for a while.

    Several suites and their workers may run on one machine: a lock on a file of its number keeps a port from all
    others, until this process has asked for so many more, or has ended.
    """
    folder = Path(tempfile.gettempdir()) / "standpipe-test-ports"
    folder.mkdir(exist_ok=True)
    for port in _ports:
        lock = (folder / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
                stream.bind(("127.0.0.1", port))
                datagram.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        if len(_held) == _HELD:
            _held[0].close()
        _held.append(lock)
        return port
    raise AssertionError("the numbers go round")


def renamed(url: str, database: str) -> str:
    """The same server's URL for another database."""
    return make_url(url).set(database=database).render_as_string(hide_password=False)
