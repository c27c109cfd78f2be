"""Frames of the prepaid object: numbered, authenticated, with totals. Pure. Layout: docs/lwm2m/prepaid-frames.md."""

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Any

from standpipe.meter_gateway.parsing import ParsingError

VERSION = 1
KIND_CREDIT = 0x01
KIND_VALVE = 0x02
KIND_THRESHOLD = 0x03
KIND_AT_ZERO = 0x04
KIND_CREDIT_MARKED = 0x05
"""Credit to a meter with a keypad: the total, and up to which TID its tokens are in it."""
KIND_KEY = 0x10
KIND_STATUS = 0x81
KIND_STATUS_TYPED = 0x82
"""Kind of the status of a meter with a keypad: it says how much of what it accepted was typed."""
MAC_BYTES = 16
MAX_TOTAL = 2**63 - 1
"""Largest total that our database holds; a frame's unsigned totals could be twice that."""

_COMMANDS = frozenset({KIND_CREDIT, KIND_VALVE, KIND_THRESHOLD, KIND_AT_ZERO})
_COMMAND = struct.Struct(">BBIQ3s")
_MARKED = struct.Struct(">BBIQ3sI")
_STATUS = struct.Struct(">BBIIBBBQqQI")
_TYPED = struct.Struct(">BBIIBBBQqQIQ")
_KEY = struct.Struct(">BBI16s")
_COMMAND_LABEL = b"standpipe/prepaid/command"
_STATUS_LABEL = b"standpipe/prepaid/status"
_KEY_LABEL = b"standpipe/prepaid/key"


@dataclass(frozen=True, slots=True)
class CommandFrame:
    """A command to the meter. ``value``: credit total or threshold in minor units (millilitres, where
    ``currency`` says VOL), valve position, or what to do when the credit ends.
    """

    kind: int
    sequence: int
    value: int
    currency: str
    tid_mark: int | None = None

    def to_bytes(self, key: bytes, serial: str) -> bytes:
        """The frame for this meter, 33 bytes, or 37 with a mark."""
        fields = (self.kind, self.sequence, self.value, self.currency.encode("ascii"))
        if self.tid_mark is None:
            body = _COMMAND.pack(VERSION, *fields)
        else:
            body = _MARKED.pack(VERSION, *fields, self.tid_mark)
        return body + mac_of(key, _COMMAND_LABEL, serial, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: bytes, serial: str) -> "CommandFrame":
        """Raises ParsingError unless the frame is whole, known and meant for this meter."""
        layout = _MARKED if len(frame) == _MARKED.size + MAC_BYTES else _COMMAND
        version, kind, sequence, value, currency, *mark = opened(frame, layout, key, _COMMAND_LABEL, serial)
        if version != VERSION or (kind != KIND_CREDIT_MARKED if mark else kind not in _COMMANDS):
            raise ParsingError("not a command frame that we know")
        return cls(kind, sequence, value, currency.decode("ascii", "replace"), *mark)


@dataclass(frozen=True, slots=True)
class StatusFrame:
    """The meter's statement. Money in minor units, the register in millilitres, time in Unix seconds.

    A VOLUME meter states its two credit totals in millilitres: the frame does not say which, the meter's kind does.
    ``typed_ml``, of a meter with a keypad: what of its accepted volume was typed and is in no total taken since.
    """

    report_counter: int
    last_sequence: int
    result: int
    valve: int
    valve_reason: int
    credit_accepted: int
    credit_remaining: int
    register_ml: int
    meter_time_s: int
    typed_ml: int | None = None

    def to_bytes(self, key: bytes, serial: str) -> bytes:
        """The frame as this meter states it, 57 bytes, or 65 with a keypad."""
        typed = () if self.typed_ml is None else (self.typed_ml,)
        body = (_TYPED if typed else _STATUS).pack(
            VERSION,
            KIND_STATUS_TYPED if typed else KIND_STATUS,
            self.report_counter,
            self.last_sequence,
            self.result,
            self.valve,
            self.valve_reason,
            self.credit_accepted,
            self.credit_remaining,
            self.register_ml,
            self.meter_time_s,
            *typed,
        )
        return body + mac_of(key, _STATUS_LABEL, serial, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: bytes, serial: str) -> "StatusFrame":
        """Raises ParsingError unless the frame is whole, known and this meter's own."""
        typed = len(frame) == _TYPED.size + MAC_BYTES
        version, kind, *fields = opened(frame, _TYPED if typed else _STATUS, key, _STATUS_LABEL, serial)
        if version != VERSION or kind != (KIND_STATUS_TYPED if typed else KIND_STATUS):
            raise ParsingError("not a status frame that we know")
        status = cls(*fields)
        if (status.typed_ml or 0) > status.credit_accepted:
            raise ParsingError("more was typed than accepted")
        if max(status.credit_accepted, status.register_ml) > MAX_TOTAL:
            raise ParsingError("a total beyond any meter's")
        return status


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """The meter's next DTLS key. Only the transport keeps it secret, so it goes over DTLS alone."""

    generation: int
    key: bytes = field(repr=False)

    def to_bytes(self, key: bytes, serial: str) -> bytes:
        """The frame for this meter under its prepaid key, 38 bytes."""
        body = _KEY.pack(VERSION, KIND_KEY, self.generation, self.key)
        return body + mac_of(key, _KEY_LABEL, serial, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: bytes, serial: str) -> "KeyFrame":
        """Raises ParsingError unless the frame is whole, known and meant for this meter."""
        version, kind, generation, dtls_key = opened(frame, _KEY, key, _KEY_LABEL, serial)
        if version != VERSION or kind != KIND_KEY:
            raise ParsingError("not a key frame that we know")
        return cls(generation, dtls_key)


def opened(frame: bytes, layout: struct.Struct, key: bytes, label: bytes, serial: str) -> tuple[Any, ...]:
    """The fields of a frame of this layout. Raises ParsingError unless it is whole and this meter's own."""
    if len(frame) != layout.size + MAC_BYTES:
        raise ParsingError(f"{len(frame)} bytes, not {layout.size + MAC_BYTES}")
    body, mac = frame[: layout.size], frame[layout.size :]
    # The MAC comes first: nothing in a frame is looked at before it proves to be the meter's.
    if not hmac.compare_digest(mac, mac_of(key, label, serial, body)):
        raise ParsingError("the MAC does not hold")
    return layout.unpack(body)


def mac_of(key: bytes, label: bytes, serial: str, body: bytes) -> bytes:
    """Compute the MAC of one kind and direction of frame for one meter."""
    return hmac.new(key, label + serial.encode() + b"\0" + body, hashlib.sha256).digest()[:MAC_BYTES]
