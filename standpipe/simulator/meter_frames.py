"""A meter's reading of docs/lwm2m/prepaid-frames.md, written apart from the gateway's: each checks the other."""

import hashlib
import hmac
import struct


def open_command(frame: bytes, key: bytes, serial: str) -> tuple[int, int, int, str] | None:
    """(kind, sequence, value, currency), or None for a frame that is not for this meter."""
    if len(frame) != 33 or frame[0] != 1:  # noqa: PLR2004 - the page's own numbers.
        return None
    if not hmac.compare_digest(frame[17:], mac(b"standpipe/prepaid/command", frame[:17], key, serial)):
        return None
    sequence, value = struct.unpack(">IQ", frame[2:14])
    return frame[1], sequence, value, frame[14:17].decode("ascii", "replace")


def open_key(frame: bytes, key: bytes, serial: str) -> tuple[int, bytes] | None:
    """(generation, DTLS key), or None for a frame that is not for this meter."""
    if len(frame) != 38 or frame[:2] != b"\x01\x10":  # noqa: PLR2004 - the page's own numbers.
        return None
    if not hmac.compare_digest(frame[22:], mac(b"standpipe/prepaid/key", frame[:22], key, serial)):
        return None
    return int.from_bytes(frame[2:6], "big"), frame[6:22]


def make_status(fields: tuple[int, int, int, int, int, int, int, int, int], key: bytes, serial: str) -> bytes:
    """counter, last sequence, result, valve, reason, accepted, remaining, register_ml, time_s → the signed frame."""
    counter, sequence, result, valve, reason, accepted, remaining, register_ml, time_s = fields
    body = bytes((1, 0x81)) + counter.to_bytes(4, "big") + sequence.to_bytes(4, "big") + bytes((result, valve, reason))
    body += accepted.to_bytes(8, "big") + remaining.to_bytes(8, "big", signed=True)
    body += register_ml.to_bytes(8, "big") + time_s.to_bytes(4, "big")
    return body + mac(b"standpipe/prepaid/status", body, key, serial)


def mac(label: bytes, body: bytes, key: bytes, serial: str) -> bytes:
    """The page's MAC."""
    return hmac.digest(key, label + serial.encode() + b"\x00" + body, hashlib.sha256)[:16]
