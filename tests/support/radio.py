"""A gateway in this process over real UDP and PostgreSQL, with one household and its meter's radio."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.server import run_gateway
from standpipe.meters import commands, credit
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CommandKind, MeterCommand, MeterState
from standpipe.platform.database import Sessions
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.platform.settings import Settings
from standpipe_demo.simulator.meter_device import SimulatedMeter
from standpipe_demo.simulator.meter_model import MeterConfig
from tests.support.database import free_port
from tests.support.town import BLOCKS, DTLS_KEY, METER_SECRET, PREPAID_KEY, Home, make_home, make_settings, make_utility

OBJECT_ID = 42769


QUIET_S, MOST_S = 0.1, 15.0
"""A radio sleeps so long after its last exchange, with no contact under way; and after so long in any case."""


class Radio(SimulatedMeter):
    """A meter that listens for as long as the gateway in this process has a contact with it, and no longer.

    A meter's own patience is a guess at its server's pace: too short on a busy machine, and waited out on a quick one.
    """

    def __init__(self, meter_id: str, config: MeterConfig, **more: Any) -> None:
        super().__init__(config, **more)
        self._task_name = f"contact {meter_id}"
        self.stays_awake = False
        """Listens until this is taken back, whatever the gateway does."""

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard()
        ends_at = loop.time() + MOST_S
        # A contact is a task of the gateway's, and gone once it is over.
        while loop.time() < min(ends_at, max(self._heard_at + QUIET_S, self._is_needed() * ends_at)):
            await asyncio.sleep(QUIET_S / 5)

    def _is_needed(self) -> bool:
        return self.stays_awake or any(task.get_name() == self._task_name for task in asyncio.all_tasks())


@dataclass
class Field:
    """A gateway, a meter in a household, and that meter's radio."""

    sessions: Sessions
    settings: Settings
    database_url: str
    home: Home
    meter: SimulatedMeter
    folder: Path
    task: Any = None

    async def start(self) -> None:
        listener = Listener(self.database_url, COMMANDS)
        await listener.start()
        ready = asyncio.Event()

        async def run() -> None:
            try:
                await run_gateway(self.settings, self.sessions, listener, ready)
            finally:
                await listener.stop()

        self.task = asyncio.create_task(run())
        await asyncio.wait_for(ready.wait(), 10)

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def at(self, now: datetime) -> None:
        """The town's clock stands at another instant, for the gateway and for the meter."""
        await self.stop()
        anchor = {"clock_anchor_real_s": time.time(), "clock_anchor_at": now}
        self.settings = self.settings.model_copy(update=anchor)
        self.meter._clock = self.settings.clock
        await self.start()

    async def grant(self, amount_minor: int, key: str = "k1") -> None:
        async with self.sessions.begin() as session:
            await credit.grant(
                session,
                meter_id=self.home.meter_id,
                credit_key=key,
                source_id=key,
                amount_minor=amount_minor,
                now=datetime.now(UTC),
            )

    async def order(self, kind: CommandKind, value: int, deadline_s: float | None = None) -> str:
        async with self.sessions.begin() as session:
            meter = await commands.lock_meter(session, self.home.meter_id)
            return await commands.enqueue(session, meter, kind=kind, value=value, deadline_s=deadline_s)

    async def statuses(self) -> list[tuple[str, str]]:
        async with self.sessions() as session:
            rows = await session.scalars(select(MeterCommand).order_by(MeterCommand.sequence))
            return [(row.kind, row.status) for row in rows]

    async def state(self) -> MeterState | None:
        async with self.sessions() as session:
            return await session.get(MeterState, self.home.meter_id)


def config_of(home: Home, **more: Any) -> MeterConfig:
    values: dict[str, Any] = {
        "serial": home.serial,
        "endpoint": home.serial,
        "prepaid_key_hex": PREPAID_KEY.hex(),
        "currency": "KES",
        "time_zone": "Africa/Nairobi",
        "blocks": tuple((block["up_to_ml"], block["price_minor_per_kl"]) for block in BLOCKS),
        "started_at": (datetime.now(UTC) - timedelta(hours=5)).replace(minute=0, second=0, microsecond=0).isoformat(),
    }
    return MeterConfig(**(values | more))


@asynccontextmanager
async def make_field(
    database_url: str,
    sessions: Sessions,
    folder: Path,
    *,
    dtls: bool = False,
    settings: dict[str, Any] | None = None,
    now: datetime | None = None,
    **more: Any,
) -> AsyncIterator[Field]:
    """``dtls``: the meter has a key and speaks DTLS; else plain UDP. The gateway serves both."""
    chosen: dict[str, Any] = {
        "coap_port": free_port(),
        "coap_dtls_port": free_port(),
        "coap_plain_udp": True,
        "coap_ack_timeout_s": 0.15,
        "coap_max_retransmit": 1,
    }
    made_settings = make_settings(**(chosen | (settings or {})))
    if now is not None:
        made_settings = made_settings.model_copy(update={"clock_anchor_real_s": time.time(), "clock_anchor_at": now})
        more = {"started_at": (now - timedelta(hours=1)).isoformat()} | more
    utility_id, tariff_id = await make_utility(sessions)
    home = await make_home(
        sessions,
        made_settings,
        utility_id,
        tariff_id,
        installed_at=made_settings.clock.now() - timedelta(days=2),
        zone="Africa/Nairobi",
    )
    if dtls:
        await give_key(sessions, home)
        more.setdefault("dtls_key_hex", DTLS_KEY.hex())
    meter = make_meter(made_settings, home, folder, **more)
    field = Field(sessions, made_settings, database_url, home, meter, folder)
    await field.start()
    try:
        yield field
    finally:
        await field.stop()


async def give_key(sessions: Sessions, home: Home, key: bytes = DTLS_KEY, *, bootstrap: bool = False) -> None:
    async with sessions.begin() as session:
        await dtls_keys.provision(session, KeyRing([METER_SECRET]), home.serial, key=key, bootstrap=bootstrap)


def make_meter(settings: Settings, home: Home, folder: Path, **more: Any) -> SimulatedMeter:
    return Radio(
        home.meter_id,
        config_of(home, **more),
        store_dir=folder / "meters",
        gateway=("127.0.0.1", settings.coap.dtls_port if more.get("dtls_key_hex") else settings.coap.port),
        object_id=OBJECT_ID,
        clock=settings.clock,
        ack_timeout_s=0.3,
    )


async def exchange(port: int, request: bytes) -> bytes:
    """Send one datagram, return the first that comes back."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.connect(("127.0.0.1", port))
        await loop.sock_sendall(udp, request)
        return await asyncio.wait_for(loop.sock_recv(udp, 65_536), 5)
