"""The simulated meter under a client that is nobody's here: gurux-dlms, in a process and environment of its own.

It is what keeps our gateway and our simulator from agreeing on a mistake. Its licence (GPL-2) keeps it out of the
product and of the suite's environment: the test installs it for itself, and says loudly where it cannot.
"""

import asyncio
import json
import venv
from contextlib import suppress
from pathlib import Path

import pytest

from standpipe.platform.clock import Clock
from standpipe_demo.simulator.dlms_meter import SimulatedDlmsMeter
from standpipe_demo.simulator.meter_model import MeterConfig

PEER = Path(__file__).parent / "peers" / "gurux_client.py"
VERSION = "gurux-dlms==1.0.203"
IDENTITY = {
    "profile": "dlms-prepaid-v1",
    "name": "SPW00000042",
    "system_title": "5350570100000042",
    "mechanism": "HLS_GMAC",
    "encryption_key": bytes(range(16)).hex(),
    "authentication_key": bytes(range(0xD0, 0xE0)).hex(),
}


@pytest.fixture(scope="module")
def gurux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has gurux-dlms, thrown away afterwards."""
    folder = tmp_path_factory.mktemp("gurux")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"

    async def install() -> int:
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", VERSION)
        child = await asyncio.create_subprocess_exec(*pip, stderr=asyncio.subprocess.DEVNULL)
        return await asyncio.wait_for(child.wait(), 120)

    if asyncio.run(install()):
        pytest.skip(f"THE INDEPENDENT DLMS PEER DID NOT RUN: {VERSION} could not be installed (see -ra)")
    return python


async def test_a_foreign_client_associates_by_hls_gmac_and_reads_volume_and_account(
    gurux: Path, tmp_path: Path
) -> None:
    config = MeterConfig(
        serial="P1",
        endpoint="P1",
        prepaid_key_hex="",
        currency="KES",
        time_zone="Africa/Nairobi",
        blocks=((None, "5000"),),
        started_at="2026-01-01T00:00:00+00:00",
        register_ml=1_234_567_000,
        credit_accepted=9_000,
        credit_remaining=4_200,
        daily_litres=0,
        dlms=IDENTITY,
    )
    order = {"client_title": "5350570000000001"} | {name: IDENTITY[name] for name in IDENTITY if "key" in name}
    child = await asyncio.create_subprocess_exec(
        str(gurux), str(PEER), json.dumps(order), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    port = int(await asyncio.wait_for(child.stdout.readline(), 30))
    meter = SimulatedDlmsMeter(config, store_dir=tmp_path, gateway=("127.0.0.1", port), clock=Clock())
    hour = 1_770_000_000
    meter.objects.state.unsent = [(hour + 3_600 * at, at) for at in range(60)]
    rows = len(meter.objects.state.unsent)
    meter.objects.state.at = Clock().now().isoformat()
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await asyncio.wait_for(meter.dial(), 60)
    told, errors = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0, errors.decode()
    # It prints lines of its own before ours.
    assert json.loads(told.splitlines()[-1]) == {
        "volume": 1_234.567,
        "unit": 13,
        "name": "SPW00000042",
        "available_credit": 4_200,
        "currency": "KES",
        "credit": 4_200,
        "paid": 4_800,
        "profile_rows": rows,
    }
