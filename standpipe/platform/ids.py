"""Prefixed identifiers: one opaque id per thing, the same in the database, the API and the logs.

Layout after the prefix: 26 characters of Crockford base 32 holding 48 bits of Unix milliseconds and 80 random
bits (the ULID layout). Ids of one kind therefore sort by age, which is what keyset pages walk along.
"""

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PATTERN = re.compile(r"[a-z]{2,4}_[0-9a-hjkmnp-tv-z]{26}")


def new_id(prefix: str) -> str:
    """A fresh id such as ``mtr_01k…``."""
    return _written(prefix, (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80))


def is_id(text: str, prefix: str) -> bool:
    """Tell whether ``text`` has the form of an id of this kind. Cheap guard before a query."""
    return text.startswith(prefix + "_") and _PATTERN.fullmatch(text) is not None


def first_id_at(prefix: str, unix_s: float) -> str:
    """Return an id that none of this kind made from that second on sorts before."""
    return _written(prefix, max(int(unix_s * 1_000), 0) << 80)


def _written(prefix: str, number: int) -> str:
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
