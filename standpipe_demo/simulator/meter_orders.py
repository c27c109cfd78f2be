"""Objects of a simulated LwM2M meter beside its water and credit: clock, price table, diagnostics."""

from collections.abc import Callable
from typing import Any, Protocol

import aiocoap
import cbor2
from aiocoap.resource import Resource, Site

from standpipe_demo.simulator import meter_prices
from standpipe_demo.simulator.meter_model import MeterConfig, MeterState, set_clock, take_table

OCTET_STREAM, SENML_CBOR, TLV = 42, 112, 11542
BATTERY_PERCENT, SIGNAL_DBM, FIRMWARE = 87, -97, "sim 1.4.2"
Answer = Callable[[Any], aiocoap.Message]


class Device(Protocol):
    """A meter as far as these resources know it; ``meter_device`` has the whole."""

    config: MeterConfig
    state: MeterState
    cannot: set[str]

    @property
    def uptime_s(self) -> int:
        """Seconds since it last started."""

    def advance(self) -> None:
        """Let water run until now."""


def add_orders(site: Site, meter: Device, prepaid: list[str], path: Callable[[Answer], Resource]) -> None:
    """Serve them; ``path`` makes a resource of an answer. What is in ``meter.cannot`` is not there."""
    orders = _Orders(meter)
    paths: list[tuple[list[str], Answer]] = [
        (["3", "0"], orders.device),
        (["3", "0", "9"], orders.battery),
        (["3", "0", "13"], orders.clock),
        (["4", "0", "2"], orders.signal),
        ([*prepaid, "7"], orders.table),
        ([*prepaid, "8"], orders.tables),
        ([*prepaid, "9"], orders.uptime),
        ([*prepaid, "10"], orders.resets),
    ]
    for where, answer in paths:
        if answer.__name__ not in meter.cannot:
            site.add_resource(where, path(answer))


class _Orders:
    """Answers by the resources' names."""

    def __init__(self, meter: Device) -> None:
        self._meter = meter

    @property
    def _key(self) -> bytes:
        return bytes.fromhex(self._meter.config.prepaid_key_hex)

    def device(self, request: Any) -> aiocoap.Message:
        """The device object."""
        if request.opt.accept not in (None, SENML_CBOR):
            return aiocoap.Message(code=aiocoap.NOT_ACCEPTABLE)
        records: list[dict[int, Any]] = [
            {-2: "/3/0/", 0: "3", 3: FIRMWARE},
            {0: "9", 2: BATTERY_PERCENT},
            {0: "11/0", 2: 0},
        ]
        return content(cbor2.dumps(records), SENML_CBOR)

    def battery(self, _request: Any) -> aiocoap.Message:
        """Per cent."""
        return text(str(BATTERY_PERCENT))

    def clock(self, request: Any) -> aiocoap.Message:
        """Current Time, written."""
        if request.code != aiocoap.PUT or not bytes(request.payload).isdigit():
            return aiocoap.Message(code=aiocoap.BAD_REQUEST)
        self._meter.advance()
        set_clock(self._meter.state, int(request.payload))
        return aiocoap.Message(code=aiocoap.CHANGED)

    def table(self, request: Any) -> aiocoap.Message:
        """A price table, written."""
        if request.code != aiocoap.PUT:
            return aiocoap.Message(code=aiocoap.METHOD_NOT_ALLOWED)
        meter = self._meter
        meter.advance()
        opened = meter_prices.open_table(bytes(request.payload), self._key, meter.config.serial)
        take_table(meter.config, meter.state, opened)
        meter.advance()
        return aiocoap.Message(code=aiocoap.CHANGED)

    def tables(self, _request: Any) -> aiocoap.Message:
        """Report the tables that it holds, under the next report number."""
        state = self._meter.state
        state.report_counter += 1
        frame = meter_prices.held_frame(state.report_counter, state, self._key, self._meter.config.serial)
        return content(frame, OCTET_STREAM)

    def uptime(self, _request: Any) -> aiocoap.Message:
        """Seconds since it last started."""
        return text(str(self._meter.uptime_s))

    def resets(self, _request: Any) -> aiocoap.Message:
        """Number of times that it lost power."""
        return text(str(self._meter.state.resets))

    def signal(self, _request: Any) -> aiocoap.Message:
        """Received power."""
        return text(str(SIGNAL_DBM))


def content(payload: bytes, content_format: int) -> aiocoap.Message:
    """An answer with something in it."""
    return aiocoap.Message(code=aiocoap.CONTENT, payload=payload, content_format=content_format)


def text(words: str) -> aiocoap.Message:
    """Answer in plain text."""
    return content(words.encode(), 0)
