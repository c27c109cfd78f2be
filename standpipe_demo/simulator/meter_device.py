"""A simulated meter on the air: an LwM2M 1.1 client in queue mode, over real UDP.

It wakes on its schedule, registers or updates, pushes the hours that it kept, listens for a while, and sleeps. Asleep
it is deaf: datagrams that arrive are lost, as they would be on NB-IoT in PSM.
"""

import asyncio
import contextlib
import json
import random
import struct
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import structlog
from aiocoap.error import Error as CoapError
from aiocoap.numbers.constants import TransportTuning
from aiocoap.resource import Resource, Site

from standpipe.platform.clock import Clock
from standpipe_demo.simulator import meter_store
from standpipe_demo.simulator.keypad_page import KeypadMeter
from standpipe_demo.simulator.meter_bootstrap import bootstrap
from standpipe_demo.simulator.meter_dtls import DtlsRadio
from standpipe_demo.simulator.meter_frames import open_key
from standpipe_demo.simulator.meter_keypad import type_token
from standpipe_demo.simulator.meter_model import (
    MeterConfig,
    MeterState,
    advance,
    fill_again,
    run_dry,
    status_frame,
    take_command,
)
from standpipe_demo.simulator.meter_orders import OCTET_STREAM, SENML_CBOR, TLV, add_orders, content, text
from standpipe_demo.simulator.meter_radio import Radio

LIFETIME_S = 86_400
EMPTY_PIPE = "/10274/0/6013"
MAX_PUSHED = 400
_log = structlog.get_logger(__name__)


class _Path(Resource):  # type: ignore[misc]  # aiocoap is not typed.
    """One resource of the meter; a lost answer is one that was carried out and never arrives."""

    def __init__(self, meter: "SimulatedMeter", answer: Callable[[Any], aiocoap.Message]) -> None:
        super().__init__()
        self._meter, self._answer = meter, answer

    async def render(self, request: Any) -> aiocoap.Message:
        self._meter.heard()
        response = self._answer(request)
        self._meter.save()
        if self._meter.loses_answer(self._answer.__name__.strip("_")):
            # No-Response 26 (RFC 7967) suppresses every class of answer: the sender hears nothing.
            response.opt.no_response = 26
        return response


def read_manifest(path: Path) -> list[MeterConfig]:
    """The meters of a manifest: a JSON list of MeterConfig's fields."""
    return [MeterConfig.from_dict(raw) for raw in json.loads(path.read_text())]


