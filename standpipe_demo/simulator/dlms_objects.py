"""The COSEM objects of a simulated prepaid meter: what can be read, written and called (Blue Book classes).

They stand on the same meter model as the LwM2M meter: water runs, money is deducted, the valve closes at nought.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from standpipe_demo.simulator.dlms_frames import FrameError, Value, clock_octets, clock_of
from standpipe_demo.simulator.meter_model import (
    CLOSED,
    NO_CREDIT,
    NORMAL,
    OPEN,
    MeterConfig,
    MeterState,
    advance,
    price_minor,
    status_frame,
    take_command,
)

SUCCESS, DENIED, UNDEFINED, WRONG_TYPE, TEMPORARY = 0, 3, 4, 12, 2
NAME = "0.0.42.0.0.255"
CLOCK = "0.0.1.0.0.255"
VOLUME = "8.0.1.0.0.255"
PROFILE = "8.0.99.1.0.255"
ACCOUNT = "0.0.19.0.0.255"
CREDIT = "0.0.19.10.0.255"
CHARGE = "0.0.19.20.0.255"
TOKEN = "0.0.19.40.0.255"  # noqa: S105 - an OBIS code.
CUT_OFF = "0.0.96.3.10.255"
ALARMS = "0.0.97.98.0.255"
BATTERY = "0.0.96.6.1.255"
STATEMENT = "0.0.128.0.0.255"
FIRMWARE, ERRORS, RESETS, UPTIME = "1.0.0.2.0.255", "0.0.97.97.0.255", "0.0.96.7.21.255", "0.0.96.8.0.255"
SIGNAL = "0.0.25.6.0.255"
_INT32 = 2**31
_EXPONENTS = {"KES": 2, "UGX": 0, "JPY": 0, "KWD": 3}


class RefusedError(Exception):
    """A data-access or action result other than success."""

    def __init__(self, result: int) -> None:
        super().__init__(f"result {result}")
        self.result = result


@dataclass
class Extra:
    """State that a DLMS meter keeps through a loss of power besides the model's."""

    sent_counter: int = 0
    """The invocation counter that it last used."""
    heard_counter: int = -1
    """The highest of its client's."""
    clock_error_s: float = 0.0
    blocks: list[list[Any]] | None = None
    passive_blocks: list[list[Any]] | None = None
    activate_at: str | None = None
    alarms: int = 0
    resets: int = 0
    token_hex: str = ""
    token_status: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Turn it into JSON's types."""
        return dataclasses.asdict(self)


