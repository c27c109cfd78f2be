"""Claim codes as people read and type them. Pure.

Sixteen characters of Crockford's base 32 (80 random bits) and one that checks them, in groups of four:
``7K3M-Q0ZD-1VXA-96TB-H``. The check character is a weighted sum over GF(32), so that it is one of the same 32 letters
and digits (Crockford's own, modulo 37, asks a customer to type ``*`` or ``~``). Weights differ from place to place and
none is nought: one wrong character, or two that changed places, never check.
"""

import hashlib
import secrets

from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase

CODE_BITS = 80
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LOOKALIKES = str.maketrans("OIL", "011")
_BODY = CODE_BITS // 5
_POLYNOMIAL = 0b100101  # x⁵ + x² + 1, primitive: its root has order 31, more than a code has places.
_MAX_TYPED = 64


def new_code() -> str:
    """A fresh code, without dashes."""
    return code_of(secrets.randbits(CODE_BITS))


def code_of(number: int) -> str:
    """The code that holds CODE_BITS bits."""
    body = "".join(_ALPHABET[(number >> shift) & 31] for shift in range(CODE_BITS - 5, -1, -5))
    return body + _check_character(body)


def show_code(code: str) -> str:
    """A code in groups of four."""
    return "-".join(code[at : at + 4] for at in range(0, len(code), 4))


def read_code(text: str) -> str:
    """A code as a person typed it, without dashes and spaces, in capitals; O is 0, and I and L are 1.

    Raises InvalidInputError where it cannot be one of ours: a character is missing, too many, or mistyped.
    """
    code = "".join(char for char in text[:_MAX_TYPED].upper() if char.isalnum()).translate(_LOOKALIKES)
    if len(text) > _MAX_TYPED or len(code) != _BODY + 1:
        raise InvalidInputError(
            phrase("A code has {length} letters and digits. Please check it.", length=_BODY + 1), ("code",)
        )
    if not set(code) <= set(_ALPHABET) or _check_character(code[:-1]) != code[-1]:
        raise InvalidInputError(phrase("The code is mistyped somewhere. Please check it, letter by letter."), ("code",))
    return code


def hash_code(code: str) -> str:
    """Hash a code for storage. It holds 80 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(b"standpipe claim " + code.encode()).hexdigest()


def _check_character(body: str) -> str:
    total = 0
    for char in body:
        # Horner's rule: the places weigh x, x², x³, … from the last one on.
        total = (total ^ _ALPHABET.index(char)) << 1
        if total > 31:  # noqa: PLR2004 - the field's 32 elements.
            total ^= _POLYNOMIAL
    return _ALPHABET[total]
