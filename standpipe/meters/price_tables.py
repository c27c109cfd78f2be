"""A price table as meters of ours hold it, and the id by which they name it. Pure.

Layout: docs/lwm2m/prepaid-frames.md.
"""

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from standpipe.platform.errors import InvalidInputError

STEPS_PER_MINOR = 1_000_000
"""Prices travel as whole steps of a millionth of a minor unit per kilolitre."""
MAX_BLOCKS = 64
MAX_VALUE = 2**63 - 1
MAX_TIME_S = 2**32 - 1
ID_BYTES = 8
_ID_LABEL = b"standpipe/prepaid/table-id"


@dataclass(frozen=True, slots=True)
class MeterTable:
    """Blocks as (up to ml or None, minor units per kilolitre), and from when they hold, Unix seconds."""

    blocks: tuple[tuple[int | None, Decimal], ...]
    active_from_s: int

    def to_bytes(self) -> bytes:
        """Encode it for the wire. Raises InvalidInputError for what no meter of ours can hold exactly."""
        if not 0 < len(self.blocks) <= MAX_BLOCKS or not 0 <= self.active_from_s <= MAX_TIME_S:
            raise InvalidInputError("A price table without blocks, with too many, or from a day that no meter knows.")
        packed = self.active_from_s.to_bytes(4, "big") + bytes((len(self.blocks),))
        for up_to_ml, price in self.blocks:
            steps = price * STEPS_PER_MINOR
            if steps != steps.to_integral_value() or not 0 <= steps <= MAX_VALUE or (up_to_ml or 0) > MAX_VALUE:
                raise InvalidInputError(f"A price of {price} per kilolitre is finer or greater than meters can hold.")
            packed += varint(up_to_ml or 0) + varint(int(steps))
        return packed

    @property
    def id(self) -> str:
        """The first eight bytes of SHA-256 over a label and the table's bytes, in hex: its instant is part of it."""
        return hashlib.sha256(_ID_LABEL + self.to_bytes()).digest()[:ID_BYTES].hex()

    def to_body(self) -> dict[str, Any]:
        """Turn it into a command's body."""
        blocks = [[up_to_ml, str(price)] for up_to_ml, price in self.blocks]
        return {"id": self.id, "from": self.active_from_s, "blocks": blocks}

    @classmethod
    def from_body(cls, body: dict[str, Any] | None) -> "MeterTable":
        """Out of a command. Raises ValueError for one that holds no table."""
        if not body or "blocks" not in body:
            raise ValueError("a command without a price table")
        return cls(tuple((up_to_ml, Decimal(price)) for up_to_ml, price in body["blocks"]), int(body["from"]))


def varint(value: int) -> bytes:
    """Unsigned LEB128: seven bits a byte, lowest first."""
    parts = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits.
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