@dataclass
class Objects:
    """One meter's objects. ``now`` is true time; the meter's own clock may be off by ``extra.clock_error_s``."""

    config: MeterConfig
    state: MeterState
    extra: Extra
    now: Callable[[], datetime]
    name: str
    calls: list[str] = field(default_factory=list)
    """Calls that were carried out, in order, for tests to count."""
    asked: list[int] = field(default_factory=list)
    """Load profile entries that each reading of it gave."""
    lacks: set[str] = field(default_factory=set)
    """OBIS codes that this model does not have."""
    read_only: set[str] = field(default_factory=set)
    """Those that it lets nobody write."""

    def __post_init__(self) -> None:
        """It starts now."""
        self.started_at = self.now()

    def advance(self) -> None:
        """Let water run until now, under the price table in force."""
        now = self.now()
        due = self.extra.activate_at
        if due is not None and self.extra.passive_blocks is not None and datetime.fromisoformat(due) <= now:
            advance(self.priced, self.state, datetime.fromisoformat(due))
            self.extra.blocks, self.extra.activate_at = self.extra.passive_blocks, None
            used_ml = self.state.register_ml - self.state.period_start_register_ml
            self.state.period_charged_minor = price_minor(self.priced.blocks, used_ml)
        advance(self.priced, self.state, now)

    @property
    def priced(self) -> MeterConfig:
        """The configuration with the prices that are in force."""
        if self.extra.blocks is None:
            return self.config
        return dataclasses.replace(self.config, blocks=tuple((bound, price) for bound, price in self.extra.blocks))

    @property
    def clock(self) -> datetime:
        """Time that the meter's clock shows."""
        return self.now() + timedelta(seconds=self.extra.clock_error_s)

    def read(self, class_id: int, obis: str, index: int, selection: Value | None) -> Value:
        """An attribute. Raises RefusedError."""
        if (class_id, obis, index) == (7, PROFILE, 2):
            return self._profile(selection)
        readers: dict[tuple[int, str, int], Callable[[], Value]] = {
            (1, NAME, 2): lambda: ("octets", self.name.encode()),
            (8, CLOCK, 2): lambda: ("octets", clock_octets(self.clock)),
            (3, VOLUME, 2): lambda: ("u64", self.state.register_ml),
            (3, VOLUME, 3): lambda: ("structure", [("i8", -6), ("enum", 13)]),
            (7, PROFILE, 3): lambda: ("array", [_column(8, CLOCK), _column(1, ALARMS), _column(3, VOLUME)]),
            (7, PROFILE, 4): lambda: ("u32", 3600),
            (7, PROFILE, 7): lambda: ("u32", len(self.state.unsent)),
            (1, ALARMS, 2): lambda: ("u32", self.extra.alarms),
            (1, BATTERY, 2): lambda: ("u8", 87),
            (1, FIRMWARE, 2): lambda: ("octets", b"sim 1.4.2"),
            (1, ERRORS, 2): lambda: ("u32", self.extra.alarms),
            (1, RESETS, 2): lambda: ("u32", self.extra.resets),
            (1, UPTIME, 2): lambda: ("u32", int((self.now() - self.started_at).total_seconds())),
            (47, SIGNAL, 6): lambda: ("structure", [("u32", 4711), ("u16", 12), ("u8", 18), ("u8", 99)]),
            (1, STATEMENT, 2): lambda: ("octets", status_frame(self.config, self.state)),
        } | self._payment()
        reader = readers.get((class_id, obis, index))
        if reader is None or obis in self.lacks:
            raise RefusedError(UNDEFINED)
        return reader()

    def write(self, class_id: int, obis: str, index: int, value: Value) -> None:
        """Raises RefusedError."""
        if obis in self.lacks | self.read_only:
            raise RefusedError(DENIED)
        match (class_id, obis, index), value:
            case (8, "0.0.1.0.0.255", 2), ("octets", raw):
                self.extra.clock_error_s = (_told(raw) - self.now()).total_seconds()
            case (111, "0.0.19.0.0.255", 16), ("i32", threshold):
                self.state.threshold_minor = int(threshold)
            case (113, "0.0.19.20.0.255", 6), ("structure", table):
                self.extra.passive_blocks = _blocks(table, self._exponent)
            case (113, "0.0.19.20.0.255", 7), ("octets", raw):
                self.extra.activate_at = _told(raw).isoformat()
            case _:
                raise RefusedError(DENIED)
        self.calls.append(f"set {obis}:{index}")

    def act(self, class_id: int, obis: str, index: int, value: Value) -> Value | None:
        """Call a method; what it returns. Raises RefusedError."""
        match (class_id, obis, index), value:
            case (112, "0.0.19.10.0.255", 1), ("i32", amount):
                self._credit(self.state.credit_remaining + int(amount))
            case (112, "0.0.19.10.0.255", 2), ("i32", amount):
                self._credit(int(amount))
            case (70, "0.0.96.3.10.255", 1 | 2), _:
                self.state.ordered_valve = CLOSED if index == 1 else OPEN
                self._settle_valve()
            case (115, "0.0.19.40.0.255", 1), ("octets", token):
                self.calls.append("enter")
                return self._enter(bytes(token))
            case _:
                raise RefusedError(DENIED)
        self.calls.append(f"act {obis}:{index}")
        return None

    def push_body(self) -> Value:
        """Build the body of an unasked push."""
        fields: list[Value] = [("octets", self.name.encode()), ("octets", clock_octets(self.clock))]
        return "structure", [*fields, ("u64", self.state.register_ml), ("u32", self.extra.alarms)]

    @property
    def paid_minor(self) -> int:
        """All that was ever deducted."""
        return self.state.credit_accepted - self.state.credit_remaining

    @property
    def _exponent(self) -> int:
        return _EXPONENTS.get(self.config.currency, 2)

    def _payment(self) -> dict[tuple[int, str, int], Callable[[], Value]]:
        state = self.state
        connected = state.valve != CLOSED
        return {
            (111, ACCOUNT, 2): lambda: ("structure", [("enum", 2), ("enum", 2)]),
            (111, ACCOUNT, 5): lambda: ("i32", state.credit_remaining),
            (111, ACCOUNT, 6): lambda: ("i32", 0),
            (111, ACCOUNT, 8): lambda: ("i32", 0),
            (111, ACCOUNT, 15): lambda: (
                "structure",
                [("utf8", self.config.currency), ("i8", -self._exponent), ("enum", 2)],
            ),
            (111, ACCOUNT, 16): lambda: ("i32", state.threshold_minor),
            (112, CREDIT, 2): lambda: ("i32", state.credit_remaining),
            (113, CHARGE, 2): lambda: ("i32", self.paid_minor),
            (113, CHARGE, 5): lambda: _table(self.priced.blocks, self._exponent),
            (113, CHARGE, 6): lambda: _table(self.extra.passive_blocks or [], self._exponent),
            (113, CHARGE, 7): lambda: ("octets", self._activation()),
            (115, TOKEN, 2): lambda: ("octets", bytes.fromhex(self.extra.token_hex)),
            (115, TOKEN, 6): lambda: _token_status(self.extra.token_status),
            (70, CUT_OFF, 2): lambda: ("bool", connected),
            (70, CUT_OFF, 3): lambda: ("enum", 1 if connected else 0),
            (70, CUT_OFF, 4): lambda: ("enum", 4),
        }

    def _activation(self) -> bytes:
        due = self.extra.activate_at
        return bytes(12) if due is None else clock_octets(datetime.fromisoformat(due))

    def _credit(self, amount_minor: int) -> None:
        if not -_INT32 <= amount_minor < _INT32:
            raise RefusedError(WRONG_TYPE)
        self.state.credit_accepted += amount_minor - self.state.credit_remaining
        self.state.credit_remaining = amount_minor
        self._settle_valve()

    def _settle_valve(self) -> None:
        empty = self.state.credit_remaining <= 0
        self.state.valve = CLOSED if empty else self.state.ordered_valve
        self.state.valve_reason = NO_CREDIT if empty else NORMAL

    def _enter(self, token: bytes) -> Value:
        before = self.state.last_sequence
        take_command(self.config, self.state, token)
        self.extra.token_hex = token.hex()
        self.extra.token_status = 3 if self.state.last_sequence > before else 6
        return _token_status(self.extra.token_status)

    def _profile(self, selection: Value | None) -> Value:
        first, last = 0.0, float("inf")
        if selection is not None:
            try:
                first, last = (clock_of(part[1]).timestamp() for part in selection[1][1:3])
            except (FrameError, IndexError, TypeError, ValueError):
                raise RefusedError(WRONG_TYPE) from None
        rows: list[Value] = [
            ("structure", [("octets", clock_octets(_at(time_s))), ("u32", 0), ("u64", register_ml)])
            for time_s, register_ml in self.state.unsent
            if first <= time_s <= last
        ]
        self.asked.append(len(rows))
        return "array", rows


