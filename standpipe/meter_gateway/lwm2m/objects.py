"""Words of a meter about its LwM2M objects, in whichever format, as one kind of record. Pure.

TLV and plain text carry no types: those of the resources that we read stand here, from the OMA registry (objects
3 1.1, 4 1.3, 3411 1.0, 3424 1.1, 3425 1.1, 10272–10275 1.0). What is not in the table is left aside.
"""

import re
from decimal import Decimal, InvalidOperation

from standpipe.meter_gateway.lwm2m import senml, tlv
from standpipe.meter_gateway.lwm2m.senml import Record
from standpipe.meter_gateway.parsing import ParsingError

PLAIN_TEXT = 0
FORMATS = frozenset({PLAIN_TEXT, senml.CBOR_FORMAT, senml.JSON_FORMAT, tlv.CONTENT_FORMAT})
_FLOAT, _INTEGER, _BOOLEAN, _TEXT = range(4)
_ALARM_STATE = 6013
_TYPES = {
    ("3", 3): _TEXT,
    ("3", 9): _INTEGER,
    ("3", 11): _INTEGER,
    ("4", 2): _INTEGER,
    ("3411", 1): _INTEGER,
    ("3411", 6): _BOOLEAN,
    ("3424", 1): _FLOAT,
    ("3424", 8): _FLOAT,
    **{("3424", resource): _BOOLEAN for resource in range(9, 14)},
    ("3424", 5518): _INTEGER,
    ("3425", 2): _INTEGER,
    **{(str(alarm), _ALARM_STATE): _BOOLEAN for alarm in range(10272, 10276)},
}
_RESOURCE = re.compile(r"/(\d{1,5})/(\d{1,5})/(\d{1,5})")
_NUMBER = re.compile(rb"-?\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,2})?")


def decode(payload: bytes, content_format: int, path: str) -> tuple[Record, ...]:
    """The records in what was read at ``path``, or sent. Raises ParsingError."""
    if content_format in (senml.CBOR_FORMAT, senml.JSON_FORMAT):
        return senml.decode(payload, content_format)
    if content_format == tlv.CONTENT_FORMAT:
        return tuple(_of_tlv(tlv.decode(payload), [part for part in path.split("/") if part]))
    if content_format == PLAIN_TEXT:
        return _of_text(payload, path)
    raise ParsingError(f"content format {content_format} is none that we read")


def _of_tlv(entries: tuple[tlv.Entry, ...], path: list[str]) -> list[Record]:
    records: list[Record] = []
    for entry in entries:
        if entry.kind == tlv.OBJECT_INSTANCE:
            # Within what was read of one instance a client may wrap it once more.
            records += _of_tlv(entry.children, [path[0], str(entry.id)] if path else [])
        elif entry.kind == tlv.RESOURCE and len(path) >= 2:  # noqa: PLR2004 - an instance's path.
            kind = _TYPES.get((path[0], entry.id))
            if kind is not None:
                records.append(Record(f"/{path[0]}/{path[1]}/{entry.id}", None, _value(kind, entry.value)))
        elif entry.kind == tlv.MULTIPLE_RESOURCE and len(path) >= 2:  # noqa: PLR2004 - an instance's path.
            kind = _TYPES.get((path[0], entry.id))
            records += [
                Record(f"/{path[0]}/{path[1]}/{entry.id}/{child.id}", None, _value(kind, child.value))
                for child in entry.children
                if kind is not None
            ]
    return records


def _value(kind: int, raw: bytes) -> Decimal | bool | str:
    if kind == _TEXT:
        return raw.decode("utf-8", "replace")
    if kind == _FLOAT:
        return senml.exact(tlv.number(raw))
    number = tlv.integer(raw)
    return bool(number) if kind == _BOOLEAN else Decimal(number)


def _of_text(payload: bytes, path: str) -> tuple[Record, ...]:
    match = _RESOURCE.fullmatch(path)
    kind = _TYPES.get((match[1], int(match[3]))) if match else None
    if kind == _TEXT:
        return (Record(path, None, payload.decode("utf-8", "replace")),)
    text = payload.strip()
    if kind is None or not _NUMBER.fullmatch(text):
        raise ParsingError("plain text that is no number of a resource we know")
    try:
        number = Decimal(text.decode("ascii"))
    except InvalidOperation as error:
        raise ParsingError("not a number") from error
    return (Record(path, None, number != 0 if kind == _BOOLEAN else number),)
