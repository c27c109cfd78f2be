"""A keypad meter's side of the standard: what it makes of the digits that somebody types (§8). Pure.

It takes each TID once, remembers the newest MEMORY of them, and refuses what is older than all that it remembers.
"""

from bisect import insort
from dataclasses import dataclass, field
from enum import StrEnum

from standpipe.platform.errors import InvalidInputError
from standpipe.sts.amounts import from_field
from standpipe.sts.keys import NEVER_EXPIRES, DecoderKey
from standpipe.sts.tokens import (
    CREDIT_CLASS,
    KEY_SECTIONS,
    MANAGEMENT_CLASS,
    Credit,
    Management,
    Token,
    TokenError,
    new_key_of,
)

MEMORY = 50
"""TIDs that a meter must remember at the least (§8.3)."""


class Typed(StrEnum):
    """Answer that the meter shows."""

    ACCEPTED = "ACCEPTED"
    USED = "USED"
    """Taken before: a success, said twice."""
    OLD = "OLD"
    REJECTED = "REJECTED"
    """Mistyped, or for another meter or key."""
    KEY_EXPIRED = "KEY_EXPIRED"
    UNSUPPORTED = "UNSUPPORTED"
    KEY_SECTION = "KEY_SECTION"
    """A part of a new key; the others must follow."""
    KEY_CHANGED = "KEY_CHANGED"


@dataclass
class Keypad:
    """A meter's keypad and what is behind it; ``units`` of 0.1 m³ are credited and never taken here."""

    key: DecoderKey
    units: int = 0
    tampered: bool = False
    tids: list[int] = field(default_factory=list)
    sections: dict[int, Token] = field(default_factory=dict)

    def enter(self, digits: str) -> Typed:
        """Type a token; spaces and dashes are how it is printed."""
        try:
            token = Token.from_digits(digits.replace(" ", "").replace("-", ""), self.key)
        except TokenError:
            return Typed.REJECTED
        if token.token_class == MANAGEMENT_CLASS and token.subclass in KEY_SECTIONS:
            return self._take_section(token)
        known = token.token_class == CREDIT_CLASS and token.subclass == Credit.WATER
        known |= token.token_class == MANAGEMENT_CLASS and token.subclass in {
            Management.CLEAR_CREDIT,
            Management.CLEAR_TAMPER,
        }
        if not known:
            return Typed.UNSUPPORTED
        refused = self._refusal(token.tid)
        if refused is not None:
            return refused
        self._remember(token.tid)
        if token.token_class == CREDIT_CLASS:
            self.units += from_field(token.field)
        elif token.subclass == Management.CLEAR_CREDIT:
            self.units = 0
        else:
            self.tampered = False
        return Typed.ACCEPTED

    def _refusal(self, tid: int) -> Typed | None:
        if tid in self.tids:
            return Typed.USED
        if len(self.tids) == MEMORY and tid < self.tids[0]:
            return Typed.OLD
        if self.key.terms.key_expiry != NEVER_EXPIRES and tid >> 16 > self.key.terms.key_expiry:
            return Typed.KEY_EXPIRED
        return None

    def _remember(self, tid: int) -> None:
        insort(self.tids, tid)
        del self.tids[:-MEMORY]

    def _take_section(self, token: Token) -> Typed:
        self.sections[token.subclass] = token
        if len(self.sections) < len(KEY_SECTIONS):
            return Typed.KEY_SECTION
        terms = self.key.terms
        try:
            new, rollover = new_key_of(self.sections, terms.pan, terms.base_year)
        except InvalidInputError:
            self.sections.clear()
            return Typed.REJECTED
        self.key = new
        self.sections.clear()
        if rollover:
            self.tids.clear()
        return Typed.KEY_CHANGED
