"""LwM2M TLV, content format 11542 (OMA-TS-LightweightM2M_Core-V1_1 §7.4.3). Pure; bounded by the payload's own size."""

import struct
from dataclasses import dataclass

from standpipe.meter_gateway.parsing import ParsingError

CONTENT_FORMAT = 11542
MAX_DEPTH = 4

OBJECT_INSTANCE = 0b00
RESOURCE_INSTANCE = 0b01
MULTIPLE_RESOURCE = 0b10
RESOURCE = 0b11

_INTEGER_SIZES = {1: ">b", 2: ">h", 4: ">i", 8: ">q"}
_FLOAT_SIZES = {4: ">f", 8: ">d"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One record: its kind (two bits), id, and raw value; ``children`` for the kinds that nest."""

    kind: int
    id: int
    value: bytes
    children: tuple["Entry", ...] = ()


def decode(payload: bytes, depth: int = 0) -> tuple[Entry, ...]:
    """The records of a payload. Raises ParsingError for a length that lies, or nesting that does not end."""
    if depth > MAX_DEPTH:
        raise ParsingError("TLV nested too deep")
    entries: list[Entry] = []
    offset = 0
    while offset < len(payload):
        entry, offset = _entry(payload, offset, depth)
        entries.append(entry)
    return tuple(entries)


def integer(value: bytes) -> int:
    """A signed integer of 1, 2, 4 or 8 bytes. Raises ParsingError."""
    if len(value) not in _INTEGER_SIZES:
        raise ParsingError(f"an integer of {len(value)} bytes")
    return int(struct.unpack(_INTEGER_SIZES[len(value)], value)[0])


def number(value: bytes) -> float:
    """A float of 4 or 8 bytes. Raises ParsingError."""
    if len(value) not in _FLOAT_SIZES:
        raise ParsingError(f"a float of {len(value)} bytes")
    return float(struct.unpack(_FLOAT_SIZES[len(value)], value)[0])


def resource(identifier: int, value: bytes) -> bytes:
    """One resource with its value, as it goes out."""
    head, body = RESOURCE << 6, b""
    if identifier > 0xFF:  # noqa: PLR2004 - a byte.
        head, body = head | 0b0010_0000, identifier.to_bytes(2, "big")
    else:
        body = bytes((identifier,))
    if len(value) < 8:  # noqa: PLR2004 - what three bits hold.
        return bytes((head | len(value),)) + body + value
    size = 1 if len(value) <= 0xFF else 2 if len(value) <= 0xFFFF else 3  # noqa: PLR2004 - what so many bytes hold.
    return bytes((head | size << 3,)) + body + len(value).to_bytes(size, "big") + value


def of_integer(value: int) -> bytes:
    """A signed integer in as few bytes as the format has for it."""
    size = next(size for size in _INTEGER_SIZES if -(1 << 8 * size - 1) <= value < 1 << 8 * size - 1)
    return value.to_bytes(size, "big", signed=True)


def of_boolean(*, value: bool) -> bytes:
    """A boolean."""
    return b"\x01" if value else b"\x00"


def _entry(payload: bytes, offset: int, depth: int) -> tuple[Entry, int]:
    head = payload[offset]
    id_bytes = 2 if head & 0b0010_0000 else 1
    length_bytes = (head >> 3) & 0b11
    body = offset + 1 + id_bytes + length_bytes
    if body > len(payload):
        raise ParsingError("TLV header cut short")
    identifier = int.from_bytes(payload[offset + 1 : offset + 1 + id_bytes], "big")
    length = int.from_bytes(payload[offset + 1 + id_bytes : body], "big") if length_bytes else head & 0b111
    end = body + length
    if end > len(payload):
        raise ParsingError("TLV value cut short")
    kind, value = head >> 6, payload[body:end]
    nests = kind in (OBJECT_INSTANCE, MULTIPLE_RESOURCE)
    return Entry(kind, identifier, value, decode(value, depth + 1) if nests else ()), end
