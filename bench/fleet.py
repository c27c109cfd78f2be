"""A fleet of meters for the carriers' benches: enrolled in bulk, and the gateway process that hears them."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import func, insert, select

from standpipe.households.models import Customer, Household, Membership
from standpipe.meter_gateway.carriers import run_carriers
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCredential
from standpipe.platform.database import Engine, Sessions, create_engine, create_sessions
from standpipe.platform.embedded import embedded
from standpipe.platform.ids import new_id
from standpipe.platform.migrate import upgrade
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.readings.models import RawReport
from tests.support.database import free_port, public_folder
from tests.support.roles import running
from tests.support.statements import counted
from tests.support.town import METER_SECRET, PREPAID_KEY, make_settings, make_utility

HOURS = 24
"""Kept readings that one uplink tells of."""
FLOW_ML = 11_000
QUIET_S = 0.3


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A household's meter, whose prepaid key is PREPAID_KEY."""

    meter_id: str
    serial: str


@asynccontextmanager
async def own_database() -> AsyncIterator[str]:
    """An embedded PostgreSQL with fsync on, migrated, thrown away afterwards; its URL."""
    with public_folder() as folder:
        async with embedded(folder, port=free_port()) as url:
            await upgrade(url)
            yield url


async def enrol_many(sessions: Sessions, count: int) -> list[Enrolled]:
    """So many meters in service for two days, each in a household of its own."""
    utility_id, tariff_id = await make_utility(sessions, "UTC")
    sealed = KeyRing([METER_SECRET]).seal(PREPAID_KEY)
    meters = [Enrolled(new_id("mtr"), f"S{number:08}") for number in range(count)]
    people = [(new_id("cus"), new_id("hh")) for _ in range(count)]
    common = {
        "label": "Home",
        "utility_id": utility_id,
        "tariff_id": tariff_id,
        "wallet_kind": "MONEY",
        "currency": "KES",
        "time_zone": "UTC",
        "installed_at": datetime.now(UTC) - timedelta(days=2),
    }
    customers = [{"id": cus, "phone": f"+254{number:09}"} for number, (cus, _) in enumerate(people)]
    homes = [{"id": hh, "utility_id": utility_id, "name": "H"} for _, hh in people]
    owners = [{"household_id": hh, "customer_id": cus, "role": "OWNER"} for cus, hh in people]
    fitted = [
        {"id": meter.meter_id, "serial": meter.serial, "household_id": hh} | common
        for meter, (_, hh) in zip(meters, people, strict=True)
    ]
    known = [
        {"meter_id": meter.meter_id, "transport_identity": meter.serial, "sealed_prepaid_key": sealed}
        for meter in meters
    ]
    async with sessions.begin() as session:
        await session.execute(insert(Customer), customers)
        await session.execute(insert(Household), homes)
        await session.execute(insert(Membership), owners)
        await session.execute(insert(Meter), fitted)
        await session.execute(insert(MeterCredential), known)
    return meters


@asynccontextmanager
async def gateway(url: str, **more: str) -> AsyncIterator[int]:
    """A real `standpipe gateway`; its process id."""
    environment = {"DATABASE_URL": url, "METER_KEY_SECRETS": METER_SECRET, "LOG_LEVEL": "ERROR"} | more
    async with running(environment) as roles:
        await roles.start("gateway")
        yield roles._running["gateway"].pid  # noqa: SLF001 - whom we measure.


@asynccontextmanager
async def in_this_process(url: str, **settings: Any) -> AsyncIterator[Engine]:
    """A gateway whose statements can be counted; its engine. What it takes of the processor is not told apart here."""
    engine, listener = create_engine(url), Listener(url, COMMANDS)
    await listener.start()
    task = asyncio.create_task(run_carriers(make_settings(**settings), create_sessions(engine), listener))
    try:
        yield engine
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await listener.stop()
        await engine.dispose()


async def statements_each(engine: Engine, contacts: list[Callable[[], Awaitable[None]]]) -> float:
    """How many statements each of these takes, one after the other, those that begin and end transactions counted."""
    with counted(engine) as sent:
        for contact in contacts:
            await contact()
            seen = -1
            while seen != sent.count:
                # What follows from the last answer comes a moment after it.
                seen = sent.count
                await asyncio.sleep(QUIET_S)
    return sent.count / len(contacts)


async def stored_readings(sessions: Sessions) -> int:
    """Readings that were taken in: nobody judges them while a gateway is measured."""
    async with sessions() as session:
        return int(await session.scalar(select(func.coalesce(func.sum(func.cardinality(RawReport.read_at)), 0))))


@contextmanager
def bare(serve: Callable[[int, str], Awaitable[None]], port: int, url: str) -> Iterator[int]:
    """The plain baseline in a process of its own; its process id."""
    child = multiprocessing.get_context("spawn").Process(target=_serve, args=(serve, port, url), daemon=True)
    child.start()
    try:
        yield child.pid or 0
    finally:
        child.terminate()
        child.join()


def _serve(serve: Callable[[int, str], Awaitable[None]], port: int, url: str) -> None:
    asyncio.run(_until_ended(serve, port, url))


async def _until_ended(serve: Callable[[int, str], Awaitable[None]], port: int, url: str) -> None:
    await serve(port, url)


class PlainStore:
    """Readings by COPY into a table without a key: what came while the last COPY ran goes with the next one."""

    def __init__(self, db: asyncpg.Connection) -> None:
        self._db, self._rows, self._waiting = db, list[tuple[str, datetime, int]](), list[asyncio.Future[None]]()
        self._wake = asyncio.Event()

    async def store(self, rows: list[tuple[str, datetime, int]]) -> None:
        """Return once they are committed."""
        done = asyncio.get_running_loop().create_future()
        self._rows += rows
        self._waiting.append(done)
        self._wake.set()
        await done

    async def run(self) -> None:
        """COPY until cancelled."""
        await self._db.execute(
            "CREATE TABLE IF NOT EXISTS plain_readings (meter text, read_at timestamptz, register_ml bigint)"
        )
        while True:
            await self._wake.wait()
            self._wake.clear()
            rows, waiting = self._rows, self._waiting
            self._rows, self._waiting = [], []
            await self._db.copy_records_to_table("plain_readings", records=rows)
            for done in waiting:
                done.set_result(None)
