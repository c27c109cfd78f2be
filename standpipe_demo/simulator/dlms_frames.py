"""A DLMS meter's bytes, from the meter's side: data, APDUs, ciphering. Written apart from the gateway, on purpose.

Values are pairs of a type's name and what it holds, e.g. ``("u32", 7)`` or
``("structure", [("i8", -3), ("enum", 13)])``.
"""

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Value = tuple[str, Any]
TAGS = {
    "null": 0,
    "array": 1,
    "structure": 2,
    "bool": 3,
    "bits": 4,
    "i32": 5,
    "u32": 6,
    "octets": 9,
    "text": 10,
    "utf8": 12,
    "i8": 15,
    "i16": 16,
    "u8": 17,
    "u16": 18,
    "i64": 20,
    "u64": 21,
    "enum": 22,
}
_NAMES = {number: name for name, number in TAGS.items()}
_FORMATS = {
    "bool": ">?",
    "i32": ">i",
    "u32": ">I",
    "i8": ">b",
    "i16": ">h",
    "u8": ">B",
    "u16": ">H",
    "i64": ">q",
    "u64": ">Q",
    "enum": ">B",
}
_GLO = {0xC0: 0xC8, 0xC1: 0xC9, 0xC3: 0xCB, 0xC4: 0xCC, 0xC5: 0xCD, 0xC7: 0xCF, 0x01: 0x21, 0x08: 0x28}
_CLEAR = {glo: clear for clear, glo in _GLO.items()}
TAG_BYTES = 12


class FrameError(Exception):
    """Bytes came that a meter does not understand."""


def size_of(count: int) -> bytes:
    """A length field."""
    if count <= 0x7F:  # noqa: PLR2004 - short form.
        return bytes([count])
    return b"\x82" + count.to_bytes(2, "big")


def take_size(raw: bytes, at: int) -> tuple[int, int]:
    """A length field, and where it ends."""
    first = raw[at]
    if first <= 0x7F:  # noqa: PLR2004 - short form.
        return first, at + 1
    width = first & 0x7F
    return int.from_bytes(raw[at + 1 : at + 1 + width], "big"), at + 1 + width


