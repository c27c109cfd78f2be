"""A meter's reading of docs/lwm2m/prepaid-frames.md, written apart from the gateway's: each checks the other."""

import hashlib
import hmac
import struct

Opened = tuple[int, int, int, str, int | None]
"""(kind, sequence, value, currency, mark of a credit with one)."""


def open_command(frame: bytes, key: bytes, serial: str) -> Opened | None:
    """A frame's content, or None for one that is not for this meter."""
    if len(frame) not in (33, 37) or frame[0] != 1 or (len(frame) == 37) != (frame[1] == 5):  # noqa: PLR2004 - the page's own numbers.
        return None
    body, tag = frame[:-16], frame[-16:]
    if not hmac.compare_digest(tag, mac(b"standpipe/prepaid/command", body, key, serial)):
        return None
    sequence, value = struct.unpack(">IQ", body[2:14])
    mark = int.from_bytes(body[17:], "big") if body[17:] else None
    return body[1], sequence, value, body[14:17].decode("ascii", "replace"), mark


def open_key(frame: bytes, key: bytes, serial: str) -> tuple[int, bytes] | None:
    """(generation, DTLS key), or None for a frame that is not for this meter."""
    if len(frame) != 38 or frame[:2] != b"\x01\x10":  # noqa: PLR2004 - the page's own numbers.
        return None
    if not hmac.compare_digest(frame[22:], mac(b"standpipe/prepaid/key", frame[:22], key, serial)):
        return None
    return int.from_bytes(frame[2:6], "big"), frame[6:22]


def make_status(
    fields: tuple[int, int, int, int, int, int, int, int, int], key: bytes, serial: str, typed_ml: int | None = None
) -> bytes:
    """counter, last sequence, result, valve, reason, accepted, remaining, register_ml, time_s → the signed frame."""
    counter, sequence, result, valve, reason, accepted, remaining, register_ml, time_s = fields
    body = (
        bytes((1, 0x81 if typed_ml is None else 0x82))
        + counter.to_bytes(4, "big")
        + sequence.to_bytes(4, "big")
        + bytes((result, valve, reason))
    )
    body += accepted.to_bytes(8, "big") + remaining.to_bytes(8, "big", signed=True)
    body += register_ml.to_bytes(8, "big") + time_s.to_bytes(4, "big")
    body += b"" if typed_ml is None else typed_ml.to_bytes(8, "big")
    return body + mac(b"standpipe/prepaid/status", body, key, serial)


def mac(label: bytes, body: bytes, key: bytes, serial: str) -> bytes:
    """The page's MAC."""
    return hmac.digest(key, label + serial.encode() + b"\x00" + body, hashlib.sha256)[:16]
