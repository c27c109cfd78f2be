"""Every carrier, wallet and kind of command against every fault: one credit, and states that tell the truth.

Cells that make no sense are not there: a meter that holds volume knows no prices, so that it gets no tariff. On DLMS it
takes our own frames through its token gateway; one that holds money has DLMS's credit objects. A day asleep is a day on
the town's clock, for gateway and meter alike. On TCP no datagram comes twice: there, every answer does. LoRaWAN's
network server posts every event twice.

In each cell the same five things hold. The command is not CONFIRMED before the meter's own word on it has come, with a
later report number than when it was sent. While the fault lasts, its state is one that is true then. It ends CONFIRMED.
The meter has carried it out. And the meter holds exactly what was granted, whatever was said twice or got lost.
"""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from standpipe.billing import price_tables
from standpipe.meters import commands, credit
from standpipe.meters.models import CommandKind, MeterCommand, MeterState
from standpipe.platform.database import Sessions, create_engine, create_sessions
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.publishing import publish
from standpipe_demo.simulator.dlms_objects import STATEMENT
from tests.support.database import DatabaseServer, free_port
from tests.support.dlms import TOKEN, DlmsField, dlms_field, enrol, identity_of, make_dlms_meter
from tests.support.lora import add_device, dev_eui_of, make_lora_network
from tests.support.radio import Field, give_key, make_meter
from tests.support.town import DTLS_KEY, make_home, make_settings, make_utility, until
from tests.support.volume import PURCHASE_TARIFF

WORLDS = ("lwm2m-money", "lwm2m-volume", "dlms-money", "dlms-volume", "lorawan-money", "lorawan-volume")
KINDS = ("credit", "valve", "tariff", "read")
FAULTS = ("answer lost", "said twice", "gateway killed", "meter rebooted", "asleep for a day")
CELLS = [
    (world, kind, fault)
    for world, kind, fault in itertools.product(WORLDS, KINDS, FAULTS)
    if not (world.endswith("volume") and kind == "tariff")
]
STEP = 100
DOUBT = frozenset({"SENT", "ACKNOWLEDGED", "UNKNOWN"})
"""What a command may be called while the meter may have it and its word has not come."""


