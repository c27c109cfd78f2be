"""A DLMS gateway in this process over real TCP and PostgreSQL, with one household and its meter."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from standpipe.meter_gateway.dlms import meters as dlms
from standpipe.meter_gateway.dlms.meters import DlmsKeys
from standpipe.meter_gateway.dlms.profiles.profile import load_profiles
from standpipe.meter_gateway.dlms.server import DlmsServer, Patience
from standpipe.meter_gateway.dlms.tables import DlmsMeter
from standpipe.meters import commands, credit
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CommandKind, MeterCommand, MeterState
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.platform.settings import Settings
from standpipe_demo.simulator.dlms_meter import SimulatedDlmsMeter
from standpipe_demo.simulator.meter_model import MeterConfig
from tests.support.database import free_port
from tests.support.radio import config_of
from tests.support.town import METER_SECRET, Home, make_home, make_settings, make_utility, until

OUR_TITLE = bytes.fromhex("5350570000000001")
HLS, TOKEN = "dlms-prepaid-v1", "dlms-token-v1"
PATIENCE = Patience(first_push_s=0.2, prove_s=2.0, frame_s=0.5, answer_s=0.5, idle_s=60.0, sweep_s=0.1)


def identity_of(home: Home, profile: str = HLS) -> dict[str, str]:
    """What the factory of this meter would have given it."""
    number = secrets.token_hex(4)
    common = {"profile": profile, "name": f"SPW{home.serial}", "system_title": "53505701" + number}
    if profile == TOKEN:
        return common | {"mechanism": "LLS", "password": secrets.token_hex(8)}
    keys = {"encryption_key": secrets.token_hex(16), "authentication_key": secrets.token_hex(16)}
    return common | {"mechanism": "HLS_GMAC"} | keys


async def enrol(sessions: Sessions, home: Home, identity: dict[str, str]) -> None:
    keys = DlmsKeys(
        *(bytes.fromhex(identity.get(name, "")) for name in ("encryption_key", "authentication_key", "password"))
    )
    async with sessions.begin() as session:
        await dlms.enrol(
            session,
            KeyRing([METER_SECRET]),
            meter_id=home.meter_id,
            profile=identity["profile"],
            system_title=bytes.fromhex(identity["system_title"]),
            device_name=identity["name"],
            keys=keys,
            takes_frames=identity["profile"] == TOKEN,
        )


@dataclass
class DlmsField:
    """A gateway, a household's meter, and the meter's line."""

    sessions: Sessions
    settings: Settings
    database_url: str
    home: Home
    meter: SimulatedDlmsMeter
    folder: Path
    port: int
    server: DlmsServer | None = None
    tasks: list[Any] = field(default_factory=list)
    patience: Patience = PATIENCE

    async def start(self) -> None:
        """Start a gateway, or another one on the same port."""
        self.server = DlmsServer(
            sessions=self.sessions,
            keys=KeyRing([METER_SECRET]),
            clock=self.settings.clock,
            profiles=load_profiles(),
            title=OUR_TITLE,
            allow_lls=True,
            patience=self.patience,
        )
        await self.server.start("127.0.0.1", self.port)
        self.listener = Listener(self.database_url, COMMANDS)
        await self.listener.start()
        self.tasks = [asyncio.create_task(self._hear(self.listener, self.server))]

    async def at(self, now: datetime) -> None:
        """The town's clock stands at another instant, for the gateway and for the meter; the meter's line is down."""
        await self.stop()
        anchor = {"clock_anchor_real_s": time.time(), "clock_anchor_at": now}
        self.settings = self.settings.model_copy(update=anchor)
        self.meter._clock = self.settings.clock
        await self.start()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self.server is not None:
            await self.server.stop()
            # Not by the task that hears: one that is cancelled before its first step ends nothing.
            await self.listener.stop()
        self.server = None

    async def _hear(self, listener: Listener, server: DlmsServer) -> None:
        async for meter_ids in listener.payloads(COMMANDS):
            for meter_id in meter_ids:
                server.begin(meter_id)

    def run_meter(self, meter: SimulatedDlmsMeter | None = None) -> Any:
        """Keep a meter dialling in until the test ends."""
        task = asyncio.create_task((meter or self.meter).run())
        self.tasks.append(task)
        return task

    def another_meter(self, home: Home, identity: dict[str, str], **more: Any) -> SimulatedDlmsMeter:
        return make_dlms_meter(home, identity, self.folder, self.port, **more)

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

    async def order(self, kind: CommandKind, value: int) -> str:
        async with self.sessions.begin() as session:
            meter = await commands.lock_meter(session, self.home.meter_id)
            return await commands.enqueue(session, meter, kind=kind, value=value)

    async def statuses(self) -> list[tuple[str, str]]:
        async with self.sessions() as session:
            rows = await session.scalars(select(MeterCommand).order_by(MeterCommand.sequence))
            return [(row.kind, row.status) for row in rows]

    async def last_command(self) -> MeterCommand:
        async with self.sessions() as session:
            found = await session.scalars(select(MeterCommand).order_by(MeterCommand.sequence.desc()).limit(1))
            return found.one()

    async def state(self) -> MeterState | None:
        async with self.sessions() as session:
            return await session.get(MeterState, self.home.meter_id)

    async def row(self) -> DlmsMeter:
        async with self.sessions() as session:
            return (await session.scalars(select(DlmsMeter).where(DlmsMeter.meter_id == self.home.meter_id))).one()

    async def until_statuses(self, *expected: tuple[str, str]) -> None:
        async def as_expected() -> bool:
            return await self.statuses() == list(expected)

        try:
            await until(as_expected)
        except TimeoutError:
            assert await self.statuses() == list(expected)

    async def until_stated(self) -> MeterState:
        async def stated() -> Any:
            state = await self.state()
            return state if state is not None and state.stated_at is not None else None

        found: MeterState = await until(stated)
        return found

    async def until_proven(self, count: int = 1) -> None:
        async def proven() -> bool:
            return self.server is not None and self.server.proven == count

        await until(proven)


def dlms_config(home: Home, identity: dict[str, str], **more: Any) -> MeterConfig:
    return config_of(home, dlms=identity, daily_litres=more.pop("daily_litres", 0), **more)


def make_dlms_meter(
    home: Home, identity: dict[str, str], folder: Path, port: int, *, push_first: bool = True, **more: Any
) -> SimulatedDlmsMeter:
    return SimulatedDlmsMeter(
        dlms_config(home, identity, **more),
        store_dir=folder / "meters",
        gateway=("127.0.0.1", port),
        clock=Clock(),
        push_first=push_first,
        redial_s=0.05,
    )


async def make_dlms_home(sessions: Sessions, settings: Settings, profile: str = HLS) -> tuple[Home, dict[str, str]]:
    utility_id, tariff_id = await make_utility(sessions)
    installed_at = datetime.now(UTC) - timedelta(days=2)
    home = await make_home(sessions, settings, utility_id, tariff_id, installed_at=installed_at, zone="Africa/Nairobi")
    identity = identity_of(home, profile)
    await enrol(sessions, home, identity)
    return home, identity


@asynccontextmanager
async def dlms_field(
    database_url: str, sessions: Sessions, folder: Path, profile: str = HLS, **more: Any
) -> AsyncIterator[DlmsField]:
    settings, port = make_settings(), free_port()
    home, identity = await make_dlms_home(sessions, settings, profile)
    meter = make_dlms_meter(home, identity, folder, port, **more)
    made = DlmsField(sessions, settings, database_url, home, meter, folder, port)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