def _at(time_s: int) -> datetime:
    return datetime.fromtimestamp(time_s).astimezone()


def _told(raw: bytes) -> datetime:
    try:
        return clock_of(raw)
    except FrameError:
        raise RefusedError(WRONG_TYPE) from None


def _token_status(status: int) -> Value:
    return "structure", [("enum", status), ("bits", "")]


def _column(class_id: int, obis: str) -> Value:
    logical_name = bytes(int(part) for part in obis.split("."))
    return "structure", [("u16", class_id), ("octets", logical_name), ("i8", 2), ("u16", 0)]


def _table(blocks: Any, exponent: int) -> Value:
    """Unit charges per cubic metre; an element's index is its block's upper bound in litres."""
    scaling: Value = ("structure", [("i8", 0), ("i8", -exponent)])
    rows: list[Value] = [
        ("structure", [("octets", _bound(up_to_ml)), ("i16", round(float(price)))]) for up_to_ml, price in blocks
    ]
    commodity: Value = ("structure", _column(3, VOLUME)[1][:3])
    return "structure", [scaling, commodity, ("array", rows)]


def _bound(up_to_ml: int | None) -> bytes:
    return (0xFFFF_FFFF if up_to_ml is None else up_to_ml // 1000).to_bytes(4, "big")


def _blocks(table: list[Value], exponent: int) -> list[list[Any]]:
    try:
        (_, ((_, _commodity), (_, scale))), _, (_, rows) = table
        found = []
        for _, ((_, index), (_, price)) in rows:
            bound = int.from_bytes(index, "big")
            minor = price * 10 ** (scale + exponent)
            found.append([None if bound == 0xFFFF_FFFF else bound * 1000, str(minor)])  # noqa: PLR2004
    except (TypeError, ValueError):
        raise RefusedError(WRONG_TYPE) from None
    return found