class World(ABC):
    """One gateway, one meter, and the faults of its carrier. ``granted``: all credit so far."""

    def __init__(self, field: Any, *, holds_volume: bool) -> None:
        self.field, self.holds_volume, self.granted, self.position = field, holds_volume, 0, 0
        self.sessions: Sessions = field.sessions
        self.meter_id: str = field.homes[0].meter_id if hasattr(field, "homes") else field.home.meter_id
        self.now = datetime.now(UTC)
        self._keys = itertools.count()

    # What a carrier does in its own way.
    meter_state: Any

    @abstractmethod
    async def come(self) -> None:
        """The meter comes within reach."""

    @abstractmethod
    async def lose_answer(self, kind: str) -> None:
        """The meter takes the command that waits, and what it answers is lost; it is out of reach afterwards."""

    @abstractmethod
    async def kill_gateway(self, kind: str) -> None:
        """The same, and the gateway dies before it knows; a new one begins."""

    @abstractmethod
    async def reboot(self) -> None:
        """The meter loses its power, and keeps its memory."""

    @abstractmethod
    def say_twice(self, *, on: bool) -> None:
        """Whether what is said on this carrier is said twice."""

    async def sleep_a_day(self) -> None:
        """The meter hears nothing, and a day goes by."""
        self.now += timedelta(days=1)
        await self.field.at(self.now)

    async def order(self, kind: str) -> str:
        async with self.sessions.begin() as session:
            meter = await commands.lock_meter(session, self.meter_id)
            if kind == "valve":
                self.position = 1 - self.position
                return await commands.enqueue(session, meter, kind=CommandKind.VALVE, value=self.position)
            if kind == "read":
                return await commands.enqueue(session, meter, kind=CommandKind.READ_NOW, value=0)
            if kind == "tariff":
                return await price_tables.push_table(session, meter, now=self.now)
            key, now = f"k{next(self._keys)}", datetime.now(UTC)
            self.granted += STEP
            more = {"credit_key": key, "source_id": key, "now": now}
            if self.holds_volume:
                await credit.grant_volume(session, meter, volume_ml=STEP, **more)
            else:
                await credit.grant(session, meter_id=meter.id, amount_minor=STEP, **more)
            newest = select(MeterCommand.id).order_by(MeterCommand.sequence.desc()).limit(1)
            return str(await session.scalar(newest))

    async def row(self, command_id: str) -> MeterCommand:
        async with self.sessions() as session:
            return await session.get_one(MeterCommand, command_id)

    async def status(self, command_id: str) -> str:
        return (await self.row(command_id)).status

    async def confirmed(self, command_id: str, *, comings: int = 12) -> None:
        for _ in range(comings):
            if await self.status(command_id) == "CONFIRMED":
                return
            await self.come()
        row = await self.row(command_id)
        assert row.status == "CONFIRMED", (row.kind, row.status, row.reason, row.attempts)

    async def has_status(self, command_id: str, wanted: frozenset[str]) -> None:
        async def so() -> bool:
            return await self.status(command_id) in wanted

        with suppress(TimeoutError):
            await until(so, timeout_s=10)
        assert await self.status(command_id) in wanted

    async def tell_truth(self, kind: str, command_id: str) -> None:
        """Where we say that it is done, it is, and the meter has said so since."""
        row = await self.row(command_id)
        if row.status != "CONFIRMED":
            return
        async with self.sessions() as session:
            state = await session.get_one(MeterState, self.meter_id)
        assert state.report_counter > (row.after_report or 0)
        assert self.done(kind, row)
        if kind == "credit":
            told = state.credit_accepted
            assert told == self.granted

    def done(self, kind: str, row: MeterCommand) -> bool:
        """Whether the meter has carried it out, as one sees who stands before it."""
        state = self.meter_state
        if kind == "credit":
            return bool(state.credit_accepted == self.granted)
        if kind == "valve":
            return bool(state.ordered_valve == self.position)
        if kind == "tariff":
            return bool(state.table_id == (row.body or {})["id"])
        return True


class CoapWorld(World):
    """LwM2M over DTLS, in queue mode."""

    @property
    def meter_state(self) -> Any:
        return self.field.meter.state

    async def come(self) -> None:
        await self.field.meter.wake()

    async def lose_answer(self, kind: str) -> None:
        self._lose(kind)
        await self.field.meter.wake()

    async def kill_gateway(self, kind: str) -> None:
        self._lose(kind)
        waking = asyncio.create_task(self.field.meter.wake())
        await until(self._is_sent)
        await self.field.stop()
        await waking
        await self.field.start()

    async def reboot(self) -> None:
        self.field.meter.reboot()

    def say_twice(self, *, on: bool) -> None:
        self.field.meter._radio.says_twice = on

    def _lose(self, kind: str) -> None:
        # At a later contact the battery is asked for by a read-now alone.
        self.field.meter.lose_answers_to({"tariff": "table", "read": "battery"}.get(kind, "command"), 1)

    async def _is_sent(self) -> bool:
        async with self.sessions() as session:
            newest = select(MeterCommand.status).order_by(MeterCommand.sequence.desc()).limit(1)
            return await session.scalar(newest) == "SENT"


class LoraWorld(World):
    """LoRaWAN, Class A."""

    @property
    def meter_state(self) -> Any:
        return self.field.meter.state

    async def come(self) -> None:
        await self.field.hurry()
        await self.field.meter.wake()

    async def lose_answer(self, kind: str) -> None:
        network, uplink = self.field.network, self.field.network.uplink
        heard = len(self.field.meter.heard)

        async def until_it_hears(*args: Any, **more: Any) -> Any:
            answer = await uplink(*args, **more)
            if answer is not None or len(self.field.meter.heard) > heard:
                network.faults.loss_up = 1.0
            return answer

        network.uplink = until_it_hears
        try:
            await self.field.meter.wake()
        finally:
            network.uplink, network.faults.loss_up = uplink, 0.0

    async def kill_gateway(self, kind: str) -> None:
        network = self.field.network
        before = [method for method, _ in network.asked].count("Enqueue")
        network.slow_answers, network.window_s = asyncio.Event(), 0.0
        await self.field.meter.wake()

        async def enqueued() -> bool:
            return [method for method, _ in network.asked].count("Enqueue") > before

        await until(enqueued)
        await self.field.stop()
        network.slow_answers.set()
        network.slow_answers, network.window_s = None, 0.3
        await self.field.start()

    async def reboot(self) -> None:
        await self.field.meter.reboot()

    def say_twice(self, *, on: bool) -> None:
        self.field.network.faults.duplicate = 1.0 if on else 0.0