class SimulatedMeter:
    """One meter. ``awake_s`` is how long, in real seconds, it listens after its last exchange."""

    def __init__(
        self,
        config: MeterConfig,
        *,
        store_dir: Path,
        gateway: tuple[str, int],
        object_id: int,
        clock: Clock,
        awake_s: float = 3.0,
        ack_timeout_s: float = 1.0,
        bootstrap_server: tuple[str, int] | None = None,
    ) -> None:
        self.config, self._store_dir, self._clock = config, store_dir, clock
        self._gateway = f"coap://{gateway[0]}:{gateway[1]}"
        self._gateway_at, self._bootstrap_server = gateway, bootstrap_server
        self._object_id, self._awake_s = object_id, awake_s
        self._chance = random.Random(config.serial)
        self._lose_of: dict[str, int] = {}
        self._silent_from_command = self._is_silent = False
        self._mute_after_command = False
        self._heard_at = 0.0
        self._tuning = TransportTuning()
        self._tuning.ACK_TIMEOUT = ack_timeout_s
        self._impatient = TransportTuning()
        self._impatient.ACK_TIMEOUT, self._impatient.MAX_RETRANSMIT = ack_timeout_s, 1
        self.state: MeterState = meter_store.load(store_dir, config)
        self._context: Any = None
        self.started_at = clock.now()
        self.cannot: set[str] = set()
        """Resources that this model lacks, by their names in ``meter_orders``."""
        self._radio = self._make_radio()
        self._wakes = asyncio.Lock()

    async def wake(self) -> bool:
        """One waking: tell of the hours since the last, then listen until nobody has spoken for ``awake_s``.

        Returns whether the gateway was reached.
        """
        async with self._wakes:
            self.advance()
            if not await self._is_provisioned():
                return False
            self._context = await self._radio.switch_on(self._site())
            try:
                reached = await self._radio.reach() and await self._announce() and await self._push()
                await self._listen()
            finally:
                self._context, self._is_silent = None, False
                await self._radio.switch_off()
            return reached

    async def run(self) -> None:
        """Wake on schedule, by the town's clock, for ever. An offline meter uses water and stays silent."""
        every = timedelta(seconds=self.config.wake_every_s)
        # Spread over the interval, or all meters of the town would wake in the same second.
        await asyncio.sleep(self._clock.real_s(every) * self._chance.random())
        while True:
            if self.config.online:
                await self.wake()
            else:
                self.advance()
                self.save()
            await asyncio.sleep(self._clock.real_s(every))

    def lose_answers_to(self, resource: str, count: int) -> None:
        """Carry out the next ``count`` requests to "volume", "command" or "status", but lose their answers."""
        self._lose_of[resource] = count

    def lose_statements_after_command(self) -> None:
        """Answer until a command has come; from then on the statement asked for next gets lost."""
        self._mute_after_command = True

    def fall_silent_at_command(self) -> None:
        """Carry out the next command, but from its answer on, no answer arrives in that waking, whatever is asked."""
        self._silent_from_command = True

    def move_to_another_port(self) -> None:
        """The NAT has given the meter another port."""
        self._radio.forget_port()

    def run_dry(self, air_ml: int, *, ago: timedelta = timedelta(0)) -> None:
        """The pipe ran empty some time ago, and air spun the register by a volume."""
        self.advance()
        run_dry(self.config, self.state, self._clock.now() - ago, air_ml)

    def fill_again(self) -> None:
        """The water is back."""
        self.advance()
        fill_again(self.state, self._clock.now())

    def type_token(self, digits: str) -> str:
        """Type a token, and return what the display shows."""
        self.advance()
        shown = type_token(self.config, self.state, digits)
        self.save()
        return shown

    def reboot(self) -> None:
        """Lose power: what was not stored is gone."""
        self.state = meter_store.load(self._store_dir, self.config)
        self.state.location = ""
        self.state.resets += 1
        self.started_at = self._clock.now()
        self._radio.forget_session()

    @property
    def uptime_s(self) -> int:
        """Since it last started."""
        return int((self._clock.now() - self.started_at).total_seconds())

    def save(self) -> None:
        """Store the state durably."""
        meter_store.save(self._store_dir, self.config, self.state)

    def heard(self) -> None:
        """An exchange took place: stay awake a while longer."""
        self._heard_at = asyncio.get_running_loop().time()

    def loses_answer(self, resource: str) -> bool:
        """Tell whether the answer now due from this resource gets lost."""
        if resource == "command" and self._mute_after_command:
            self._mute_after_command, self._lose_of["status"] = False, 1
        if resource == "command" and self._silent_from_command:
            self._silent_from_command, self._is_silent = False, True
        if self._is_silent:
            return True
        if self._lose_of.get(resource, 0) > 0:
            self._lose_of[resource] -= 1
            return True
        return self._chance.random() < self.config.lose_answer_rate

    def _make_radio(self) -> Radio:
        if not self.config.dtls_key_hex and not self.config.bootstrap_key_hex:
            return Radio(self._chance, self.config.lose_datagram_rate)
        return DtlsRadio(self._chance, self.config.lose_datagram_rate, self._where, self._credential)

    def _where(self) -> tuple[str, int]:
        if not self.state.gateway:
            return self._gateway_at
        host, _, port = self.state.gateway.rpartition(":")
        return host, int(port)

    async def _is_provisioned(self) -> bool:
        """Tell whether it knows whom to speak with, and under which key; it asks the bootstrap server otherwise."""
        if not self.config.bootstrap_key_hex or self.state.dtls_key_hex or self._bootstrap_server is None:
            return True
        key = bytes.fromhex(self.config.bootstrap_key_hex)
        account = await bootstrap(self._bootstrap_server, self.config.endpoint, key, self._chance, self._tuning)
        if account is None:
            return False
        self.state.dtls_key_hex = account.security[5].hex()
        self.state.gateway = f"{account.gateway[0]}:{account.gateway[1]}"
        self.save()
        return True

    def _credential(self) -> tuple[str, bytes]:
        return self.config.endpoint, bytes.fromhex(self.state.dtls_key_hex or self.config.dtls_key_hex)

    def advance(self) -> None:
        """Let water run until now."""
        advance(self.config, self.state, self._clock.now())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard()
        # Not an event: each exchange moves the end of the waking, and only the last one counts.
        while (left := self._heard_at + self._awake_s - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)

    async def _announce(self) -> bool:
        if self.state.location:
            kept = self._radio.is_connected
            response = await self._request(aiocoap.POST, self.state.location, patient=not kept)
            if response is None and kept:
                # A session from before this waking, of which the gateway may know nothing any more.
                if not await self._radio.reach(anew=True):
                    return False
                response = await self._request(aiocoap.POST, self.state.location)
            if response is not None and response.code.is_successful():
                return True
            if response is None:
                return False
        query = f"?ep={self.config.endpoint}&lt={LIFETIME_S}&lwm2m=1.1&b=U&Q"
        links = f"</>;ct={SENML_CBOR},</1/0>,</3/0>,</3424/0>,</{self._object_id}/0>"
        response = await self._request(aiocoap.POST, f"/rd{query}", payload=links.encode(), content_format=40)
        if response is None or not response.code.is_successful():
            _log.warning("not registered", serial=self.config.serial, code=getattr(response, "code", None))
            return False
        self.state.location = "/" + "/".join(response.opt.location_path)
        self.save()
        return True

    async def _push(self) -> bool:
        """Send the kept hours; they are forgotten only when the gateway has said that it stored them."""
        while self.state.unsent:
            batch = self.state.unsent[:MAX_PUSHED]
            base_s = batch[0][0]
            records: list[dict[int, Any]] = [
                {0: "/3424/0/1", 6: time_s - base_s, 2: register_ml / 1_000_000} for time_s, register_ml in batch
            ]
            records.extend(
                {0: EMPTY_PIPE, 6: since_s - base_s, 4: empty}
                for since_s, empty in self.state.pipe_empty
                if since_s <= batch[-1][0]
            )
            records[0][-3] = base_s
            response = await self._request(aiocoap.POST, "/dp", payload=cbor2.dumps(records), content_format=SENML_CBOR)
            if response is None or not response.code.is_successful():
                if response is not None and response.code == aiocoap.NOT_FOUND:
                    self.state.location = ""
                return False
            del self.state.unsent[: len(batch)]
            self.save()
        return True

    async def _request(self, code: Any, path: str, *, patient: bool = True, **options: Any) -> Any:
        tuning = self._tuning if patient else self._impatient
        message = aiocoap.Message(code=code, uri=self._gateway + path, transport_tuning=tuning, **options)
        try:
            # An answer that comes apart from its acknowledgement may get lost, and nobody would repeat the question.
            async with asyncio.timeout(tuning.MAX_TRANSMIT_WAIT):
                return await self._context.request(message).response
        except (CoapError, OSError, TimeoutError) as error:
            _log.info("gateway not reached", serial=self.config.serial, error=type(error).__name__)
            return None

    def _site(self) -> Site:
        site = Site()
        site.add_resource(["3424", "0"], _Path(self, self._volume))
        prepaid = [str(self._object_id), "0"]
        site.add_resource([*prepaid, "0"], _Path(self, self._command))
        site.add_resource([*prepaid, "1"], _Path(self, self._status))
        site.add_resource([*prepaid, "2"], _Path(self, lambda _: text(str(self.state.credit_remaining))))
        site.add_resource([*prepaid, "3"], _Path(self, lambda _: text(self.config.currency)))
        site.add_resource([*prepaid, "4"], _Path(self, lambda _: text(str(self.state.valve))))
        site.add_resource([*prepaid, "5"], _Path(self, lambda _: text(str(self.state.threshold_minor))))
        site.add_resource([*prepaid, "6"], _Path(self, self._new_key))
        add_orders(site, self, prepaid, lambda answer: _Path(self, answer))
        return site

    def _volume(self, request: Any) -> aiocoap.Message:
        self.advance()
        volume_m3 = self.state.register_ml / 1_000_000
        if self.config.report_format == "tlv":
            if request.opt.accept not in (None, TLV):
                return aiocoap.Message(code=aiocoap.NOT_ACCEPTABLE)
            # A resource of 8 bytes: type 11, 8-bit id, 8-bit length (TLV, §7.4.3), in its object instance 0.
            value = bytes((0b1100_1000, 1, 8)) + struct.pack(">d", volume_m3)
            return content(bytes((0b0000_1000, 0, len(value))) + value, TLV)
        records: list[dict[int, Any]] = [{-2: "/3424/0/", 0: "1", 2: volume_m3}, {-2: "/3/0/", 0: "9", 2: 87}]
        if self.state.pipe_empty:
            records.append({-2: "", 0: EMPTY_PIPE, 4: self.state.pipe_empty[-1][1]})
        return content(cbor2.dumps(records), SENML_CBOR)

    def _command(self, request: Any) -> aiocoap.Message:
        if request.code != aiocoap.PUT:
            return aiocoap.Message(code=aiocoap.METHOD_NOT_ALLOWED)
        self.advance()
        take_command(self.config, self.state, bytes(request.payload))
        return aiocoap.Message(code=aiocoap.CHANGED)

    def _new_key(self, request: Any) -> aiocoap.Message:
        opened = open_key(bytes(request.payload), bytes.fromhex(self.config.prepaid_key_hex), self.config.serial)
        if request.code != aiocoap.PUT or opened is None or not self._radio.is_connected:
            return aiocoap.Message(code=aiocoap.BAD_REQUEST)
        generation, key = opened
        if generation < self.state.dtls_generation:
            return aiocoap.Message(code=aiocoap.FORBIDDEN)
        self.state.dtls_generation, self.state.dtls_key_hex = generation, key.hex()
        return aiocoap.Message(code=aiocoap.CHANGED)

    def _status(self, _request: Any) -> aiocoap.Message:
        self.advance()
        return content(status_frame(self.config, self.state), OCTET_STREAM)


async def run_meters(
    configs: list[MeterConfig],
    *,
    store_dir: Path,
    gateway: tuple[str, int],
    plain_gateway: tuple[str, int],
    object_id: int,
    clock: Clock,
    keypads: dict[str, KeypadMeter] | None = None,
) -> None:
    """Run these meters until cancelled; those with a keypad are put into ``keypads``, by serial."""
    meters = [
        SimulatedMeter(
            config,
            store_dir=store_dir,
            gateway=gateway if config.dtls_key_hex else plain_gateway,
            object_id=object_id,
            clock=clock,
        )
        for config in configs
    ]
    if keypads is not None:
        keypads |= {meter.config.serial: meter for meter in meters if meter.config.keypad is not None}
    running: list[Awaitable[None]] = [_keep_running(meter) for meter in meters]
    await asyncio.gather(*running)


async def _keep_running(meter: SimulatedMeter) -> None:
    while True:
        try:
            await meter.run()
        except (OSError, CoapError) as error:
            _log.warning("meter restarts", serial=meter.config.serial, error=str(error))
            with contextlib.suppress(OSError):
                await asyncio.sleep(1)
