"""LoRaWAN frames of commands that hold more than a number, and of the answers to them. Pure.

Layout: docs/meters/lorawan-frames.md. Every frame fits into DR0's 51 bytes.
"""

from dataclasses import dataclass
from typing import ClassVar

from standpipe.meter_gateway.lorawan.frames import DR0_BYTES, MAC_BYTES, VERSION, FrameKey, Reader, opened
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.price_tables import varint

PORT_ANSWER = 12
KIND_TABLE_PART = 11
KIND_DIAGNOSTICS, KIND_TABLES_HELD = 12, 13
UNKNOWN_BATTERY, UNKNOWN_SIGNAL = 255, 0
MAX_PARTS = 15
PART_BYTES = DR0_BYTES - MAC_BYTES - 9
"""34: what is left beside kind, sequence, currency and the part's number."""
_FIRMWARE_BYTES = 12
_MAX_VARINT = 2**35 - 1
ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class TablePart:
    """One part of a price table (``MeterTable.to_bytes()``): the meter keeps it until all of one sequence are there."""

    LABEL: ClassVar[bytes] = b"standpipe/lora/table"

    sequence: int
    currency: str
    index: int
    count: int
    chunk: bytes

    @classmethod
    def next_of(cls, table: bytes, sequence: int, currency: str, parts_held: int) -> "TablePart":
        """The first part that the meter does not hold. Raises ValueError for a table of too many."""
        chunks = [table[at : at + PART_BYTES] for at in range(0, len(table), PART_BYTES)]
        if len(chunks) > MAX_PARTS:
            message = f"a price table of {len(table)} bytes is too long for LoRaWAN"
            raise ValueError(message)
        # Where it holds them all and still names another table, the last goes out again: its answer was lost.
        index = next((number for number in range(len(chunks)) if not parts_held >> number & 1), len(chunks) - 1)
        return cls(sequence, currency, index, len(chunks), chunks[index])

    def to_bytes(self, key: FrameKey) -> bytes:
        """The frame for this meter, 51 bytes at most."""
        body = bytes((VERSION << 4 | KIND_TABLE_PART,)) + self.sequence.to_bytes(4, "big")
        body += self.currency.encode("ascii") + bytes((self.index << 4 | self.count,)) + self.chunk
        return body + key.mac(self.LABEL, body)


@dataclass(frozen=True, slots=True)
class LoraDiagnostics:
    """Diagnostics of the meter, in answer to the command of that sequence; None: it cannot tell."""

    LABEL: ClassVar[bytes] = b"standpipe/lora/diagnostics"

    sequence: int
    battery_percent: int | None
    signal_dbm: int | None
    uptime_s: int
    resets: int
    error_bits: int
    firmware: str

    def to_bytes(self, key: FrameKey) -> bytes:
        """The frame as this meter tells it. Raises ValueError for a value that no meter has."""
        firmware = self.firmware.encode()
        if len(firmware) > _FIRMWARE_BYTES or not -255 <= (self.signal_dbm or 0) <= 0:  # noqa: PLR2004 - a byte.
            message = "a firmware's name or a signal that does not fit"
            raise ValueError(message)
        body = bytes((VERSION << 4 | KIND_DIAGNOSTICS,)) + self.sequence.to_bytes(4, "big")
        body += bytes(
            (UNKNOWN_BATTERY if self.battery_percent is None else self.battery_percent, -(self.signal_dbm or 0))
        )
        body += varint(self.uptime_s) + varint(self.resets) + varint(self.error_bits) + firmware
        return body + key.mac(self.LABEL, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: FrameKey) -> "LoraDiagnostics":
        """Raises ParsingError unless the frame is whole, known and this meter's own."""
        reader = Reader(opened(frame, key, cls.LABEL, {KIND_DIAGNOSTICS}))
        sequence, (battery, signal) = int.from_bytes(reader.take(4), "big"), reader.take(2)
        uptime_s, resets, error_bits = reader.varint(), reader.varint(), reader.varint()
        firmware = reader.take(reader.left).decode("utf-8", "replace")
        if max(uptime_s, resets, error_bits) > _MAX_VARINT or (battery > 100 and battery != UNKNOWN_BATTERY):  # noqa: PLR2004 - per cent.
            raise ParsingError("not diagnostics that any meter has")
        return cls(
            sequence,
            None if battery == UNKNOWN_BATTERY else battery,
            -signal if signal != UNKNOWN_SIGNAL else None,
            uptime_s,
            resets,
            error_bits,
            firmware if firmware.isprintable() else "",
        )


@dataclass(frozen=True, slots=True)
class LoraTablesHeld:
    """Price tables that the meter holds (ids, all zero: none), and the parts of the one that is coming."""

    LABEL: ClassVar[bytes] = b"standpipe/lora/tables-held"

    report_counter: int
    sequence: int
    parts: int
    in_force: bytes
    waiting: bytes

    def to_bytes(self, key: FrameKey) -> bytes:
        """The frame as this meter states it, 35 bytes."""
        body = bytes((VERSION << 4 | KIND_TABLES_HELD,)) + self.report_counter.to_bytes(4, "big")
        body += self.sequence.to_bytes(4, "big") + self.parts.to_bytes(2, "big") + self.in_force + self.waiting
        return body + key.mac(self.LABEL, body)

    @classmethod
    def from_bytes(cls, frame: bytes, key: FrameKey) -> "LoraTablesHeld":
        """Raises ParsingError unless the frame is whole, known and this meter's own."""
        reader = Reader(opened(frame, key, cls.LABEL, {KIND_TABLES_HELD}))
        counter, sequence, parts = (int.from_bytes(reader.take(size), "big") for size in (4, 4, 2))
        in_force, waiting = reader.take(ID_BYTES), reader.take(ID_BYTES)
        reader.end()
        return cls(counter, sequence, parts, in_force, waiting)