_SPEAKS_OF_CREDIT = {(112, "0.0.19.10.0.255"), (1, STATEMENT)}
"""A credit object, or a token meter's statement."""


class DlmsWorld(World):
    """DLMS over TCP; the meter dials in again as long as it is not asleep."""

    @property
    def meter_state(self) -> Any:
        return self.field.meter.objects.state

    def done(self, kind: str, row: MeterCommand) -> bool:
        if kind != "tariff":
            return super().done(kind, row)
        objects = self.field.meter.objects
        objects.advance()
        return [bound for bound, _ in objects.priced.blocks] == [bound for bound, _ in (row.body or {})["blocks"]]

    async def come(self) -> None:
        """Awake and connected, until a contact has ended."""
        self._dial()
        before = await self._counter()

        async def later() -> bool:
            if self.field.server.proven and not self.field.server._tasks:
                with suppress(OSError):
                    await self.field.meter.push()
                    await asyncio.sleep(0.1)
            return await self._counter() > before

        await until(later)

    async def order(self, kind: str) -> str:
        # Out of reach first, so that each fault meets the command where it is meant to.
        self.field.meter.faults.asleep = True
        self.field.meter.hang_up()

        async def nobody_there() -> bool:
            return not self.field.server.proven and not self.field.server._tasks

        await until(nobody_there)
        return await super().order(kind)

    async def lose_answer(self, kind: str) -> None:
        await self._silent_after(kind, asleep=True)

    async def kill_gateway(self, kind: str) -> None:
        await self._silent_after(kind, asleep=False)
        await self.field.stop()
        await self.field.start()

    async def reboot(self) -> None:
        self.field.meter.reboot()

    def say_twice(self, *, on: bool) -> None:
        self.field.meter.faults.say_twice = on

    def _dial(self) -> None:
        self.field.meter.faults.asleep = False
        if all(task.done() for task in self.field.tasks[1:]):
            self.field.run_meter()

    async def _silent_after(self, kind: str, *, asleep: bool) -> None:
        """It carries the command out, answers no more, and (``asleep``) hangs up.

        What is lost of a read-now is the answer to the second reading of the credit: the first began the contact.
        """
        meter, silent, readings = self.field.meter, asyncio.Event(), itertools.count(1)
        read = meter.objects.read

        def counted(class_id: int, obis: str, *more: Any) -> Any:
            if (class_id, obis) in _SPEAKS_OF_CREDIT and next(readings) == 2 and kind == "read":
                silent.set()
            return read(class_id, obis, *more)

        def falls_silent(acted: bool) -> bool:
            if acted and kind != "read":
                silent.set()
            meter.faults.asleep = asleep and silent.is_set()
            return silent.is_set()

        meter.objects.read, meter.faults.falls_silent = counted, falls_silent
        self._dial()
        await asyncio.wait_for(silent.wait(), 20)
        meter.objects.read = read

    async def _counter(self) -> int:
        state = await self.field.state()
        return 0 if state is None else int(state.report_counter)


async def volume_home(sessions: Sessions) -> Any:
    utility_id, _ = await make_utility(sessions)
    async with sessions.begin() as session:
        found = await publish(
            session,
            utility_id=utility_id,
            utility_currency="KES",
            file=read_tariff(PURCHASE_TARIFF),
            today=datetime.now(UTC).date(),
        )
    return await make_home(
        sessions,
        make_settings(),
        utility_id,
        found.tariff_id,
        installed_at=datetime.now(UTC) - timedelta(days=2),
        zone="Africa/Nairobi",
        wallet_kind="VOLUME",
    )


