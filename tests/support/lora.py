"""A gateway in this process with LoRaWAN turned on, ChirpStack's stand-in on its port, and meters with radios."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select, update

from standpipe.meter_gateway.carriers import run_carriers
from standpipe.meter_gateway.lorawan.tables import LoraDevice, LoraDownlink
from standpipe.meters import commands, credit
from standpipe.meters.models import CommandKind, MeterCommand, MeterState
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.platform.settings import Settings
from standpipe_demo.simulator.fake_chirpstack import APPLICATION_ID, FakeChirpStack
from standpipe_demo.simulator.lora_meter import LoraMeter
from tests.support.database import free_port
from tests.support.radio import config_of
from tests.support.town import Home, make_home, make_settings, make_utility, until

EVENT_SECRET = "what the network server of a test shows us"
OLD_EVENT_SECRET = "what it showed us before the last rotation"
API_TOKEN = "a test's key to the network server"


@dataclass
class LoraField:
    """A gateway, a network server, and the radios of some households' meters."""

    sessions: Sessions
    settings: Settings
    database_url: str
    network: FakeChirpStack
    homes: list[Home]
    meters: list[LoraMeter]
    http: httpx.AsyncClient
    task: Any = None

    @property
    def meter(self) -> LoraMeter:
        return self.meters[0]

    @property
    def events_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.lorawan.http_port}/lorawan/events"

    async def start(self) -> None:
        listener = Listener(self.database_url, COMMANDS)
        await listener.start()

        async def run() -> None:
            try:
                await run_carriers(self.settings, self.sessions, listener)
            finally:
                await listener.stop()

        self.task = asyncio.create_task(run())
        await until(self._answers)

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def at(self, now: datetime) -> None:
        """The town's clock stands at another instant, for the gateway and for the meters."""
        await self.stop()
        anchor = {"clock_anchor_real_s": time.time(), "clock_anchor_at": now}
        self.settings = self.settings.model_copy(update=anchor)
        for meter in self.meters:
            meter._clock = self.settings.clock
        await self.start()

    async def grant(self, amount_minor: int, key: str = "k1", home: int = 0) -> None:
        async with self.sessions.begin() as session:
            await credit.grant(
                session,
                meter_id=self.homes[home].meter_id,
                credit_key=key,
                source_id=key,
                amount_minor=amount_minor,
                now=datetime.now(UTC),
            )

    async def order(self, kind: CommandKind, value: int, deadline_s: float | None = None) -> str:
        async with self.sessions.begin() as session:
            meter = await commands.lock_meter(session, self.homes[0].meter_id)
            return await commands.enqueue(session, meter, kind=kind, value=value, deadline_s=deadline_s)

    async def statuses(self, home: int = 0) -> list[tuple[str, str]]:
        async with self.sessions() as session:
            rows = await session.scalars(
                select(MeterCommand)
                .where(MeterCommand.meter_id == self.homes[home].meter_id)
                .order_by(MeterCommand.sequence)
            )
            return [(row.kind, row.status) for row in rows]

    async def downlinks(self) -> list[str]:
        async with self.sessions() as session:
            return list(await session.scalars(select(LoraDownlink.state).order_by(LoraDownlink.id)))

    async def state(self, home: int = 0) -> MeterState | None:
        async with self.sessions() as session:
            return await session.get(MeterState, self.homes[home].meter_id)

    async def confirmed(self, home: int = 0, *, wakes: int = 6) -> None:
        """Wake the meter until its last command is confirmed."""
        for _ in range(wakes):
            await self.meters[home].wake()
            if (await self.statuses(home))[-1][1] == "CONFIRMED":
                return
        raise AssertionError(await self.statuses(home), await self.downlinks())

    async def at_network(self, *, items: int = 1, home: int = 0) -> None:
        """Wait until the network holds so many items for the meter, and we know what it calls them."""

        async def known() -> bool:
            async with self.sessions() as session:
                sending = await session.scalar(select(func.count()).where(LoraDownlink.due_at.is_not(None)))
            return len(self.network.devices[self.meters[home].config.dev_eui].queue) == items and not sending

        await until(known)

    async def hurry(self) -> None:
        """What waits for the network server is due now."""
        async with self.sessions.begin() as session:
            await session.execute(
                update(LoraDownlink).where(LoraDownlink.due_at.is_not(None)).values(due_at=func.now())
            )

    async def post(self, event: str, body: bytes, **headers: str) -> int:
        """An event's bytes, as anybody may post them; the answer's status."""
        given = {"authorization": f"Bearer {EVENT_SECRET}", "content-type": "application/json"} | headers
        answer = await self.http.post(self.events_url, params={"event": event}, content=body, headers=given)
        return answer.status_code

    async def _answers(self) -> bool:
        if self.task.done():
            self.task.result()
        try:
            await self.http.post(self.events_url)
        except httpx.HTTPError:
            return False
        return True


def dev_eui_of(number: int) -> str:
    return f"{0x70B3D57ED0060000 + number:016x}"


@asynccontextmanager
async def make_lora_field(
    database_url: str,
    sessions: Sessions,
    folder: Path,
    *,
    homes: int = 1,
    device_class: str = "A",
    as_json: bool = True,
    **more: Any,
) -> AsyncIterator[LoraField]:
    """A field of its own households."""
    utility_id, tariff_id = await make_utility(sessions)
    owned = []
    for number in range(homes):
        home = await make_home(
            sessions,
            make_settings(),
            utility_id,
            tariff_id,
            installed_at=datetime.now(UTC) - timedelta(days=2),
            zone="Africa/Nairobi",
        )
        owned.append(home)
        await add_device(sessions, home.meter_id, dev_eui_of(number), device_class)
    async with make_lora_network(
        database_url, sessions, folder, owned, as_json=as_json, device_class=device_class, **more
    ) as made:
        yield made


@asynccontextmanager
async def make_lora_network(
    database_url: str, sessions: Sessions, folder: Path, homes: list[Home], *, as_json: bool = True, **more: Any
) -> AsyncIterator[LoraField]:
    """Gateway, network server and radios for households whose devices are known."""
    http_port, api_port = free_port(), free_port()
    settings = make_settings(
        lorawan_api_url=f"http://127.0.0.1:{api_port}",
        lorawan_api_token=API_TOKEN,
        lorawan_event_secrets=f"{EVENT_SECRET},{OLD_EVENT_SECRET}",
        lorawan_http_port=http_port,
    )
    network = FakeChirpStack(
        events_url=f"http://127.0.0.1:{http_port}/lorawan/events",
        event_secret=EVENT_SECRET,
        token=API_TOKEN,
        as_json=as_json,
    )
    await network.start(api_port)
    meters = [
        LoraMeter(
            config_of(home, dev_eui=dev_eui_of(number), **more),
            store_dir=folder / "meters",
            network=network,
            clock=Clock(),
        )
        for number, home in enumerate(homes)
    ]
    async with httpx.AsyncClient(timeout=20) as http:
        made = LoraField(sessions, settings, database_url, network, homes, meters, http)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()
            await network.stop()


async def add_device(sessions: Sessions, meter_id: str, dev_eui: str, device_class: str = "A") -> None:
    async with sessions.begin() as session:
        session.add(
            LoraDevice(
                meter_id=meter_id,
                dev_eui=dev_eui,
                device_class=device_class,
                region="EU868",
                application_id=APPLICATION_ID,
            )
        )
