"""Security suite 0 (IEC 62056-5-3 §5.3): AES-128-GCM with tags of 12 octets, under global keys. Pure.

The initialization vector is the sender's system title and its invocation counter, so that a counter used twice under
one key would give the key's secrets away: counters are handed out by ``dlms.meters`` and never go back.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from standpipe.meter_gateway.dlms.axdr import Reader, length
from standpipe.meter_gateway.parsing import ParsingError

AUTHENTICATED = 0x10
ENCRYPTED = 0x20
BOTH = AUTHENTICATED | ENCRYPTED
KEY_BYTES = 16
TITLE_BYTES = 8
TAG_BYTES = 12
MAX_COUNTER = 0xFFFF_FFFF
GENERAL_GLO_CIPHERING = 0xDB
GLO_TAGS = {0x01: 0x21, 0x08: 0x28, 0x0E: 0x2E, 0xC0: 0xC8, 0xC1: 0xC9, 0xC3: 0xCB, 0xC4: 0xCC, 0xC5: 0xCD, 0xC7: 0xCF}
"""The tag of an APDU in clear, and of the same one ciphered under the global key (IEC 62056-5-3 §7.3.3)."""
_HEADER_BYTES = 5


@dataclass(frozen=True, slots=True)
class GlobalKeys:
    """A meter's global unicast encryption key and authentication key."""

    encryption: bytes = field(repr=False)
    authentication: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """Plain text of a frame, and the invocation counter that it came under."""

    apdu: bytes
    counter: int


def seal(keys: GlobalKeys, title: bytes, counter: int, apdu: bytes) -> bytes:
    """An APDU encrypted and authenticated: security control, counter, ciphertext, tag."""
    header = bytes((BOTH,)) + counter.to_bytes(4, "big")
    encryptor = Cipher(AES(keys.encryption), GCM(title + header[1:])).encryptor()
    encryptor.authenticate_additional_data(header[:1] + keys.authentication)
    ciphertext = encryptor.update(apdu) + encryptor.finalize()
    return header + ciphertext + encryptor.tag[:TAG_BYTES]


def unseal(keys: GlobalKeys, title: bytes, sealed: bytes) -> Opened:
    """Raises ParsingError unless it is encrypted and authenticated by whom ``title`` names, with these keys."""
    if len(sealed) < _HEADER_BYTES + TAG_BYTES or sealed[0] != BOTH:
        raise ParsingError("not both encrypted and authenticated under suite 0")
    header, ciphertext, tag = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:-TAG_BYTES], sealed[-TAG_BYTES:]
    mode = GCM(title + header[1:], tag, min_tag_length=TAG_BYTES)
    decryptor = Cipher(AES(keys.encryption), mode).decryptor()
    decryptor.authenticate_additional_data(header[:1] + keys.authentication)
    try:
        apdu = decryptor.update(ciphertext) + decryptor.finalize()
    except InvalidTag:
        raise ParsingError("the tag does not hold") from None
    return Opened(apdu, int.from_bytes(header[1:], "big"))


def gmac(keys: GlobalKeys, title: bytes, counter: int, challenge: bytes) -> bytes:
    """The answer to a challenge in HLS mechanism 5: security control, counter, tag (IEC 62056-5-3 §5.3.7.4.4)."""
    header = bytes((AUTHENTICATED,)) + counter.to_bytes(4, "big")
    encryptor = Cipher(AES(keys.encryption), GCM(title + header[1:])).encryptor()
    encryptor.authenticate_additional_data(header[:1] + keys.authentication + challenge)
    encryptor.finalize()
    return header + encryptor.tag[:TAG_BYTES]


def seal_apdu(keys: GlobalKeys, title: bytes, counter: int, apdu: bytes) -> bytes:
    """A service-specific global ciphering APDU (``glo-get-request`` and its like)."""
    sealed = seal(keys, title, counter, apdu)
    return bytes((GLO_TAGS[apdu[0]],)) + length(len(sealed)) + sealed


def unseal_apdu(keys: GlobalKeys, title: bytes, apdu: bytes) -> Opened:
    """The reverse, for either form of ciphering. Raises ParsingError, also where the tags inside and out disagree."""
    reader = Reader(apdu)
    outer = reader.byte()
    if outer == GENERAL_GLO_CIPHERING and reader.take(reader.length()) != title:
        raise ParsingError("another meter's system title")
    opened = unseal(keys, title, _rest(reader))
    if outer != GENERAL_GLO_CIPHERING and (not opened.apdu or GLO_TAGS.get(opened.apdu[0]) != outer):
        raise ParsingError("another APDU inside than outside")
    return opened


def title_of(apdu: bytes) -> bytes:
    """The system title that a general-glo-ciphering APDU claims. Nothing proves it yet. Raises ParsingError."""
    reader = Reader(apdu)
    if reader.byte() != GENERAL_GLO_CIPHERING:
        raise ParsingError("no general global ciphering")
    title = reader.take(reader.length())
    if len(title) != TITLE_BYTES:
        raise ParsingError("a system title of another length than 8")
    return title


def _rest(reader: Reader) -> bytes:
    sealed = reader.take(reader.length())
    if reader.offset != len(reader.payload):
        raise ParsingError("bytes after the end of the APDU")
    return sealed
