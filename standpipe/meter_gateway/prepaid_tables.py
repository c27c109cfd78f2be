"""Frames of the prepaid object about price tables. Pure. Layout: docs/lwm2m/prepaid-frames.md."""

import struct
from dataclasses import dataclass

from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.prepaid import VERSION, mac_of, opened

KIND_TABLE = 0x0B
KIND_TABLES_HELD = 0x90
_TABLE = struct.Struct(">BBI3s")
_HELD = struct.Struct(">BBI8s8s")
_TABLE_LABEL = b"standpipe/prepaid/table"
_HELD_LABEL = b"standpipe/prepaid/tables-held"


@dataclass(frozen=True, slots=True)
class TableFrame:
    """A price table to the meter, numbered like every command. ``table``: ``MeterTable.to_bytes()``."""

    sequence: int
    currency: str
    table: bytes

    def to_bytes(self, key: bytes, serial: str) -> bytes:
        """The frame for this meter, 25 bytes and the table."""
        body = _TABLE.pack(VERSION, KIND_TABLE, self.sequence, self.currency.encode("ascii")) + self.table
        return body + mac_of(key, _TABLE_LABEL, serial, body)


@dataclass(frozen=True, slots=True)
class TablesHeldFrame:
    """The meter's word on the tables that it holds, by id (all zero: none), under a report number of its own."""

    report_counter: int
    in_force: bytes
    waiting: bytes

    @classmethod
    def from_bytes(cls, frame: bytes, key: bytes, serial: str) -> "TablesHeldFrame":
        """Raises ParsingError unless the frame is whole, known and this meter's own."""
        fields = opened(frame, _HELD, key, _HELD_LABEL, serial)
        version, kind, report_counter, in_force, waiting = fields
        if version != VERSION or kind != KIND_TABLES_HELD:
            raise ParsingError("not a frame about tables that we know")
        return cls(report_counter, in_force, waiting)


def id_text(raw: bytes) -> str:
    """An id as we write it; nothing for a table that is not there."""
    return raw.hex() if any(raw) else ""
