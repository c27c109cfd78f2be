"""A LoRa meter's reading of docs/meters/lorawan-frames.md, written apart from the gateway's: each checks the other."""

import hashlib
import hmac

STATUS_PORT, HISTORY_PORT, ANSWER_PORT, COMMAND_PORT = 10, 11, 12, 20
TABLE_PART = 11
EMPTY_PIPE, LEAK, REVERSE_FLOW, TAMPER = 1, 2, 4, 8
_HOUR_S = 3600


def sign(label: str, body: bytes, key: bytes, dev_eui: str, serial: str) -> bytes:
    """The page's MAC, eight bytes."""
    message = f"standpipe/lora/{label}".encode() + bytes.fromhex(dev_eui) + serial.encode() + bytes(1) + body
    return hmac.new(key, message, hashlib.sha256).digest()[:8]


def status_body(
    fields: tuple[int, int, int, int, int, int, int, int, int], alarms: int, battery: int, typed_ml: int | None = None
) -> bytes:
    """counter, last sequence, result, valve, reason, accepted, remaining, register_ml, time_s → the body."""
    counter, sequence, result, valve, reason, accepted, remaining, register_ml, time_s = fields
    out = bytearray([0x18])
    out += counter.to_bytes(4, "big") + sequence.to_bytes(4, "big")
    out += bytes([result * 16 + valve * 4, reason * 16 + alarms, battery]) + time_s.to_bytes(4, "big")
    zigzag = 2 * remaining if remaining >= 0 else -2 * remaining - 1
    for number in (accepted, zigzag, register_ml, *(() if typed_ml is None else (typed_ml,))):
        out += leb(number)
    return bytes(out)


def history_body(hours: list[tuple[int, int]], room: int) -> tuple[bytes, int]:
    """(time_s, register_ml) of consecutive hours → the body, and how many of them it tells of."""
    first_s, before_ml = hours[0]
    out = b"\x19" + first_s.to_bytes(4, "big") + leb(before_ml)
    told = 1
    for time_s, register_ml in hours[1:]:
        step = leb(register_ml - before_ml)
        if time_s != first_s + told * _HOUR_S or len(out) + len(step) + 8 > room:
            break
        out, before_ml, told = out + step, register_ml, told + 1
    return out, told


def open_command(frame: bytes, key: bytes, dev_eui: str, serial: str) -> tuple[int, int, int, str, int | None] | None:
    """(kind, sequence, value, currency, mark of a credit with one), or None for a frame that is not for this meter."""
    body, tag = frame[:-8], frame[-8:]
    if len(body) < 9 or body[0] // 16 != 1:  # noqa: PLR2004 - the page's own numbers.
        return None
    if not hmac.compare_digest(tag, sign("command", body, key, dev_eui, serial)):
        return None
    numbers, value, place = [], 0, 0
    for byte in body[8:]:
        value |= (byte % 128) << (7 * place)
        place += 1
        if byte < 128:  # noqa: PLR2004 - the bit that says "more".
            numbers.append(value)
            value, place = 0, 0
    kind = body[0] % 16
    if place or len(numbers) != (2 if kind == 5 else 1):  # noqa: PLR2004 - the page's own numbers.
        return None
    mark = numbers[1] if len(numbers) > 1 else None
    return kind, int.from_bytes(body[1:5], "big"), numbers[0], body[5:8].decode("ascii", "replace"), mark


def open_part(frame: bytes, key: bytes, dev_eui: str, serial: str) -> tuple[int, str, int, bytes] | None:
    """(sequence, currency, part, chunk) of a part of a price table, or None for a frame that is not for this meter."""
    body, tag = frame[:-8], frame[-8:]
    if len(body) < 10 or body[0] != 0x10 + TABLE_PART:  # noqa: PLR2004 - the page's own numbers.
        return None
    if not hmac.compare_digest(tag, sign("table", body, key, dev_eui, serial)):
        return None
    return int.from_bytes(body[1:5], "big"), body[5:8].decode("ascii", "replace"), body[8], body[9:]


def diagnostics_body(
    sequence: int, battery: int, signal_dbm: int, numbers: tuple[int, int, int], firmware: str
) -> bytes:
    """``numbers``: uptime in seconds, resets, error bits."""
    out = bytearray([0x1C]) + sequence.to_bytes(4, "big") + bytes([battery, -signal_dbm])
    for number in numbers:
        out += leb(number)
    return bytes(out) + firmware.encode()


def tables_body(report_counter: int, sequence: int, parts: int, ids: bytes) -> bytes:
    """``ids``: of the table in force and of the one that waits."""
    head = b"\x1d" + report_counter.to_bytes(4, "big") + sequence.to_bytes(4, "big")
    return head + parts.to_bytes(2, "big") + ids


def leb(number: int) -> bytes:
    """Seven bits a byte, lowest first."""
    out: list[int] = []
    while True:
        number, low = divmod(number, 128)
        if not number:
            return bytes([*out, low])
        out.append(low + 128)