def encode(value: Value) -> bytes:
    """A value as bytes."""
    kind, content = value
    head = bytes([TAGS[kind]])
    if kind in _FORMATS:
        return head + struct.pack(_FORMATS[kind], content)
    if kind == "null":
        return head
    if kind in {"array", "structure"}:
        return head + size_of(len(content)) + b"".join(encode(item) for item in content)
    if kind == "bits":
        whole = content + "0" * (-len(content) % 8)
        return head + size_of(len(content)) + int("0" + whole, 2).to_bytes(len(whole) // 8, "big")
    raw = bytes(content) if kind == "octets" else str(content).encode()
    return head + size_of(len(raw)) + raw


def decode(raw: bytes, at: int = 0) -> tuple[Value, int]:
    """A value, and where it ends. Raises FrameError."""
    try:
        kind = _NAMES[raw[at]]
        at += 1
        if kind in _FORMATS:
            layout = struct.Struct(_FORMATS[kind])
            return (kind, layout.unpack_from(raw, at)[0]), at + layout.size
        if kind == "null":
            return (kind, None), at
        count, at = take_size(raw, at)
        if kind in {"array", "structure"}:
            items = []
            for _ in range(count):
                item, at = decode(raw, at)
                items.append(item)
            return (kind, items), at
        if kind == "bits":
            return (kind, raw[at : at + -(-count // 8)]), at + -(-count // 8)
        content = raw[at : at + count]
        return (kind, content if kind == "octets" else content.decode()), at + count
    except (KeyError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise FrameError(str(error)) from error


def clock_octets(at: datetime) -> bytes:
    """A date-time of twelve octets, in UTC."""
    at = at.astimezone(UTC)
    day = struct.pack(">HBBB", at.year, at.month, at.day, at.isoweekday())
    return day + struct.pack(">BBBBhB", at.hour, at.minute, at.second, at.microsecond // 10_000, 0, 0)


def clock_of(raw: bytes) -> datetime:
    """The instant that twelve octets tell. Raises FrameError."""
    try:
        year, month, day, _, hour, minute, second, _, deviation, _ = struct.unpack(">HBBBBBBBhB", raw)
        at = datetime(year, month, day, hour, minute, 0 if second == 255 else second, tzinfo=UTC)  # noqa: PLR2004
    except (struct.error, ValueError) as error:
        raise FrameError(str(error)) from error
    return at + timedelta(minutes=0 if deviation == -32768 else deviation)  # noqa: PLR2004 - unspecified.


def wrap(client: int, server: int, apdu: bytes) -> bytes:
    """An APDU from the meter in the TCP wrapper."""
    return struct.pack(">HHHH", 1, server, client, len(apdu)) + apdu


class Cryptographer:
    """Suite 0 with one meter's keys."""

    def __init__(self, encryption_key: bytes, authentication_key: bytes) -> None:
        self._key, self._authentication_key = encryption_key, authentication_key

    def seal(self, title: bytes, counter: int, apdu: bytes) -> bytes:
        """Security control 0x30, counter, ciphertext, tag."""
        stamp = struct.pack(">I", counter)
        cipher = Cipher(algorithms.AES(self._key), modes.GCM(title + stamp)).encryptor()
        cipher.authenticate_additional_data(b"\x30" + self._authentication_key)
        body = cipher.update(apdu) + cipher.finalize()
        return b"\x30" + stamp + body + cipher.tag[:TAG_BYTES]

    def open(self, title: bytes, sealed: bytes) -> tuple[int, bytes]:
        """Counter and APDU. Raises FrameError."""
        if len(sealed) < 5 + TAG_BYTES or sealed[0] != 0x30:  # noqa: PLR2004
            raise FrameError("not ciphered as it should be")
        stamp, body, tag = sealed[1:5], sealed[5:-TAG_BYTES], sealed[-TAG_BYTES:]
        cipher = Cipher(algorithms.AES(self._key), modes.GCM(title + stamp, tag, min_tag_length=TAG_BYTES)).decryptor()
        cipher.authenticate_additional_data(b"\x30" + self._authentication_key)
        try:
            apdu = cipher.update(body) + cipher.finalize()
        except InvalidTag as error:
            raise FrameError("wrong key or altered") from error
        return int.from_bytes(stamp, "big"), apdu

    def gmac(self, title: bytes, counter: int, challenge: bytes) -> bytes:
        """The answer to a challenge."""
        stamp = struct.pack(">I", counter)
        cipher = Cipher(algorithms.AES(self._key), modes.GCM(title + stamp)).encryptor()
        cipher.authenticate_additional_data(b"\x10" + self._authentication_key + challenge)
        cipher.finalize()
        return b"\x10" + stamp + cipher.tag[:TAG_BYTES]

    def seal_apdu(self, title: bytes, counter: int, apdu: bytes) -> bytes:
        """With the tag of its ciphered form."""
        sealed = self.seal(title, counter, apdu)
        return bytes([_GLO[apdu[0]]]) + size_of(len(sealed)) + sealed

    def open_apdu(self, title: bytes, apdu: bytes) -> tuple[int, bytes]:
        """Counter and APDU in clear. Raises FrameError."""
        if apdu[0] not in _CLEAR:
            raise FrameError("no ciphered APDU")
        size, at = take_size(apdu, 1)
        counter, clear = self.open(title, apdu[at : at + size])
        if not clear or clear[0] != _CLEAR[apdu[0]]:
            raise FrameError("another APDU inside than outside")
        return counter, clear

    def seal_push(self, title: bytes, counter: int, apdu: bytes) -> bytes:
        """General global ciphering, which names its sender."""
        sealed = self.seal(title, counter, apdu)
        return b"\xdb" + size_of(len(title)) + title + size_of(len(sealed)) + sealed


def ber_fields(raw: bytes) -> dict[int, bytes]:
    """The fields of an AARQ. Raises FrameError."""
    fields = {}
    try:
        size, at = take_size(raw, 1)
        end = at + size
        while at < end:
            tag = raw[at]
            size, at = take_size(raw, at + 1)
            fields[tag] = raw[at : at + size]
            at += size
    except IndexError as error:
        raise FrameError("an AARQ cut short") from error
    return fields


def ber(tag: int, content: bytes) -> bytes:
    """One field."""
    return bytes([tag]) + size_of(len(content)) + content


def association_answer(
    *, context: int, accepted: bool, diagnostic: int, mechanism: int, title: bytes, challenge: bytes, initiate: bytes
) -> bytes:
    """An AARE."""
    oid = bytes.fromhex("6085740508")
    body = ber(0xA1, ber(0x06, oid + bytes([1, context])))
    body += ber(0xA2, ber(0x02, bytes([0 if accepted else 1])))
    body += ber(0xA3, ber(0xA1, ber(0x02, bytes([diagnostic]))))
    if context == 3:  # noqa: PLR2004 - with ciphering.
        body += ber(0xA4, ber(0x04, title))
    if mechanism:
        body += b"\x88\x02\x07\x80" + ber(0x89, oid + bytes([2, mechanism]))
    if challenge:
        body += ber(0xAA, ber(0x80, challenge))
    return ber(0x61, body + ber(0xBE, ber(0x04, initiate)))
