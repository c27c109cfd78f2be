"""Compact frames for LoRaWAN: the prepaid object's statement, hours and commands in 51 bytes or less. Pure.

Layout: docs/meters/lorawan-frames.md. 51 bytes is the FRMPayload of DR0 in the EU868 family of regions (LoRaWAN
Regional Parameters RP002, N at DR0 without a repeater).
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import ClassVar

from standpipe.meter_gateway.parsing import ParsingError

VERSION = 1
MAC_BYTES = 8
"""64 bits: a forger must guess *online*, a frame a guess, past the network's own keys and duty cycle (docs page)."""
MAX_FRAME_BYTES = 242
"""The largest FRMPayload of any data rate."""
DR0_BYTES = 51
PORT_STATUS = 10
PORT_HISTORY = 11
PORT_COMMAND = 20
KIND_CREDIT, KIND_VALVE, KIND_THRESHOLD, KIND_AT_ZERO = 1, 2, 3, 4
KIND_CREDIT_MARKED = 5
"""Credit to a meter with a keypad: after the total, up to which TID its tokens are in it."""
KIND_READ_NOW, KIND_CLOCK, KIND_DIAGNOSE = 6, 7, 10
"""The last one's answer, and price tables, have frames of their own: ``lora_orders``."""
KIND_STATUS, KIND_HISTORY = 8, 9
MAX_TOTAL = 2**63 - 1
MAX_REMAINING, MIN_REMAINING = 2**62 - 1, -(2**62)
"""Zigzag keeps the sign in a 63-bit varint, so that every value here is 9 bytes at most."""
MAX_TIME_S = 2**32 - 1
HOUR_S = 3600
UNKNOWN_BATTERY = 255

_COMMANDS = frozenset(
    {
        *(KIND_CREDIT, KIND_VALVE, KIND_THRESHOLD, KIND_AT_ZERO, KIND_CREDIT_MARKED),
        *(KIND_READ_NOW, KIND_CLOCK, KIND_DIAGNOSE),
    }
)
_VARINT_BYTES = 9
_STATUS = struct.Struct(">IIBBBI")


@dataclass(frozen=True, slots=True)
class FrameKey:
    """Key of a frame's MAC: the meter's prepaid key, its radio and its serial."""

    key: bytes
    dev_eui: bytes
    serial: str

    def mac(self, label: bytes, body: bytes) -> bytes:
        """First MAC_BYTES of HMAC-SHA-256 over label, DevEUI, serial, NUL and body."""
        message = label + self.dev_eui + self.serial.encode() + b"\0" + body
        return hmac.digest(self.key, message, hashlib.sha256)[:MAC_BYTES]


@dataclass(frozen=True, slots=True)
class Alarms:
    """Alarms of the meter at the time of its status report."""

    empty_pipe: bool = False
    leak: bool = False
    reverse_flow: bool = False
    tamper: bool = False

    def to_bits(self) -> int:
        """Bit 0 is ``empty_pipe``."""
        return self.empty_pipe | self.leak << 1 | self.reverse_flow << 2 | self.tamper << 3

    @property
    def names(self) -> list[str]:
        """Those that are raised."""
        return [name for name in self.__dataclass_fields__ if getattr(self, name)]

    @classmethod
    def from_bits(cls, bits: int) -> "Alarms":
        return cls(*(bool(bits >> place & 1) for place in range(4)))


