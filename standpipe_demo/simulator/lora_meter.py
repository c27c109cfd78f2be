"""A simulated meter on LoRaWAN: it wakes, tells its hours and its state, hears what its receive windows bring.

What is in it (register, credit, price, valve) is the model that the LwM2M meters have too; the frames are its own.
"""

import asyncio
import random
from datetime import timedelta
from pathlib import Path

import structlog

from standpipe.platform.clock import Clock
from standpipe_demo.simulator import lora_codec, meter_prices, meter_store
from standpipe_demo.simulator.fake_chirpstack import DR0_BYTES, Downlink, FakeChirpStack
from standpipe_demo.simulator.meter_keypad import type_token, typed_ml
from standpipe_demo.simulator.meter_model import (
    BAD_MAC,
    DIAGNOSTICS,
    DONE,
    DUPLICATE,
    STALE,
    MeterConfig,
    MeterState,
    advance,
    fresh_state,
    next_statement,
    take_opened,
    take_table,
)

BATTERY_PERCENT, SIGNAL_DBM, FIRMWARE = 88, -112, "sim 1.4.2"
MAX_ANSWERS = 8
MAX_HISTORY_FRAMES = 4
_log = structlog.get_logger(__name__)


class LoraMeter:
    """One meter. ``clock_error``: by how much its clock is fast; ``key_hex``: what it takes for its key."""

    def __init__(
        self,
        config: MeterConfig,
        *,
        store_dir: Path,
        network: FakeChirpStack,
        clock: Clock,
        clock_error: timedelta = timedelta(0),
        key_hex: str | None = None,
    ) -> None:
        self.config, self._store_dir, self._network, self._clock = config, store_dir, network, clock
        self.state: MeterState = meter_store.load(store_dir, config)
        self.alarms = 0
        self.keeps_silent = False
        """It hears, and its radio acknowledges, but it tells of no state."""
        self.heard: list[Downlink] = []
        self._key, self._started_at = bytes.fromhex(key_hex or config.prepaid_key_hex), clock.now()
        if clock_error:
            self.state.clock_error_s = clock_error.total_seconds()
        self._extra: list[tuple[str, bytes]] = []
        """Answers that go up before the next statement: (label, body)."""
        self._ack_due = self._answer_due = False
        self._answers: set[asyncio.Task[None]] = set()
        self._wakes = asyncio.Lock()
        network.add(config.dev_eui, config.device_class, self._deliver)

    async def wake(self) -> None:
        """One waking: the hours since the last, then its state, and again after each command that came."""
        async with self._wakes:
            self._advance()
            for _ in range(MAX_HISTORY_FRAMES):
                if not self.state.unsent:
                    break
                body, told = lora_codec.history_body(self.state.unsent, DR0_BYTES)
                del self.state.unsent[:told]
                meter_store.save(self._store_dir, self.config, self.state)
                await self._send(lora_codec.HISTORY_PORT, "history", body)
            self._answer_due = True
            await self._answer()

    async def run(self) -> None:
        """Join, and wake on schedule by the town's clock, for ever."""
        every = timedelta(seconds=self.config.wake_every_s)
        await asyncio.sleep(self._clock.real_s(every) * random.Random(self.config.serial).random())
        await self._network.join(self.config.dev_eui)
        while True:
            await self.wake()
            await asyncio.sleep(self._clock.real_s(every))

    async def reboot(self, *, remembers: bool = True) -> None:
        """Lose power and join anew. ``remembers`` False: its memory was wiped as well."""
        self.state = meter_store.load(self._store_dir, self.config) if remembers else fresh_state(self.config)
        self._ack_due = self._answer_due = False
        self.state.resets += 1
        self._extra, self._started_at = [], self._clock.now()
        await self._network.join(self.config.dev_eui)

    def status_frame(self) -> bytes:
        """Its statement of how things stand now, under the next report number."""
        self._advance()
        typed = typed_ml(self.config, self.state)
        body = lora_codec.status_body(next_statement(self.state), self.alarms, BATTERY_PERCENT, typed)
        meter_store.save(self._store_dir, self.config, self.state)
        return body + self._sign("status", body)

    def type_token(self, digits: str) -> str:
        """Type a token, and return what the display shows."""
        self._advance()
        shown = type_token(self.config, self.state, digits)
        meter_store.save(self._store_dir, self.config, self.state)
        return shown

    def hear(self, downlink: Downlink) -> None:
        """Take what came down; stored before it is answered."""
        self.heard.append(downlink)
        self._ack_due = downlink.confirmed
        if downlink.f_port != lora_codec.COMMAND_PORT:
            return
        self._advance()
        if downlink.data[:1] == bytes([0x10 + lora_codec.TABLE_PART]):
            self._take_part(downlink.data)
        else:
            opened = lora_codec.open_command(downlink.data, self._key, self.config.dev_eui, self.config.serial)
            take_opened(self.config, self.state, opened)
            # Asked again under the same number: the answer was lost, and telling it twice does no harm.
            if opened is not None and opened[0] == DIAGNOSTICS and self.state.result in (DONE, DUPLICATE):
                self._extra.append(("diagnostics", self._diagnostics(opened[1])))
        meter_store.save(self._store_dir, self.config, self.state)
        self._answer_due = True

    def _take_part(self, frame: bytes) -> None:
        part = lora_codec.open_part(frame, self._key, self.config.dev_eui, self.config.serial)
        if part is None:
            self.state.result = BAD_MAC
            return
        sequence, currency, number, chunk = part
        if sequence < self.state.last_sequence:
            self.state.result = STALE
            return
        whole = meter_prices.take_part(self.state, sequence, number, chunk)
        self.state.result = DONE
        if whole is not None:
            take_table(self.config, self.state, (sequence, currency, whole))
            self._advance()
        self.state.report_counter += 1
        ids = meter_prices.held_ids(self.state)
        self._extra.append(
            (
                "tables-held",
                lora_codec.tables_body(self.state.report_counter, *meter_prices.parts_held(self.state), ids),
            )
        )

    def _diagnostics(self, sequence: int) -> bytes:
        uptime_s = int((self._clock.now() - self._started_at).total_seconds())
        numbers = (uptime_s, self.state.resets, self.alarms)
        return lora_codec.diagnostics_body(sequence, BATTERY_PERCENT, SIGNAL_DBM, numbers, FIRMWARE)

    def _deliver(self, downlink: Downlink) -> None:
        """Class C: heard between two uplinks."""
        task = asyncio.ensure_future(self._hear_and_answer(downlink))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _hear_and_answer(self, downlink: Downlink) -> None:
        async with self._wakes:
            self.hear(downlink)
            await self._answer()

    async def _answer(self) -> None:
        for _ in range(MAX_ANSWERS):
            if not self._answer_due:
                return
            self._answer_due = False
            if self.keeps_silent:
                # The radio's own doing: an empty frame on the port of its diagnostics.
                await self._send_raw(lora_codec.HISTORY_PORT + 100, b"")
            else:
                extra, self._extra = self._extra, []
                for label, body in extra:
                    await self._send(lora_codec.ANSWER_PORT, label, body)
                await self._send_raw(lora_codec.STATUS_PORT, self.status_frame())

    async def _send(self, port: int, label: str, body: bytes) -> None:
        await self._send_raw(port, body + self._sign(label, body))

    async def _send_raw(self, port: int, frame: bytes) -> None:
        ack, self._ack_due = self._ack_due, False
        downlink = await self._network.uplink(self.config.dev_eui, port, frame, ack=ack)
        if downlink is not None:
            self.hear(downlink)

    def _sign(self, label: str, body: bytes) -> bytes:
        return lora_codec.sign(label, body, self._key, self.config.dev_eui, self.config.serial)

    def _advance(self) -> None:
        advance(self.config, self.state, self._clock.now())


async def run_lora_meters(
    configs: list[MeterConfig], *, store_dir: Path, network: FakeChirpStack, port: int, clock: Clock
) -> None:
    """Run the network server and these meters until cancelled."""
    meters = [LoraMeter(config, store_dir=store_dir, network=network, clock=clock) for config in configs]
    await network.start(port)
    try:
        await asyncio.gather(*(meter.run() for meter in meters))
    finally:
        await network.stop()