async def money_home(sessions: Sessions) -> Any:
    utility_id, tariff_id = await make_utility(sessions)
    since = datetime.now(UTC) - timedelta(days=2)
    return await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=since, zone="Africa/Nairobi")


async def open_world(name: str, url: str, sessions: Sessions, folder: Path, stack: AsyncExitStack) -> World:
    carrier, wallet = name.split("-")
    holds_volume = wallet == "volume"
    if carrier == "dlms" and not holds_volume:
        return DlmsWorld(await stack.enter_async_context(dlms_field(url, sessions, folder)), holds_volume=False)
    home = await (volume_home if holds_volume else money_home)(sessions)
    more: dict[str, Any] = {"currency": "VOL", "blocks": ()} if holds_volume else {}
    more["daily_litres"] = 0
    if carrier == "dlms":
        identity, port = identity_of(home, TOKEN), free_port()
        await enrol(sessions, home, identity)
        dialling = make_dlms_meter(home, identity, folder, port, **more)
        line = DlmsField(sessions, make_settings(), url, home, dialling, folder, port)
        await line.start()
        stack.push_async_callback(line.stop)
        return DlmsWorld(line, holds_volume=True)
    if carrier == "lorawan":
        await add_device(sessions, home.meter_id, dev_eui_of(0))
        return LoraWorld(
            await stack.enter_async_context(make_lora_network(url, sessions, folder, [home], **more)),
            holds_volume=holds_volume,
        )
    await give_key(sessions, home)
    settings = make_settings(coap_port=free_port(), coap_ack_timeout_s=0.15, coap_max_retransmit=1)
    meter = make_meter(settings, home, folder, dtls_key_hex=DTLS_KEY.hex(), **more)
    field = Field(sessions, settings, url, home, meter, folder)
    await field.start()
    stack.push_async_callback(field.stop)
    return CoapWorld(field, holds_volume=holds_volume)


class Worlds:
    """One for all cells of a carrier and wallet: the credit of each comes on top of that of those before."""

    def __init__(self, postgres: DatabaseServer, folder: Path, stack: AsyncExitStack) -> None:
        self._postgres, self._folder, self._stack = postgres, folder, stack
        self._open: dict[str, World] = {}

    async def get(self, name: str) -> World:
        if name not in self._open:
            url = await self._stack.enter_async_context(self._postgres.clone())
            engine = create_engine(url)
            self._stack.push_async_callback(engine.dispose)
            made = await open_world(name, url, create_sessions(engine), self._folder / name, self._stack)
            await made.confirmed(await made.order("credit"))
            self._open[name] = made
        return self._open[name]


@pytest.fixture(scope="module")
async def worlds(postgres: DatabaseServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worlds]:
    async with AsyncExitStack() as stack:
        yield Worlds(postgres, tmp_path_factory.mktemp("worlds"), stack)


@pytest.mark.parametrize(("name", "kind", "fault"), CELLS)
async def test_each_command_survives_each_fault_and_its_state_tells_the_truth(
    worlds: Worlds, name: str, kind: str, fault: str
) -> None:
    world = await worlds.get(name)
    command_id = await world.order(kind)
    assert await world.status(command_id) == "QUEUED"
    if fault == "said twice":
        world.say_twice(on=True)
        await world.come()
    elif fault == "asleep for a day":
        await world.sleep_a_day()
        row = await world.row(command_id)
        assert (row.status, row.attempts) == ("QUEUED", 0)
    else:
        await (world.kill_gateway if fault == "gateway killed" else world.lose_answer)(kind)
        await world.has_status(command_id, DOUBT)
        if fault == "meter rebooted":
            await world.reboot()
            await world.has_status(command_id, DOUBT)
    await world.tell_truth(kind, command_id)
    await world.confirmed(command_id)
    world.say_twice(on=False)
    await world.tell_truth(kind, command_id)
    assert world.done(kind, await world.row(command_id))
    assert world.meter_state.credit_accepted == world.granted
