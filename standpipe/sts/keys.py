"""Decoder keys by DKGA04: one vending key of a supply group becomes one key for each meter (IEC 62055-41 §6.5.3). Pure.

KDF: HMAC-SHA-256 under the 160-bit vending key over a block that names all the key is for; its first 128 bits.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime

from standpipe.platform.errors import InvalidInputError

VENDING_KEY_BYTES = 20
DECODER_KEY_BYTES = 16
BASE_YEARS = (1993, 2014, 2035)
"""Years from whose beginning TIDs count minutes; each lasts 31.9 years, the first ran out on 2024-11-24."""
NEVER_EXPIRES = 255
LAST_TID = (1 << 24) - 1
_DAY_MIN = 1440
PAN_DIGITS = 18
_DKGA, _EA = b"04", b"11"


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """Terms of a decoder key. ``pan``: the meter's 18-digit primary account number, check digit last.

    ``key_expiry``: the last TID whose upper 8 bits are at most this is the key's last (255: never expires).
    Raises InvalidInputError for what the standard does not know.
    """

    pan: str
    supply_group: str
    tariff_index: str = "01"
    key_revision: int = 1
    key_type: int = 2
    base_year: int = 2014
    key_expiry: int = NEVER_EXPIRES

    def __post_init__(self) -> None:
        for text, digits, what in (
            (self.pan, PAN_DIGITS, "meter PAN"),
            (self.supply_group, 6, "supply group code"),
            (self.tariff_index, 2, "tariff index"),
        ):
            if len(text) != digits or not (text.isascii() and text.isdecimal()):
                raise InvalidInputError(f"A {what} has {digits} digits.")
        if self.pan != with_check_digit(self.pan[:-1]):
            raise InvalidInputError("The meter PAN's check digit is wrong.")
        if self.base_year not in BASE_YEARS or not 1 <= self.key_revision <= 9 or not 0 <= self.key_type <= 3:  # noqa: PLR2004 - the standard's ranges.
            raise InvalidInputError("The key's base year, revision or type is none of the standard's.")
        if not 0 <= self.key_expiry <= NEVER_EXPIRES:
            raise InvalidInputError("A key expiry number has 8 bits.")


@dataclass(frozen=True, slots=True)
class DecoderKey:
    """A meter's key, with what it is for."""

    terms: KeyTerms
    secret: bytes = field(repr=False)


def derive(vending_key: bytes, terms: KeyTerms) -> DecoderKey:
    """A meter's decoder key. Raises InvalidInputError for a vending key of another length."""
    if len(vending_key) != VENDING_KEY_BYTES:
        raise InvalidInputError(f"A DKGA04 vending key has {VENDING_KEY_BYTES} bytes.")
    parts = (_DKGA, f"{terms.base_year % 100:02}".encode(), _EA, terms.tariff_index.encode())
    named = (terms.supply_group, str(terms.key_type), str(terms.key_revision), terms.pan)
    block = b"\x04" + b"".join(_counted(part) for part in parts)
    block += b"\x00\x04" + b"".join(_counted(text.encode()) for text in named)
    block += (DECODER_KEY_BYTES * 8).to_bytes(4, "big")
    return DecoderKey(terms, hmac.digest(vending_key, block, hashlib.sha256)[:DECODER_KEY_BYTES])


def pan_of(issuer: str, account: str) -> str:
    """A meter PAN: the issuer's 6 digits (600727 for meters under 11-digit numbers), the meter's 11, a check digit."""
    return with_check_digit(issuer.zfill(6) + account.zfill(11))


def with_check_digit(digits: str) -> str:
    """The digits with the check digit of ISO/IEC 7812-1 (Luhn)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    return digits + str(-total % 10)


def tid_at(at: datetime, base_year: int) -> int:
    """The token identifier of a minute. Raises InvalidInputError outside the base date's years."""
    minutes = int((at - datetime(base_year, 1, 1, tzinfo=UTC)).total_seconds() // 60)
    if not 0 <= minutes < 1 << 24:
        raise InvalidInputError(f"{at:%Y-%m-%d} lies outside the years that TIDs since {base_year} can name.")
    return minutes


def tid_now(at: datetime, base_year: int) -> int:
    """``tid_at``, and the nearest TID that there is outside the base date's years."""
    minutes = int((at - datetime(base_year, 1, 1, tzinfo=UTC)).total_seconds() // 60)
    return min(max(minutes, 0), LAST_TID)


def is_reserved(tid: int) -> bool:
    """Tell whether a TID is the standard's own: 00:01 of each day is kept for tokens of special use (§6.3.5.2)."""
    return tid % _DAY_MIN == 1


def is_expired(tid: int, key_expiry: int) -> bool:
    """Tell whether a key's last TID lies before this one (§6.1.10)."""
    return key_expiry != NEVER_EXPIRES and tid >> 16 > key_expiry


def _counted(text: bytes) -> bytes:
    return bytes((len(text),)) + text
