"""Opening and closing an association: AARQ, AARE, RLRQ in BER (IEC 62056-5-3 §7.2.4, §7.3.1). Pure."""

from dataclasses import dataclass
from enum import StrEnum

from standpipe.meter_gateway.dlms.axdr import Reader, length
from standpipe.meter_gateway.parsing import ParsingError

AARQ, AARE, RLRQ, RLRE = 0x60, 0x61, 0x62, 0x63
RELEASE = bytes((RLRQ, 3, 0x80, 1, 0))
"""RLRQ, reason: normal."""
MAX_FIELDS = 16
_OID = bytes((0x60, 0x85, 0x74, 0x05, 0x08))
"""Joint-iso-ccitt(2) country(16) country-name(756) identified-organization(5) DLMS-UA(8)."""
_CONTEXT_LN, _CONTEXT_LN_CIPHERED = 1, 3
_CONFORMANCE_BITS = {
    "block-transfer-with-get": 11,
    "multiple-references": 14,
    "get": 19,
    "set": 20,
    "selective-access": 21,
    "data-notification": 16,
    "action": 23,
}
"""The bits of the conformance block that we ask for, numbered from its most significant (IEC 62056-5-3 §7.3.1)."""


class Mechanism(StrEnum):
    """Mechanisms by which the two sides authenticate."""

    NONE = "NONE"
    LLS = "LLS"
    HLS_GMAC = "HLS_GMAC"

    @property
    def number(self) -> int:
        """Last part of its object identifier."""
        return {Mechanism.NONE: 0, Mechanism.LLS: 1, Mechanism.HLS_GMAC: 5}[self]


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """An AARQ. ``initiate`` is the InitiateRequest, ciphered where ``ciphered`` says so."""

    mechanism: Mechanism
    ciphered: bool
    initiate: bytes
    title: bytes | None = None
    secret: bytes = b""
    """The password (LLS), or our challenge (HLS)."""

    def to_bytes(self) -> bytes:
        """Encode it for the wire."""
        context = _CONTEXT_LN_CIPHERED if self.ciphered else _CONTEXT_LN
        fields = _tlv(0xA1, _tlv(0x06, _OID + bytes((1, context))))
        if self.title is not None:
            fields += _tlv(0xA6, _tlv(0x04, self.title))
        if self.mechanism is not Mechanism.NONE:
            fields += bytes((0x8A, 2, 7, 0x80))
            fields += _tlv(0x8B, _OID + bytes((2, self.mechanism.number)))
            fields += _tlv(0xAC, _tlv(0x80, self.secret))
        return _tlv(AARQ, fields + _tlv(0xBE, _tlv(0x04, self.initiate)))


@dataclass(frozen=True, slots=True)
class AssociationResponse:
    """An AARE. ``diagnostic`` 0: none, 1: no reason given, 13: authentication failed, 14: authentication required."""

    accepted: bool
    diagnostic: int
    ciphered: bool
    mechanism: int
    title: bytes
    challenge: bytes
    initiate: bytes

    @classmethod
    def from_bytes(cls, apdu: bytes) -> "AssociationResponse":
        """Raises ParsingError."""
        fields = _fields(apdu)
        context = _inner(fields.get(0xA1, b""), 0x06)
        if context[:-1] != _OID + b"\x01":
            raise ParsingError("no application context of DLMS")
        result = _inner(fields.get(0xA2, b""), 0x02)
        diagnostic = _diagnostic(fields.get(0xA3, b""))
        title, challenge = fields.get(0xA4), fields.get(0xAA)
        mechanism = fields.get(0x89, b"\x00")
        if not result or not mechanism:
            raise ParsingError("an AARE without a result")
        initiate = fields.get(0xBE)
        return cls(
            accepted=result == b"\x00",
            diagnostic=diagnostic,
            ciphered=context[-1] == _CONTEXT_LN_CIPHERED,
            mechanism=mechanism[-1],
            title=b"" if title is None else _inner(title, 0x04),
            challenge=b"" if challenge is None else _inner(challenge, 0x80),
            initiate=b"" if initiate is None else _inner(initiate, 0x04),
        )


def initiate_request(max_pdu_bytes: int) -> bytes:
    """An InitiateRequest in clear: DLMS version 6, what we want to do, and how much we take at once."""
    conformance = sum(1 << (23 - bit) for bit in _CONFORMANCE_BITS.values()).to_bytes(3, "big")
    return bytes((1, 0, 0, 0, 6, 0x5F, 0x1F, 4, 0)) + conformance + max_pdu_bytes.to_bytes(2, "big")


def max_pdu_of(initiate: bytes) -> int:
    """Return how many bytes the meter takes at once, by its InitiateResponse; 0: no limit. Raises ParsingError."""
    reader = Reader(initiate)
    if reader.byte() != 0x08 or (reader.byte() and not reader.byte()):  # noqa: PLR2004 - InitiateResponse.
        raise ParsingError("no InitiateResponse")
    version = reader.byte()
    head = reader.take(4)
    if version != 6 or head != b"\x5f\x1f\x04\x00":  # noqa: PLR2004 - DLMS version 6.
        raise ParsingError("another version of DLMS")
    reader.take(3)
    return int.from_bytes(reader.take(2), "big")


def _tlv(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + length(len(content)) + content


def _fields(apdu: bytes) -> dict[int, bytes]:
    reader = Reader(apdu)
    if reader.byte() != AARE:
        raise ParsingError("no AARE")
    reader = Reader(reader.take(reader.length()))
    fields: dict[int, bytes] = {}
    while reader.offset < len(reader.payload):
        if len(fields) == MAX_FIELDS:
            raise ParsingError("more fields than an AARE has")
        tag = reader.byte()
        fields[tag] = reader.take(reader.length())
    return fields


def _inner(content: bytes, tag: int) -> bytes:
    reader = Reader(content)
    if reader.byte() != tag:
        raise ParsingError("an AARE's field of another type")
    return reader.take(reader.length())


def _diagnostic(content: bytes) -> int:
    # A choice of who speaks: 0xA1 the meter's application, 0xA2 its association control; then an integer.
    reader = Reader(content)
    if reader.byte() not in (0xA1, 0xA2):
        raise ParsingError("an AARE's diagnostic of another type")
    inner = _inner(reader.take(reader.length()), 0x02)
    return inner[-1] if inner else 1