@dataclass(frozen=True, slots=True)
class LoraStatus:
    """The meter's statement, 27 to 51 bytes. Minor units, millilitres, Unix seconds; battery in per cent or None.

    Every value that our database can hold fits. A meter whose remaining credit lies beyond ±2^62 states that bound.
    A meter with a keypad adds ``typed_ml``, of its accepted volume what was typed and is in no total taken since: 1 to
    9 bytes more, which fit as long as its register and totals are below 2^49 ml.
    """

    LABEL: ClassVar[bytes] = b"standpipe/lora/status"

    report_counter: int
    last_sequence: int
    result: int
    valve: int
    valve_reason: int
    alarms: Alarms
    battery_percent: int | None
    credit_accepted: int
    credit_remaining: int
    register_ml: int
    meter_time_s: int
    typed_ml: int | None = None

    def to_bytes(self, key: FrameKey) -> bytes:
        """The frame as this meter states it. Raises ValueError for a value that no meter has."""
        _require(self.credit_accepted, 0, MAX_TOTAL)
        _require(self.register_ml, 0, MAX_TOTAL)
        _require(self.credit_remaining, MIN_REMAINING, MAX_REMAINING)
        _require(self.result, 0, 15)
        _require(self.valve, 0, 3)
        _require(self.valve_reason, 0, 15)
        body = bytes((VERSION << 4 | KIND_STATUS,)) + _STATUS.pack(
            self.report_counter,
            self.last_sequence,
            self.result << 4 | self.valve << 2,
            self.valve_reason << 4 | self.alarms.to_bits(),
            UNKNOWN_BATTERY if self.battery_percent is None else self.battery_percent,
            self.meter_time_s,
        )
        body += _varint(self.credit_accepted) + _varint(_zigzag(self.credit_remaining))
        body += _varint(self.register_ml)
        if self.typed_ml is not None:
            _require(self.typed_ml, 0, self.credit_accepted)
            body += _varint(self.typed_ml)
        return _closed(body, key, self.LABEL)

    @classmethod
    def from_bytes(cls, frame: bytes, key: FrameKey) -> "LoraStatus":
        """Raises ParsingError unless the frame is whole, known and this meter's own."""
        reader = Reader(opened(frame, key, cls.LABEL, {KIND_STATUS}))
        counter, sequence, result_valve, reason_alarms, battery, time_s = _STATUS.unpack(reader.take(_STATUS.size))
        if result_valve & 3 or (battery > 100 and battery != UNKNOWN_BATTERY):  # noqa: PLR2004 - bits and per cent.
            raise ParsingError("not a status frame that we know")
        accepted, remaining, register_ml = reader.varint(), reader.varint(), reader.varint()
        typed_ml = reader.varint() if reader.left else None
        reader.end()
        if (typed_ml or 0) > accepted:
            raise ParsingError("more was typed than accepted")
        return cls(
            report_counter=counter,
            last_sequence=sequence,
            result=result_valve >> 4,
            valve=result_valve >> 2 & 3,
            valve_reason=reason_alarms >> 4,
            alarms=Alarms.from_bits(reason_alarms),
            battery_percent=None if battery == UNKNOWN_BATTERY else battery,
            credit_accepted=accepted,
            credit_remaining=remaining >> 1 if remaining % 2 == 0 else -(remaining >> 1) - 1,
            register_ml=register_ml,
            meter_time_s=time_s,
            typed_ml=typed_ml,
        )


@dataclass(frozen=True, slots=True)
class LoraHistory:
    """The register at ``first_at_s`` and at each full hour after it: the last value is never left out of a gap."""

    LABEL: ClassVar[bytes] = b"standpipe/lora/history"

    first_at_s: int
    first_register_ml: int
    deltas_ml: tuple[int, ...]

    @classmethod
    def fitting(cls, hours: list[tuple[int, int]], limit: int = DR0_BYTES) -> "LoraHistory":
        """Take as many of these (Unix seconds, register in ml) as fit ``limit`` bytes; a gap or a step back ends it.

        ``1 + len(deltas_ml)`` of them were taken.
        """
        (first_at_s, first_ml), *rest = hours
        room = limit - MAC_BYTES - 1 - 4 - len(_varint(first_ml))
        deltas: list[int] = []
        before_ml = first_ml
        for number, (at_s, register_ml) in enumerate(rest, start=1):
            step_ml = register_ml - before_ml
            if at_s != first_at_s + number * HOUR_S or step_ml < 0 or (room := room - len(_varint(step_ml))) < 0:
                break
            deltas.append(step_ml)
            before_ml = register_ml
        return cls(first_at_s, first_ml, tuple(deltas))

    @property
    def readings(self) -> list[tuple[int, int]]:
        """(Unix seconds, register in ml), oldest first."""
        readings = [(self.first_at_s, self.first_register_ml)]
        for step_ml in self.deltas_ml:
            at_s, register_ml = readings[-1]
            readings.append((at_s + HOUR_S, register_ml + step_ml))
        return readings

    def to_bytes(self, key: FrameKey) -> bytes:
        """The frame as this meter tells it. Raises ValueError for a value that no meter has."""
        _require(self.first_register_ml, 0, MAX_TOTAL)
        body = bytes((VERSION << 4 | KIND_HISTORY,)) + self.first_at_s.to_bytes(4, "big")
        body += _varint(self.first_register_ml) + b"".join(_varint(step_ml) for step_ml in self.deltas_ml)
        return _closed(body, key, self.LABEL)

    @classmethod
    def from_bytes(cls, frame: bytes, key: FrameKey) -> "LoraHistory":
        """Raises ParsingError unless the frame is whole, known and this meter's own."""
        reader = Reader(opened(frame, key, cls.LABEL, {KIND_HISTORY}))
        first_at_s, first_ml = int.from_bytes(reader.take(4), "big"), reader.varint()
        deltas = []
        while reader.left:
            deltas.append(reader.varint())
        if first_ml + sum(deltas) > MAX_TOTAL or first_at_s + len(deltas) * HOUR_S > MAX_TIME_S:
            raise ParsingError("a register or a time beyond any meter's")
        return cls(first_at_s, first_ml, tuple(deltas))


