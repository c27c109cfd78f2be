"""A-XDR: COSEM data as bytes (IEC 62056-6-2 §4.1.5, encoding IEC 61334-6). Pure; bounded in depth, items and bytes."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from standpipe.meter_gateway.dlms.cosem_time import CosemTime
from standpipe.meter_gateway.parsing import ParsingError

MAX_DEPTH = 8
MAX_ITEMS = 20_000
MAX_BYTES = 256 * 1024
"""A load profile put together from its blocks; a single frame is far smaller."""
_LENGTH_OCTETS = 4


class Tag(IntEnum):
    """The choices of Data."""

    NULL = 0
    ARRAY = 1
    STRUCTURE = 2
    BOOLEAN = 3
    BIT_STRING = 4
    DOUBLE_LONG = 5
    DOUBLE_LONG_UNSIGNED = 6
    OCTET_STRING = 9
    VISIBLE_STRING = 10
    UTF8_STRING = 12
    BCD = 13
    INTEGER = 15
    LONG = 16
    UNSIGNED = 17
    LONG_UNSIGNED = 18
    COMPACT_ARRAY = 19
    LONG64 = 20
    LONG64_UNSIGNED = 21
    ENUM = 22
    FLOAT32 = 23
    FLOAT64 = 24
    DATE_TIME = 25
    DATE = 26
    TIME = 27
    DELTA_INTEGER = 28
    DELTA_LONG = 29
    DELTA_DOUBLE_LONG = 30
    DELTA_UNSIGNED = 31
    DELTA_LONG_UNSIGNED = 32
    DELTA_DOUBLE_LONG_UNSIGNED = 33


_NUMBERS: dict[Tag, struct.Struct] = {
    tag: struct.Struct(">" + code)
    for tag, code in {
        Tag.DOUBLE_LONG: "i",
        Tag.DOUBLE_LONG_UNSIGNED: "I",
        Tag.INTEGER: "b",
        Tag.LONG: "h",
        Tag.UNSIGNED: "B",
        Tag.LONG_UNSIGNED: "H",
        Tag.LONG64: "q",
        Tag.LONG64_UNSIGNED: "Q",
        Tag.ENUM: "B",
        Tag.FLOAT32: "f",
        Tag.FLOAT64: "d",
        Tag.DELTA_INTEGER: "b",
        Tag.DELTA_LONG: "h",
        Tag.DELTA_DOUBLE_LONG: "i",
        Tag.DELTA_UNSIGNED: "B",
        Tag.DELTA_LONG_UNSIGNED: "H",
        Tag.DELTA_DOUBLE_LONG_UNSIGNED: "I",
    }.items()
}
INTEGERS = frozenset(_NUMBERS) - {Tag.FLOAT32, Tag.FLOAT64}
_FIXED = {Tag.NULL: 0, Tag.BOOLEAN: 1, Tag.BCD: 1, Tag.DATE_TIME: 12, Tag.DATE: 5, Tag.TIME: 4}
_FIXED_BODIES: dict[Tag, Callable[[Any], bytes]] = {
    Tag.NULL: lambda _: b"",
    Tag.BOOLEAN: lambda value: bytes((1 if value else 0,)),
    Tag.BCD: lambda value: bytes((value // 10 << 4 | value % 10,)),
    Tag.DATE_TIME: lambda value: bytes(value.to_bytes()),
}
_LISTS = (Tag.ARRAY, Tag.STRUCTURE, Tag.COMPACT_ARRAY)


@dataclass(frozen=True, slots=True)
class Data:
    """A value with its type.

    Held as: lists as tuples of Data; strings of octets, dates and times as bytes; texts as str; a bit-string as a str
    of 0 and 1; BCD as its two digits' number; a date-time as CosemTime; null as None; all else as the number it is.
    """

    tag: Tag
    value: Any = None

    def to_bytes(self) -> bytes:
        """Raises ValueError for a value that its type cannot hold: that is a mistake of ours, not of a peer."""
        return bytes((self.tag,)) + _body(self)

    @property
    def items(self) -> tuple["Data", ...]:
        """The elements. Raises ParsingError for what is no array or structure."""
        if self.tag not in _LISTS:
            raise ParsingError(f"{self.tag.name} where a list belongs")
        found: tuple[Data, ...] = self.value
        return found

    @property
    def integer(self) -> int:
        """The number. Raises ParsingError for what is no whole number."""
        if self.tag not in INTEGERS:
            raise ParsingError(f"{self.tag.name} where a whole number belongs")
        return int(self.value)

    @property
    def octets(self) -> bytes:
        """The octets of a string of them. Raises ParsingError for anything else."""
        if self.tag is not Tag.OCTET_STRING:
            raise ParsingError(f"{self.tag.name} where an octet-string belongs")
        return bytes(self.value)


NULL = Data(Tag.NULL)


def structure(*items: Data) -> Data:
    """A structure of these."""
    return Data(Tag.STRUCTURE, items)


def array(*items: Data) -> Data:
    """An array of these."""
    return Data(Tag.ARRAY, items)


def octets(value: bytes) -> Data:
    """An octet-string."""
    return Data(Tag.OCTET_STRING, value)


def decode(payload: bytes) -> Data:
    """The one value that fills ``payload``. Raises ParsingError."""
    value, end = decode_from(payload, 0)
    if end != len(payload):
        raise ParsingError(f"{len(payload) - end} bytes after the end of the data")
    return value


def decode_from(payload: bytes, offset: int) -> tuple[Data, int]:
    """The value that begins at ``offset``, and where it ends. Raises ParsingError."""
    if len(payload) > MAX_BYTES:
        raise ParsingError("more data than any meter's answer holds")
    reader = Reader(payload, offset)
    return reader.data(0), reader.offset


class Reader:
    """Walks over bytes that may lie about what follows. Every method raises ParsingError."""

    def __init__(self, payload: bytes, offset: int = 0) -> None:
        self.payload, self.offset, self._items = payload, offset, 0

    def take(self, size: int) -> bytes:
        """The next octets. Raises ParsingError."""
        end = self.offset + size
        if end > len(self.payload):
            raise ParsingError("cut short")
        taken = self.payload[self.offset : end]
        self.offset = end
        return bytes(taken)

    def byte(self) -> int:
        """The next octet."""
        return self.take(1)[0]

    def length(self) -> int:
        """A length or count: one octet, or their number with the top bit set and then so many. Raises ParsingError."""
        first = self.byte()
        if first < 0x80:  # noqa: PLR2004 - the top bit.
            return first
        size = first & 0x7F
        if not 1 <= size <= _LENGTH_OCTETS:
            raise ParsingError(f"a length of {size} octets")
        return int.from_bytes(self.take(size), "big")

    def data(self, depth: int) -> Data:
        """A tagged value."""
        tag = self._tag()
        return self.value(tag, depth)

    def value(self, tag: Tag, depth: int) -> Data:
        """A value whose tag is known. Raises ParsingError."""
        self._count_item()
        if tag in _NUMBERS:
            layout = _NUMBERS[tag]
            return Data(tag, layout.unpack(self.take(layout.size))[0])
        if tag in _LISTS:
            if depth >= MAX_DEPTH:
                raise ParsingError("data nested too deep")
            if tag is Tag.COMPACT_ARRAY:
                return Data(tag, self._compact(depth + 1))
            count = self.length()
            if count > MAX_ITEMS:
                raise ParsingError("a list of unreasonable length")
            return Data(tag, tuple(self.data(depth + 1) for _ in range(count)))
        return Data(tag, self._simple(tag))

    def _simple(self, tag: Tag) -> Any:
        fixed: dict[Tag, Callable[[], Any]] = {
            Tag.NULL: lambda: None,
            Tag.BOOLEAN: lambda: self.byte() != 0,
            Tag.BCD: lambda: _bcd(self.byte()),
            Tag.DATE_TIME: lambda: CosemTime.from_bytes(self.take(12)),
            Tag.DATE: lambda: self.take(5),
            Tag.TIME: lambda: self.take(4),
        }
        if tag in fixed:
            return fixed[tag]()
        size = self.length()
        if tag is Tag.BIT_STRING:
            return _bits(self.take(-(-size // 8)), size)
        content = self.take(size)
        if tag is Tag.OCTET_STRING:
            return content
        try:
            return content.decode("ascii" if tag is Tag.VISIBLE_STRING else "utf-8")
        except UnicodeDecodeError as error:
            raise ParsingError(f"{tag.name} that is none") from error

    def _compact(self, depth: int) -> tuple[Data, ...]:
        """A compact array: one description of the type, then the contents without their tags."""
        read = self._description(depth)
        end = self.length() + self.offset
        if end > len(self.payload):
            raise ParsingError("cut short")
        items: list[Data] = []
        while self.offset < end:
            before = self.offset
            items.append(read())
            if self.offset == before:
                raise ParsingError("a compact array of nothing")
        if self.offset != end:
            raise ParsingError("a compact array whose contents do not fit")
        return tuple(items)

    def _description(self, depth: int) -> Callable[[], Data]:
        """Parse how to read one element of the type that is described here."""
        if depth > MAX_DEPTH:
            raise ParsingError("a type nested too deep")
        self._count_item()
        tag = self._tag()
        if tag is Tag.ARRAY:
            count, read = int.from_bytes(self.take(2), "big"), self._description(depth + 1)
            return lambda: self._list(Tag.ARRAY, [read] * min(count, MAX_ITEMS))
        if tag is Tag.STRUCTURE:
            reads = [self._description(depth + 1) for _ in range(min(self.length(), MAX_ITEMS))]
            return lambda: self._list(Tag.STRUCTURE, reads)
        if tag is Tag.COMPACT_ARRAY:
            raise ParsingError("a compact array within another")
        return lambda: self.value(tag, depth)

    def _list(self, tag: Tag, reads: list[Callable[[], Data]]) -> Data:
        self._count_item()
        return Data(tag, tuple(read() for read in reads))

    def _tag(self) -> Tag:
        number = self.byte()
        try:
            return Tag(number)
        except ValueError:
            raise ParsingError(f"no data type has the tag {number}") from None

    def _count_item(self) -> None:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise ParsingError("more items than any meter's answer holds")


def length(size: int) -> bytes:
    """A length or count as it travels."""
    if size < 0x80:  # noqa: PLR2004 - the top bit.
        return bytes((size,))
    packed = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(packed),)) + packed


def _body(data: Data) -> bytes:
    tag, value = data.tag, data.value
    if tag in _NUMBERS:
        return _pack(_NUMBERS[tag], value)
    if tag is Tag.COMPACT_ARRAY:
        contents = b"".join(_bare(item) for item in value)
        if value and not contents:
            raise ValueError("a compact array of nothing")
        return _described(value) + length(len(contents)) + contents
    if tag in _LISTS:
        return length(len(value)) + b"".join(item.to_bytes() for item in value)
    return _simple_body(tag, value)


def _simple_body(tag: Tag, value: Any) -> bytes:
    if tag in _FIXED:
        body = _FIXED_BODIES.get(tag, bytes)(value)
        if len(body) != _FIXED[tag]:
            raise ValueError(f"{tag.name} of {len(body)} octets")
        return body
    if tag is Tag.BIT_STRING:
        padded = value.ljust(-(-len(value) // 8) * 8, "0")
        return length(len(value)) + bytes(int(padded[at : at + 8], 2) for at in range(0, len(padded), 8))
    content = value if tag is Tag.OCTET_STRING else value.encode("ascii" if tag is Tag.VISIBLE_STRING else "utf-8")
    return length(len(content)) + bytes(content)


def _pack(layout: struct.Struct, value: Any) -> bytes:
    try:
        return layout.pack(value)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{value} does not fit its type") from error


def _described(items: tuple[Data, ...]) -> bytes:
    """The type description of a compact array; its elements must all be of one shape."""
    shapes = {_shape(item) for item in items}
    if len(shapes) > 1:
        raise ValueError("a compact array holds elements of one shape")
    return shapes.pop() if shapes else bytes((Tag.NULL,))


def _shape(item: Data) -> bytes:
    if item.tag is Tag.ARRAY:
        return bytes((item.tag,)) + len(item.value).to_bytes(2, "big") + _described(item.value)
    if item.tag is Tag.STRUCTURE:
        return bytes((item.tag,)) + length(len(item.value)) + b"".join(_shape(part) for part in item.value)
    if item.tag is Tag.COMPACT_ARRAY:
        raise ValueError("a compact array within another")
    return bytes((item.tag,))


def _bare(item: Data) -> bytes:
    if item.tag in (Tag.ARRAY, Tag.STRUCTURE):
        return b"".join(_bare(part) for part in item.value)
    return _body(item)


def _bcd(octet: int) -> int:
    high, low = octet >> 4, octet & 0xF
    if max(high, low) > 9:  # noqa: PLR2004 - the last digit.
        raise ParsingError("BCD with a digit above nine")
    return high * 10 + low


def _bits(packed: bytes, size: int) -> str:
    return "".join(f"{octet:08b}" for octet in packed)[:size]
