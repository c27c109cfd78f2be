"""xDLMS services that we use: GET, SET, ACTION, DataNotification (IEC 62056-5-3 §7.3). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from standpipe.meter_gateway.dlms.axdr import NULL, Data, Reader, Tag, array, decode, octets, structure
from standpipe.meter_gateway.dlms.cosem_time import CosemTime
from standpipe.meter_gateway.parsing import ParsingError

GET_REQUEST, SET_REQUEST, ACTION_REQUEST = 0xC0, 0xC1, 0xC3
GET_RESPONSE, SET_RESPONSE, ACTION_RESPONSE = 0xC4, 0xC5, 0xC7
DATA_NOTIFICATION, CONFIRMED_SERVICE_ERROR, EXCEPTION_RESPONSE = 0x0F, 0x0E, 0xD8
_NORMAL, _NEXT, _BLOCK, _LIST = 1, 2, 2, 3
MAX_LISTED = 16
_CONFIRMED_HIGH = 0xC0
"""Invoke-id-and-priority: confirmed service, high priority; the low four bits number the request."""


class Access(IntEnum):
    """Data-access and action results that we tell apart; any other is a refusal by its number."""

    SUCCESS = 0
    HARDWARE_FAULT = 1
    TEMPORARY_FAILURE = 2
    READ_WRITE_DENIED = 3
    OBJECT_UNDEFINED = 4
    TYPE_UNMATCHED = 12
    OTHER_REASON = 250


IN_DOUBT = frozenset({Access.HARDWARE_FAULT, Access.TEMPORARY_FAILURE})
"""Refusals after which asking again later may help."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute, or method, of one object; ``obis`` as in ``8.0.1.0.0.255``."""

    class_id: int
    obis: str
    index: int

    def to_bytes(self) -> bytes:
        """The cosem-attribute-descriptor."""
        return self.class_id.to_bytes(2, "big") + obis_bytes(self.obis) + bytes((self.index,))

    def __str__(self) -> str:
        return f"{self.obis}[{self.class_id}:{self.index}]"


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a long answer."""

    number: int
    is_last: bool
    raw: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A meter's answer. ``result`` 0 is success; ``data`` what came with it."""

    service: int
    invoke_id: int
    result: int
    data: Data | None = None
    block: Block | None = None
    listed: tuple[Data | int, ...] = ()
    """The answers to a list of attributes: a value, or the result by which it was refused."""


@dataclass(frozen=True, slots=True)
class ExceptionResponse:
    """The meter could not make sense of a request, or its security refused it (service-error 4 to 6)."""

    state_error: int
    service_error: int


@dataclass(frozen=True, slots=True)
class Notification:
    """A push of a meter, sent unasked."""

    invoke_id: int
    sent_at: CosemTime | None
    body: Data


def obis_bytes(obis: str) -> bytes:
    """Raises ValueError for what is no OBIS code of six numbers."""
    return bytes(int(part) for part in obis.split("."))


def get_request(invoke_id: int, attribute: Attribute, selection: tuple[int, Data] | None = None) -> bytes:
    """``selection``: the selector, and its parameters."""
    head = bytes((GET_REQUEST, _NORMAL, _CONFIRMED_HIGH | invoke_id)) + attribute.to_bytes()
    return head + (b"\0" if selection is None else bytes((1, selection[0])) + selection[1].to_bytes())


def get_next_request(invoke_id: int, block_number: int) -> bytes:
    """Ask for the block after ``block_number``."""
    return bytes((GET_REQUEST, _NEXT, _CONFIRMED_HIGH | invoke_id)) + block_number.to_bytes(4, "big")


def get_list_request(invoke_id: int, attributes: Sequence[Attribute]) -> bytes:
    """Ask for several attributes at once."""
    head = bytes((GET_REQUEST, _LIST, _CONFIRMED_HIGH | invoke_id, len(attributes)))
    return head + b"".join(attribute.to_bytes() + b"\0" for attribute in attributes)


def set_request(invoke_id: int, attribute: Attribute, value: Data) -> bytes:
    """Write an attribute."""
    head = bytes((SET_REQUEST, _NORMAL, _CONFIRMED_HIGH | invoke_id)) + attribute.to_bytes()
    return head + b"\0" + value.to_bytes()