@dataclass(frozen=True, slots=True)
class LoraCommand:
    """A command to the meter, 17 to 29 bytes; ``value`` and ``tid_mark`` as in the prepaid object's command frame."""

    LABEL: ClassVar[bytes] = b"standpipe/lora/command"

    kind: int
    sequence: int
    value: int
    currency: str
    tid_mark: int | None = None

    def to_bytes(self, key: FrameKey) -> bytes:
        """The frame for this meter. Raises ValueError for a value that no command has."""
        _require(self.value, 0, MAX_TOTAL)
        body = bytes((VERSION << 4 | self.kind,)) + self.sequence.to_bytes(4, "big")
        body += self.currency.encode("ascii") + _varint(self.value)
        return _closed(body + (b"" if self.tid_mark is None else _varint(self.tid_mark)), key, self.LABEL)

    @classmethod
    def from_bytes(cls, frame: bytes, key: FrameKey) -> "LoraCommand":
        """Raises ParsingError unless the frame is whole, known and meant for this meter."""
        body = opened(frame, key, cls.LABEL, _COMMANDS)
        reader = Reader(body)
        kind, sequence = frame[0] & 15, int.from_bytes(reader.take(4), "big")
        currency, value = reader.take(3), reader.varint()
        mark = reader.varint() if kind == KIND_CREDIT_MARKED else None
        reader.end()
        return cls(kind, sequence, value, currency.decode("ascii", "replace"), mark)


class Reader:
    """A body read from its start; whoever reads past its end has no frame."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    @property
    def left(self) -> int:
        """Number of bytes that are not read yet."""
        return len(self._body) - self._at

    def take(self, size: int) -> bytes:
        """The next bytes. Raises ParsingError."""
        if self.left < size:
            raise ParsingError("the frame ends early")
        self._at += size
        return self._body[self._at - size : self._at]

    def varint(self) -> int:
        """The next varint. Raises ParsingError."""
        value = 0
        for place in range(_VARINT_BYTES):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:  # noqa: PLR2004 - the bit that says "more".
                if byte == 0 and place:
                    # One value, one frame: what is longer than it need be is not from a meter of ours.
                    raise ParsingError("a varint that is too long")
                return value
        raise ParsingError("a varint beyond 63 bits")

    def end(self) -> None:
        """Raises ParsingError where something is left."""
        if self.left:
            raise ParsingError(f"{self.left} bytes too many")


def _closed(body: bytes, key: FrameKey, label: bytes) -> bytes:
    return body + key.mac(label, body)


def opened(frame: bytes, key: FrameKey, label: bytes, kinds: set[int] | frozenset[int]) -> bytes:
    """A frame's body after its first byte. The MAC comes first: nothing is looked at before it holds.

    Raises ParsingError.
    """
    if not MAC_BYTES < len(frame) <= MAX_FRAME_BYTES:
        raise ParsingError(f"{len(frame)} bytes are no frame")
    body, mac = frame[:-MAC_BYTES], frame[-MAC_BYTES:]
    if not hmac.compare_digest(mac, key.mac(label, body)):
        raise ParsingError("the MAC does not hold")
    if body[0] >> 4 != VERSION or body[0] & 15 not in kinds:
        raise ParsingError("not a frame that we know")
    return body[1:]


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first."""
    parts = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits.
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _require(value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        message = f"{value} is outside {least}..{most}"
        raise ValueError(message)
