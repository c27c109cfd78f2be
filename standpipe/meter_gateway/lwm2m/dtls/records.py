"""DTLS 1.2 on the wire, as far as it is in the clear (RFC 6347 §4.1, §4.2.2). Pure; nothing is trusted, only routed by.

Record: type 1 | version 2 | epoch 2 | sequence 6 | length 2. Handshake message within: type 1 | length 3 | message
sequence 2 | fragment offset 3 | fragment length 3 | body.
"""

from collections.abc import Iterator
from dataclasses import dataclass

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
CLIENT_HELLO, CLIENT_KEY_EXCHANGE = 1, 16
RECORD_HEAD = 13
HANDSHAKE_HEAD = 12
RANDOM_BYTES = 32
MAX_IDENTITY_BYTES = 64
DECRYPT_ERROR = 51


@dataclass(frozen=True, slots=True)
class Record:
    """One record, whole, with what its head says."""

    type: int
    epoch: int
    data: bytes

    @property
    def message(self) -> int | None:
        """The type of the handshake message in the clear that begins here."""
        if self.type != HANDSHAKE or self.epoch != 0 or len(self.data) < RECORD_HEAD + HANDSHAKE_HEAD:
            return None
        return self.data[RECORD_HEAD]


def split(datagram: bytes) -> Iterator[Record]:
    """The records of a datagram, up to the first that is none."""
    offset = 0
    while offset + RECORD_HEAD <= len(datagram):
        kind, major = datagram[offset], datagram[offset + 1]
        length = int.from_bytes(datagram[offset + 11 : offset + 13], "big")
        end = offset + RECORD_HEAD + length
        if not CHANGE_CIPHER_SPEC <= kind <= APPLICATION_DATA or major != 0xFE or end > len(datagram):  # noqa: PLR2004
            return
        yield Record(kind, int.from_bytes(datagram[offset + 3 : offset + 5], "big"), datagram[offset:end])
        offset = end


def client_random(record: Record) -> bytes | None:
    """The random of a ClientHello that is whole in this record: what tells one try from the next."""
    body = _whole_body(record, CLIENT_HELLO)
    return body[2 : 2 + RANDOM_BYTES] if body is not None and len(body) >= 2 + RANDOM_BYTES else None


def psk_identity(record: Record) -> bytes | None:
    """The identity in a ClientKeyExchange for PSK (RFC 4279 §2); None where this record holds none."""
    body = _whole_body(record, CLIENT_KEY_EXCHANGE)
    if body is None or len(body) < 2:  # noqa: PLR2004 - the length of the length.
        return None
    return body[2:] if int.from_bytes(body[:2], "big") == len(body) - 2 else None


def refusal() -> bytes:
    """A fatal alert, decrypt_error, in the clear: what an unknown identity and a wrong key are both told (RFC 4279)."""
    # The sequence number lies far above any that the handshake has used, so that no peer takes it for a replay.
    head = bytes((ALERT, 0xFE, 0xFD, 0, 0)) + (1 << 32).to_bytes(6, "big")
    return head + b"\x00\x02" + bytes((2, DECRYPT_ERROR))


def _whole_body(record: Record, message: int) -> bytes | None:
    if record.message != message:
        return None
    data = record.data[RECORD_HEAD:]
    length, offset, fragment = (int.from_bytes(data[at : at + 3], "big") for at in (1, 6, 9))
    if offset or fragment != length or HANDSHAKE_HEAD + length > len(data):
        return None
    return data[HANDSHAKE_HEAD : HANDSHAKE_HEAD + length]
