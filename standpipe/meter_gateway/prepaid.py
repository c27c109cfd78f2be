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
KIND_KEY = 0x10
KIND_STATUS = 0x81
MAC_BYTES = 16
MAX_TOTAL = 2**63 - 1
"""What our database holds; a frame's unsigned totals could be twice that."""

_COMMANDS = frozenset({KIND_CREDIT, KIND_VALVE, KIND_THRESHOLD, KIND_AT_ZERO})
_COMMAND = struct.Struct(">BBIQ3s")
_STATUS = struct.Struct(">BBIIBBBQqQI")
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

    def to_bytes(self, key: bytes, serial: str) -> bytes:
        """The frame for this meter, 33 bytes."""
        body = _COMMAND.pack(VERSION, self.kind, self.sequence, self.value, self.currency.encode("ascii"))
        return body + _mac(key, _COMMAND_LABEL, serial, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: bytes, serial: str) -> "CommandFrame":
        """Raises ParsingError unless the frame is whole, known and meant for this meter."""
        version, kind, sequence, value, currency = _opened(frame, _COMMAND, key, _COMMAND_LABEL, serial)
        if version != VERSION or kind not in _COMMANDS:
            raise ParsingError("not a command frame that we know")
        return cls(kind, sequence, value, currency.decode("ascii", "replace"))


@dataclass(frozen=True, slots=True)
class StatusFrame:
    """The meter's statement. Money in minor units, the register in millilitres, time in Unix seconds.

    A VOLUME meter states its two credit totals in millilitres: the frame does not say which, the meter's kind does.
    """

    report_counter: int
    last_sequence: int
    result: int
    valve: int
    valve_reason: int
    credit_accepted_minor: int
    credit_remaining_minor: int
    register_ml: int
    meter_time_s: int

    def to_bytes(self, key: bytes, serial: str) -> bytes:
        """The frame as this meter states it, 57 bytes."""
        body = _STATUS.pack(
            VERSION,
            KIND_STATUS,
            self.report_counter,
            self.last_sequence,
            self.result,
            self.valve,
            self.valve_reason,
            self.credit_accepted_minor,
            self.credit_remaining_minor,
            self.register_ml,
            self.meter_time_s,
        )
        return body + _mac(key, _STATUS_LABEL, serial, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: bytes, serial: str) -> "StatusFrame":
        """Raises ParsingError unless the frame is whole, known and this meter's own."""
        version, kind, *fields = _opened(frame, _STATUS, key, _STATUS_LABEL, serial)
        if version != VERSION or kind != KIND_STATUS:
            raise ParsingError("not a status frame that we know")
        status = cls(*fields)
        if max(status.credit_accepted_minor, status.register_ml) > MAX_TOTAL:
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
        return body + _mac(key, _KEY_LABEL, serial, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: bytes, serial: str) -> "KeyFrame":
        """Raises ParsingError unless the frame is whole, known and meant for this meter."""
        version, kind, generation, dtls_key = _opened(frame, _KEY, key, _KEY_LABEL, serial)
        if version != VERSION or kind != KIND_KEY:
            raise ParsingError("not a key frame that we know")
        return cls(generation, dtls_key)


def _opened(frame: bytes, layout: struct.Struct, key: bytes, label: bytes, serial: str) -> tuple[Any, ...]:
    if len(frame) != layout.size + MAC_BYTES:
        raise ParsingError(f"{len(frame)} bytes, not {layout.size + MAC_BYTES}")
    body, mac = frame[: layout.size], frame[layout.size :]
    # The MAC comes first: nothing in a frame is looked at before it proves to be the meter's.
    if not hmac.compare_digest(mac, _mac(key, label, serial, body)):
        raise ParsingError("the MAC does not hold")
    return layout.unpack(body)


def _mac(key: bytes, label: bytes, serial: str, body: bytes) -> bytes:
    return hmac.new(key, label + serial.encode() + b"\0" + body, hashlib.sha256).digest()[:MAC_BYTES]
