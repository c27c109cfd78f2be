"""A meter's price tables: the one in force, the one that waits for its instant, and their names.

Its own reading of docs/lwm2m/prepaid-frames.md and docs/meters/lorawan-frames.md, apart from the gateway's.
"""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

from standpipe_demo.simulator.meter_frames import mac

PART_BYTES = 34
_NONE = bytes(8)


class TableError(Exception):
    """Bytes came that are no price table."""


def open_table(frame: bytes, key: bytes, serial: str) -> tuple[int, str, bytes] | None:
    """(sequence, currency, table) of the prepaid object's table frame, or None for one that is not for this meter."""
    body, tag = frame[:-16], frame[-16:]
    if len(body) < 9 or body[:2] != b"\x01\x0b":  # noqa: PLR2004 - the page's own numbers.
        return None
    if not hmac.compare_digest(tag, mac(b"standpipe/prepaid/table", body, key, serial)):
        return None
    return int.from_bytes(body[2:6], "big"), body[6:9].decode("ascii", "replace"), body[9:]


def held_frame(report_counter: int, state: Any, key: bytes, serial: str) -> bytes:
    """Return the signed frame of held tables: the prepaid object's resource 8."""
    body = b"\x01\x90" + report_counter.to_bytes(4, "big") + held_ids(state)
    return body + mac(b"standpipe/prepaid/tables-held", body, key, serial)


def held_ids(state: Any) -> bytes:
    """The names of the tables in force and waiting; zeros for none."""
    waiting = bytes.fromhex(state.waiting_table["id"]) if state.waiting_table else _NONE
    return (bytes.fromhex(state.table_id) or _NONE) + waiting


def take_table(state: Any, table: bytes) -> None:
    """Keep a whole table for its instant, in place of one that waits. Raises TableError."""
    active_from_s, blocks = read_table(table)
    name = hashlib.sha256(b"standpipe/prepaid/table-id" + table).hexdigest()[:16]
    state.waiting_table = {"id": name, "from": active_from_s, "blocks": blocks}


def read_table(table: bytes) -> tuple[int, list[list[Any]]]:
    """(from when, blocks as the model prices by). Raises TableError."""
    at, values = 5, []
    while at < len(table):
        value, place = 0, 0
        while True:
            if at >= len(table):
                raise TableError("cut short")
            value |= (table[at] & 127) << place
            at, place = at + 1, place + 7
            if table[at - 1] < 128:  # noqa: PLR2004 - the last byte of a number.
                break
        values.append(value)
    if len(table) < 5 or not table[4] or len(values) != 2 * table[4]:  # noqa: PLR2004 - the head.
        raise TableError("blocks that do not add up")
    bounds, steps = values[::2], values[1::2]
    if bounds[-1] or not all(bounds[:-1]) or bounds[:-1] != sorted(set(bounds[:-1])):
        raise TableError("blocks that do not rise")
    blocks: list[list[Any]] = [
        [bound or None, f"{price // 1_000_000}.{price % 1_000_000:06}"]
        for bound, price in zip(bounds, steps, strict=True)
    ]
    return int.from_bytes(table[:4], "big"), blocks


def due_at(state: Any, now: datetime) -> datetime | None:
    """Return when the waiting table comes into force, if that is not after ``now``."""
    if not state.waiting_table:
        return None
    at = datetime.fromtimestamp(state.waiting_table["from"], UTC)
    return at if at <= now else None


def put_in_force(state: Any) -> None:
    """The waiting table is the one by which it prices from now on."""
    state.prices, state.table_id = state.waiting_table["blocks"], state.waiting_table["id"]
    state.waiting_table = None


def take_part(state: Any, sequence: int, part: int, chunk: bytes) -> bytes | None:
    """One of several parts of a table, kept until all of its number are there; returns the whole then."""
    index, count = part >> 4, part & 15
    kept = state.table_parts
    if kept.get("sequence") != sequence or kept.get("count") != count:
        kept = {"sequence": sequence, "count": count, "chunks": {}}
    kept["chunks"][str(index)] = chunk.hex()
    state.table_parts = kept
    if not count or any(str(number) not in kept["chunks"] for number in range(count)):
        return None
    return b"".join(bytes.fromhex(kept["chunks"][str(number)]) for number in range(count))


def parts_held(state: Any) -> tuple[int, int]:
    """(sequence, bits) of the table that is being collected, or was last."""
    kept = state.table_parts
    return int(kept.get("sequence", 0)), sum(1 << int(number) for number in kept.get("chunks", {}))