def action_request(invoke_id: int, method: Attribute, value: Data) -> bytes:
    """Call a method."""
    head = bytes((ACTION_REQUEST, _NORMAL, _CONFIRMED_HIGH | invoke_id)) + method.to_bytes()
    return head + b"\1" + value.to_bytes()


def by_range(column_class: int, column_obis: str, from_time: CosemTime, to_time: CosemTime) -> tuple[int, Data]:
    """Selective access by range (selector 1) on a clock column, both ends included (IEC 62056-6-2 §4.3.6)."""
    column = structure(
        Data(Tag.LONG_UNSIGNED, column_class),
        octets(obis_bytes(column_obis)),
        Data(Tag.INTEGER, 2),
        Data(Tag.LONG_UNSIGNED, 0),
    )
    return 1, structure(column, octets(from_time.to_bytes()), octets(to_time.to_bytes()), array())


def parse_answer(apdu: bytes) -> Response | ExceptionResponse:
    """An answer in clear. Raises ParsingError."""
    reader = Reader(apdu)
    service = reader.byte()
    if service == EXCEPTION_RESPONSE:
        return ExceptionResponse(reader.byte(), reader.byte())
    if service == CONFIRMED_SERVICE_ERROR:
        return ExceptionResponse(reader.byte(), reader.byte())
    if service not in (GET_RESPONSE, SET_RESPONSE, ACTION_RESPONSE):
        raise ParsingError(f"no answer begins with {service:#04x}")
    kind, invoke_id = reader.byte(), reader.byte() & 0x0F
    if service == GET_RESPONSE:
        return _get_response(reader, kind, invoke_id)
    if kind != _NORMAL:
        raise ParsingError("an answer of another kind than asked for")
    result, data = reader.byte(), None
    if service == SET_RESPONSE:
        return _ended(reader, Response(service, invoke_id, result))
    # The octet that says whether anything is returned is left out by some meters.
    if reader.offset < len(apdu) and reader.byte():
        error, data = _data_or_error(reader)
        result = result or error
    return _ended(reader, Response(service, invoke_id, result, data))


def parse_notification(apdu: bytes) -> Notification:
    """A DataNotification in clear. Raises ParsingError."""
    reader = Reader(apdu)
    if reader.byte() != DATA_NOTIFICATION:
        raise ParsingError("no DataNotification")
    invoke_id = int.from_bytes(reader.take(4), "big") & 0xFF_FFFF
    stamp = reader.take(reader.length())
    return Notification(invoke_id, CosemTime.from_bytes(stamp) if stamp else None, decode(apdu[reader.offset :]))


def _data_or_error(reader: Reader) -> tuple[int, Data | None]:
    choice = reader.byte()
    if choice == 0:
        return Access.SUCCESS, reader.data(0)
    if choice == 1:
        return reader.byte() or Access.OTHER_REASON, None
    raise ParsingError("neither data nor an error")


def _get_response(reader: Reader, kind: int, invoke_id: int) -> Response:
    if kind == _BLOCK:
        return _block(reader, invoke_id)
    if kind == _LIST:
        return _list(reader, invoke_id)
    if kind != _NORMAL:
        raise ParsingError("an answer of another kind than asked for")
    result, data = _data_or_error(reader)
    return _ended(reader, Response(GET_RESPONSE, invoke_id, result, data))


def _block(reader: Reader, invoke_id: int) -> Response:
    is_last, number = bool(reader.byte()), int.from_bytes(reader.take(4), "big")
    if reader.byte():
        return _ended(reader, Response(GET_RESPONSE, invoke_id, reader.byte() or Access.OTHER_REASON))
    raw = reader.take(reader.length())
    return _ended(reader, Response(GET_RESPONSE, invoke_id, Access.SUCCESS, NULL, Block(number, is_last, raw)))


def _list(reader: Reader, invoke_id: int) -> Response:
    count = reader.length()
    if count > MAX_LISTED:
        raise ParsingError("more answers than were asked for")
    listed: list[Data | int] = []
    for _ in range(count):
        result, data = _data_or_error(reader)
        listed.append(result if data is None else data)
    return _ended(reader, Response(GET_RESPONSE, invoke_id, Access.SUCCESS, NULL, listed=tuple(listed)))


def _ended(reader: Reader, response: Response) -> Response:
    if reader.offset != len(reader.payload):
        raise ParsingError("bytes after the end of the answer")
    return response
