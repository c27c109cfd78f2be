"""`make bench`: how much one gateway process holds of meters that dial in, and how fast it hears them.

A real `standpipe gateway` on the embedded PostgreSQL; the meters are the simulated ones, with HLS-GMAC, in this
process. Bounded in count, on the loopback. Meters and gateway share the machine, so the rates are a lower bound.
"""

import asyncio
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from bench.support import allow_many_files, cpu_s, rss_kb
from standpipe.meters.models import MeterState
from standpipe.platform.clock import Clock
from standpipe.platform.database import create_engine, create_sessions
from standpipe.platform.embedded import embedded
from standpipe.platform.migrate import upgrade
from standpipe_demo.simulator.dlms_meter import SimulatedDlmsMeter
from tests.support.database import free_port, public_folder
from tests.support.dlms import dlms_config, enrol, identity_of
from tests.support.roles import running
from tests.support.town import METER_SECRET, make_home, make_settings, make_utility, until

METERS = int(os.environ.get("BENCH_DLMS_METERS", "2000"))
WAIT_S = float(os.environ.get("BENCH_DLMS_WAIT_S", "600"))
DIALS_AT_ONCE = 100


async def main() -> None:
    allow_many_files()
    memory = Path("/dev/shm")  # noqa: S108 - the meters' flash is not what we measure.
    with public_folder() as folder, tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as flash:
        async with embedded(folder, port=free_port()) as url:
            await upgrade(url)
            await measure(url, Path(flash))


async def measure(url: str, flash: Path) -> None:
    engine = create_engine(url)
    sessions, port = create_sessions(engine), free_port()
    settings = make_settings()
    utility_id, tariff_id = await make_utility(sessions)
    installed_at = datetime.now(UTC) - timedelta(days=1)
    meters = []
    for _ in range(METERS):
        home = await make_home(sessions, settings, utility_id, tariff_id, installed_at=installed_at, zone="UTC")
        identity = identity_of(home)
        await enrol(sessions, home, identity)
        config = dlms_config(home, identity, started_at=datetime.now(UTC).isoformat(), wake_every_s=10**6)
        meters.append(
            SimulatedDlmsMeter(
                config, store_dir=flash, gateway=("127.0.0.1", port), clock=Clock(), redial_s=5.0, push_first=True
            )
        )
    print(f"{METERS} meters enrolled")
    environment = {"DATABASE_URL": url, "METER_KEY_SECRETS": METER_SECRET, "DLMS_PORT": str(port), "LOG_LEVEL": "ERROR"}
    async with running(environment) as roles:
        await roles.start("gateway")
        await until(lambda: _listens(port), timeout_s=60)
        await asyncio.sleep(1)
        gateway = roles._running["gateway"]  # noqa: SLF001 - whose memory we measure.
        before_kb = rss_kb(gateway.pid)
        start_s = time.perf_counter()
        lines = []
        for number, meter in enumerate(meters):
            lines.append(asyncio.create_task(meter.run()))
            if number % DIALS_AT_ONCE == DIALS_AT_ONCE - 1:
                await until(lambda: _stated(sessions, len(lines) * 9 // 10), timeout_s=WAIT_S)
        await until(lambda: _stated(sessions, METERS), timeout_s=WAIT_S)
        dialled_s, dialled_cpu_s = time.perf_counter() - start_s, cpu_s(gateway.pid)
        await asyncio.sleep(2)
        idle_kb = (rss_kb(gateway.pid) - before_kb) / METERS
        print(f"dial-in, HLS-GMAC and first statement   {METERS / dialled_s:8.1f} meters/s,"
              f" {1000 * dialled_cpu_s / METERS:6.1f} ms of the gateway's processor each")  # fmt: skip
        print(f"memory of one idle, associated meter     {idle_kb:8.1f} kB  (of {rss_kb(gateway.pid) / 1024:.0f} MB)")
        start_s, counted = time.perf_counter(), await _reports(sessions)
        pushed = [meter for meter in meters if meter.connected]
        for at in range(0, len(pushed), DIALS_AT_ONCE):
            batch = pushed[at : at + DIALS_AT_ONCE]
            await asyncio.gather(*(meter.push() for meter in batch))
            wanted = counted + (at + len(batch)) * 9 // 10
            await until(lambda wanted=wanted: _reported(sessions, wanted), timeout_s=WAIT_S)
        pushed_s, spent_s = time.perf_counter() - start_s, cpu_s(gateway.pid) - dialled_cpu_s
        print(f"push taken in, and a whole contact after {len(pushed) / pushed_s:8.1f} uplinks/s,"
              f" {1000 * spent_s / len(pushed):6.1f} ms of the gateway's processor each")  # fmt: skip
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
    await engine.dispose()


async def _stated(sessions: Any, count: int) -> bool:
    async with sessions() as session:
        query = select(func.count()).select_from(MeterState).where(MeterState.stated_at.is_not(None))
        return (await session.scalar(query) or 0) >= count


async def _reports(sessions: Any) -> int:
    async with sessions() as session:
        return int(await session.scalar(select(func.coalesce(func.sum(MeterState.report_counter), 0))))


async def _reported(sessions: Any, count: int) -> bool:
    return await _reports(sessions) >= count


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


if __name__ == "__main__":
    asyncio.run(main())
