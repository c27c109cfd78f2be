"""A simulated DLMS meter: it dials in over TCP, pushes, and serves its client until the connection ends.

Its memory is two files, written before each answer. Its faults are switches: it sleeps, loses answers, says things
twice or out of turn, loses power with or without its memory, has a wrong clock or wrong keys, or is hostile.
"""

import asyncio
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from standpipe.platform.clock import Clock
from standpipe_demo.simulator import meter_store
from standpipe_demo.simulator.dlms_association import Association, Identity
from standpipe_demo.simulator.dlms_frames import FrameError, encode, wrap
from standpipe_demo.simulator.dlms_objects import Extra, Objects
from standpipe_demo.simulator.meter_keypad import type_token
from standpipe_demo.simulator.meter_model import MeterConfig, MeterState, fresh_state

REDIAL_S = 1.0
PUSH_CLIENT = 1
SERVER = 1
_ACTIONS = (0xC3, 0xCB)
_log = structlog.get_logger(__name__)


@dataclass
class Faults:
    """Faults of the meter at the moment. Counts run down with each use."""

    lose_requests: int = 0
    """Requests that do not reach it."""
    lose_actions: int = 0
    """Number of method calls alone whose answers get lost, once it has associated."""
    lose_answers: int = 0
    """Answers that do not reach the gateway; what was asked is carried out."""
    lose_answers_to_actions: int = 0
    say_twice: bool = False
    push_before_answer: bool = False
    """A push comes between each request and its answer."""
    asleep: bool = False
    deaf_after_action: bool = False
    """It answers the next method call or write, and hears nothing more on that connection."""
    falls_silent: Callable[[bool], bool] | None = None
    """Asked at each request that it has carried out (True: a call or a write): does it answer no more from here on?"""


