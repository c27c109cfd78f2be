"""SenML (RFC 8428): CBOR (content format 112) and JSON (110) packs into plain records. Pure and bounded.

LwM2M splits names between base name and name as each client likes; here they come out joined. Times may be absolute
or relative to the pack's arrival (RFC 8428 §4.5.3: below 2**28 seconds they are relative).
"""

import io
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import cbor2

from standpipe.meter_gateway.parsing import ParsingError

CBOR_FORMAT = 112
JSON_FORMAT = 110
MAX_RECORDS = 5_000
MAX_BYTES = 64 * 1024
MAX_INTEGER_BITS = 128
RELATIVE_BELOW_S = 2**28

# RFC 8428 §6, table 4: CBOR labels of the fields that LwM2M uses.
_LABELS = {-2: "bn", -3: "bt", -5: "bv", 0: "n", 2: "v", 3: "vs", 4: "vb", 6: "t", 8: "vd"}


@dataclass(frozen=True, slots=True)
class Record:
    """A resolved record: full path, time in Unix seconds (None: now), and its value; numbers are exact decimals."""

    name: str
    time_s: Decimal | None
    value: Decimal | str | bool | bytes | None


def decode(payload: bytes, content_format: int) -> tuple[Record, ...]:
    """The records of a pack. Raises ParsingError for anything that is not SenML within bounds."""
    if len(payload) > MAX_BYTES:
        raise ParsingError("SenML pack too large")
    items = _cbor(payload) if content_format == CBOR_FORMAT else _json(payload)
    if not isinstance(items, list) or len(items) > MAX_RECORDS:
        raise ParsingError("a SenML pack is a list of records, within bounds")
    base_name, base_time, base_value = "", Decimal(0), Decimal(0)
    records: list[Record] = []
    for item in items:
        if not isinstance(item, dict):
            raise ParsingError("a SenML record is a map")
        fields = {_LABELS.get(key, key) if isinstance(key, int) else key: value for key, value in item.items()}
        base_name = _text(fields["bn"]) if "bn" in fields else base_name
        base_time = _number(fields["bt"]) if "bt" in fields else base_time
        base_value = _number(fields["bv"]) if "bv" in fields else base_value
        name = base_name + (_text(fields["n"]) if "n" in fields else "")
        time_s = base_time + (_number(fields["t"]) if "t" in fields else 0)
        records.append(Record(name, time_s or None, _value(fields, base_value)))
    return tuple(records)


def _cbor(payload: bytes) -> Any:
    stream = io.BytesIO(payload)
    try:
        items = cbor2.load(stream)
    except (cbor2.CBORError, ValueError, OverflowError, RecursionError, MemoryError, TypeError) as error:
        raise ParsingError(f"not CBOR: {type(error).__name__}") from error
    if stream.tell() != len(payload):
        raise ParsingError("bytes after the end of the CBOR item")
    return items


def _json(payload: bytes) -> Any:
    try:
        return json.loads(payload, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise ParsingError("not JSON") from error


def _value(fields: dict[Any, Any], base_value: Decimal) -> Decimal | str | bool | bytes | None:
    if "v" in fields:
        return base_value + _number(fields["v"])
    for key, kinds in (("vb", bool), ("vs", str), ("vd", (bytes, str))):
        if key in fields:
            value: str | bool | bytes = fields[key]
            if not isinstance(value, kinds):
                raise ParsingError(f"{key} of the wrong type")
            return value
    return None


def _number(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ParsingError("not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ParsingError("not a finite number")
    # Before it becomes a Decimal: the time that this takes grows with the square of a bignum's length.
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise ParsingError("a number out of all proportion")
    number = exact(value) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > 30:  # noqa: PLR2004 - far beyond any meter's reach.
        raise ParsingError("a number out of all proportion")
    return number


def exact(value: float) -> Decimal:
    """The shortest decimal that means this float: 12.345 stays 12.345."""
    return Decimal(repr(value))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 255:  # noqa: PLR2004 - longer than any LwM2M path.
        raise ParsingError("a name of the wrong type or length")
    return value
