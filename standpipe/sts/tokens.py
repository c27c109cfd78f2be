"""Tokens: 66 bits as 20 digits, enciphered by EA11 (IEC 62055-41 §6.2 to §6.5). Pure.

class 2 | subclass 4 | 44 bits | CRC 16. The class stays in the clear: it takes the place of bits 27 and 28 of the
enciphered block, whose own two bits move to the top of the number.
"""

from dataclasses import dataclass
from enum import IntEnum

from standpipe.sts.keys import DecoderKey, KeyTerms
from standpipe.sts.misty1 import Misty1

DIGITS = 20
CREDIT_CLASS, MANAGEMENT_CLASS = 0, 2
ALL_REGISTERS = 0xFFFF
_CLASS_BIT = 27
_BLOCK_BITS = 64
_CRC_POLYNOMIAL = 0xA001
"""x¹⁶ + x¹⁵ + x² + 1, reflected."""


class TokenError(Exception):
    """Digits that are no token of this meter under this key."""


class Credit(IntEnum):
    """Subclasses of class 0."""

    ELECTRICITY = 0
    WATER = 1
    GAS = 2


class Management(IntEnum):
    """Subclasses of class 2."""

    CLEAR_CREDIT = 1
    KEY_1 = 3
    KEY_2 = 4
    CLEAR_TAMPER = 5
    KEY_3 = 8
    KEY_4 = 9


KEY_SECTIONS = frozenset({Management.KEY_1, Management.KEY_2, Management.KEY_3, Management.KEY_4})


@dataclass(frozen=True, slots=True)
class Token:
    """Contents of a token: ``payload`` are the 44 bits between subclass and CRC."""

    token_class: int
    subclass: int
    payload: int

    @property
    def rnd(self) -> int:
        """The four random bits of a token that has a TID."""
        return self.payload >> 40

    @property
    def tid(self) -> int:
        """The minute that makes a token its own."""
        return self.payload >> 16 & 0xFF_FFFF

    @property
    def field(self) -> int:
        """A credit's amount field, or the register that is to be cleared."""
        return self.payload & 0xFFFF

    def to_digits(self, key: DecoderKey) -> str:
        """The 20 digits for the meter that has this key."""
        body = self.subclass << 44 | self.payload
        block = Misty1(key.secret).encrypt(body << 16 | _crc(self.token_class, body))
        moved = block >> _CLASS_BIT & 3
        number = block & ~(3 << _CLASS_BIT) | self.token_class << _CLASS_BIT | moved << _BLOCK_BITS
        return f"{number:0{DIGITS}}"

    @classmethod
    def from_digits(cls, digits: str, key: DecoderKey) -> "Token":
        """Raises TokenError for digits that are none, and where the CRC does not hold: a slip, or another key."""
        if len(digits) != DIGITS or not (digits.isascii() and digits.isdecimal()):
            raise TokenError(f"a token has {DIGITS} digits")
        number = int(digits)
        if number >> _BLOCK_BITS + 2:
            raise TokenError("more than 66 bits")
        token_class, moved = number >> _CLASS_BIT & 3, number >> _BLOCK_BITS
        block = number & (1 << _BLOCK_BITS) - 1 & ~(3 << _CLASS_BIT) | moved << _CLASS_BIT
        clear = Misty1(key.secret).decrypt(block)
        body = clear >> 16
        if clear & 0xFFFF != _crc(token_class, body):
            raise TokenError("the CRC does not hold")
        return cls(token_class, body >> 44, body & (1 << 44) - 1)


def credit(kind: Credit, *, tid: int, rnd: int, amount_field: int) -> Token:
    """A credit token; ``amount_field`` by ``standpipe.sts.amounts``."""
    return Token(CREDIT_CLASS, kind, _dated(rnd, tid, amount_field))


def clear_credit(*, tid: int, rnd: int, register: int = ALL_REGISTERS) -> Token:
    """Sets a meter's credit to zero."""
    return Token(MANAGEMENT_CLASS, Management.CLEAR_CREDIT, _dated(rnd, tid, register))


def clear_tamper(*, tid: int, rnd: int) -> Token:
    """Ends a meter's tamper condition."""
    return Token(MANAGEMENT_CLASS, Management.CLEAR_TAMPER, _dated(rnd, tid, 0))


def key_change(new: DecoderKey, *, rollover: bool = False) -> tuple[Token, Token, Token, Token]:
    """The four tokens that give a meter a new key of 128 bits. ``rollover``: with it, the meter forgets its TIDs."""
    terms, secret = new.terms, int.from_bytes(new.secret, "big")
    first, third, fourth, second = (secret >> shift & 0xFFFF_FFFF for shift in (96, 64, 32, 0))
    group = int(terms.supply_group)
    heads = (
        (Management.KEY_1, terms.key_expiry >> 4, terms.key_revision << 4 | int(rollover) << 3 | terms.key_type, first),
        (Management.KEY_2, terms.key_expiry & 0xF, int(terms.tariff_index), second),
        (Management.KEY_3, group >> 8 & 0xF, group & 0xFF, third),
        (Management.KEY_4, group >> 20, group >> 12 & 0xFF, fourth),
    )
    one, two, three, four = (
        Token(MANAGEMENT_CLASS, subclass, high << 40 | low << 32 | part) for subclass, high, low, part in heads
    )
    return one, two, three, four


def new_key_of(sections: dict[int, Token], pan: str, base_year: int) -> tuple[DecoderKey, bool]:
    """The key that four sections (by subclass) carry, and whether TIDs are to be forgotten.

    A roll-over goes to the base date after ``base_year``. Raises KeyError where a section is missing, and
    InvalidInputError for terms that the standard does not know.
    """
    one, two, three, four = (sections[part].payload for part in (3, 4, 8, 9))
    secret = (one & 0xFFFF_FFFF) << 96 | (three & 0xFFFF_FFFF) << 64 | (four & 0xFFFF_FFFF) << 32 | two & 0xFFFF_FFFF
    rollover = bool(one >> 35 & 1)
    terms = KeyTerms(
        pan=pan,
        supply_group=f"{(four >> 32) << 12 | three >> 32:06}",
        tariff_index=f"{two >> 32 & 0xFF:02}",
        key_revision=one >> 36 & 0xF,
        key_type=one >> 32 & 3,
        base_year=base_year + 21 if rollover else base_year,
        key_expiry=(one >> 40) << 4 | two >> 40,
    )
    return DecoderKey(terms, secret.to_bytes(16, "big")), rollover


def _dated(rnd: int, tid: int, field: int) -> int:
    return rnd << 40 | tid << 16 | field


def _crc(token_class: int, body: int) -> int:
    """CRC-16 over class and body, 50 bits led by six zeros; its bytes stand low byte first (§6.3.7)."""
    crc = 0xFFFF
    for byte in (token_class << 48 | body).to_bytes(7, "big"):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ _CRC_POLYNOMIAL if crc & 1 else crc >> 1
    return (crc & 0xFF) << 8 | crc >> 8