class SimulatedDlmsMeter:
    """One meter. ``push_first``: whether it pushes on dialling in, or waits to be asked its name."""

    def __init__(
        self,
        config: MeterConfig,
        *,
        store_dir: Path,
        gateway: tuple[str, int],
        clock: Clock,
        push_first: bool = True,
        redial_s: float = REDIAL_S,
    ) -> None:
        self.config, self._store_dir, self._gateway, self._clock = config, store_dir, gateway, clock
        self.identity = Identity(**(config.dlms or {}))
        self.faults = Faults()
        self.push_first, self._redial_s = push_first, redial_s
        self.requests = 0
        """Number of requests heard."""
        self.traffic: list[tuple[str, bytes]] = []
        """Frames that went over the wire last, for whoever wants to replay them: ("in" or "out", a whole frame)."""
        self._deaf = False
        self._chance = random.Random(config.serial)
        self._writer: asyncio.StreamWriter | None = None
        self._association: Association | None = None
        self._load()

    async def run(self) -> None:
        """Stay connected for ever, dialling again when the connection ends, and push on schedule.

        An offline meter uses water and stays silent.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_connected())
            group.create_task(self._push_on_schedule())

    async def _push_on_schedule(self) -> None:
        every = timedelta(seconds=self.config.wake_every_s)
        while True:
            await asyncio.sleep(self._clock.real_s(every))
            with suppress(OSError):
                if self.connected:
                    await self.push()

    async def _stay_connected(self) -> None:
        while True:
            if self.config.online and not self.faults.asleep:
                with suppress(OSError, asyncio.IncompleteReadError):
                    await self.dial()
            self.objects.advance()
            self.save()
            await asyncio.sleep(self._redial_s * (0.5 + self._chance.random()))

    async def dial(self) -> None:
        """One connection, until either side ends it. Raises OSError where the gateway is not reached."""
        reader, self._writer = await asyncio.open_connection(*self._gateway)
        self._deaf = False
        association = self._association = Association(self.identity, self.objects, self.save)
        try:
            if self.push_first:
                await self.push()
            while not self.faults.asleep:
                client, apdu = await self._read_frame(reader)
                await self._serve(association, client, apdu)
        except FrameError as error:
            _log.info("meter hangs up", serial=self.config.serial, reason=str(error))
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def connected(self) -> bool:
        """Tell whether a gateway has associated on the present connection."""
        return self._writer is not None and self._association is not None and self._association.is_private

    async def push(self) -> None:
        """Tell, unasked, how the register and the alarms stand."""
        if self._association is None:
            raise OSError("not connected")
        self.objects.advance()
        body = encode(self.objects.push_body())
        apdu = b"\x0f" + (self.objects.extra.sent_counter & 0xFFFFFF).to_bytes(4, "big") + b"\0" + body
        await self._write(PUSH_CLIENT, self._association.seal_push(apdu))

    async def send_raw(self, octets: bytes) -> None:
        """Anything at all on the present connection."""
        if self._writer is None:
            raise OSError("not connected")
        self._writer.write(octets)
        await self._writer.drain()

    @property
    def state(self) -> MeterState:
        """State that the meter keeps."""
        return self.objects.state

    def type_token(self, digits: str) -> str:
        """Type a token, and return what the display shows."""
        self.objects.advance()
        shown = type_token(self.config, self.objects.state, digits)
        self.save()
        return shown

    def reboot(self, *, with_memory: bool = True) -> None:
        """Lose power, and the connection. Without memory, everything is as the factory left it."""
        self.hang_up()
        if with_memory:
            before = self.objects
            self._load()
            self.objects.lacks, self.objects.read_only = before.lacks, before.read_only
            self.objects.extra.resets += 1
            return
        self.objects.state, self.objects.extra = fresh_state(self.config), Extra()
        self.save()

    def save(self) -> None:
        """Store all durably."""
        meter_store.save(self._store_dir, self.config, self.objects.state)
        path = self._extra_path
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(self.objects.extra.to_dict()))
        draft.replace(path)

    @property
    def _extra_path(self) -> Path:
        return self._store_dir / f"{self.config.serial}.dlms.json"

    def _load(self) -> None:
        path = self._extra_path
        extra = Extra(**json.loads(path.read_text())) if path.exists() else Extra()
        state = meter_store.load(self._store_dir, self.config)
        self.objects = Objects(self.config, state, extra, self._now, self.identity.name)

    def _now(self) -> datetime:
        return self._clock.now()

    async def _serve(self, association: Association, client: int, apdu: bytes) -> None:
        self.requests += 1
        if self._deaf:
            return
        if self.faults.lose_requests:
            self.faults.lose_requests -= 1
            return
        if self.faults.lose_actions and association.is_private and apdu[0] in _ACTIONS:
            self.faults.lose_actions -= 1
            return
        self.objects.advance()
        if self.faults.push_before_answer:
            await self.push()
        calls = len(self.objects.calls)
        answer = association.answer(client, apdu)
        self.save()
        if self.faults.falls_silent is not None and self.faults.falls_silent(len(self.objects.calls) > calls):
            self.faults.falls_silent, self._deaf = None, True
            return
        if self.faults.lose_answers:
            self.faults.lose_answers -= 1
            return
        if self.faults.lose_answers_to_actions and len(self.objects.calls) > calls:
            self.faults.lose_answers_to_actions -= 1
            return
        if self.faults.deaf_after_action and len(self.objects.calls) > calls:
            self.faults.deaf_after_action, self._deaf = False, True
        for _ in range(2 if self.faults.say_twice else 1):
            await self._write(client, answer)

    async def _read_frame(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        header = await reader.readexactly(8)
        version, client, _, size = struct.unpack(">HHHH", header)
        if version != 1 or not size:
            raise FrameError("no wrapper")
        apdu = await reader.readexactly(size)
        self._note("in", header + apdu)
        return client, apdu

    async def _write(self, client: int, apdu: bytes) -> None:
        frame = wrap(client, SERVER, apdu)
        self._note("out", frame)
        await self.send_raw(frame)

    def _note(self, way: str, frame: bytes) -> None:
        self.traffic.append((way, frame))
        del self.traffic[:-200]


async def run_dlms_meters(
    configs: list[MeterConfig], *, store_dir: Path, gateway: tuple[str, int], clock: Clock
) -> None:
    """Run these meters until cancelled."""
    meters = [SimulatedDlmsMeter(config, store_dir=store_dir, gateway=gateway, clock=clock) for config in configs]
    await asyncio.gather(*(meter.run() for meter in meters))
