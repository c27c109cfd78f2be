"""Keeps what a log line must not hold out of it: numbers, addresses, tokens, codes, keys, quoted names. Pure.

Every pattern is bounded, and long text is cut before any of them sees it, so that the time is linear in what is kept
whatever a stranger sends. A pattern knows the form of a thing, not its meaning: which *keys* a line may have at all is
``standpipe.platform.logs``' business.
"""

import re
from collections.abc import Iterable

MAX_CHARS = 1_000
MAX_SECRET_CHARS = 512
MIN_SECRET_CHARS = 6
"""A shorter setting is no secret, and taking it out would spoil common words."""
NUMBER, ADDRESS, TOKEN, KEPT_OUT = "[number]", "[e-mail]", "[token]", "[kept out]"
_WORDS = (
    "authorization|password|passwd|passkey|passphrase|secret|token|credential|cookie|api.?key|private.?key|jwt|otp|pin|"
    "cvc|cvv|phone|msisdn|mobile|e.?mail|first.?name|last.?name|full.?name|customer.?name|payer|name|digits|card|pan"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # PostgreSQL quotes rows in its details, SQLAlchemy what it sent.
    (re.compile(r"Key \([^)]{0,200}\)=\([^\n]{0,1000}"), f"Key {KEPT_OUT}"),
    (re.compile(r"Failing row contains[^\n]{0,1000}"), f"Failing row {KEPT_OUT}"),
    (re.compile(r"\[parameters: [^\n]{0,1000}"), f"[parameters: {KEPT_OUT}]"),
    # The secret part of a callback's address.
    (re.compile(r"(/webhooks/[A-Za-z0-9_-]{1,32}/)[^\s\"'?]{1,512}"), rf"\1{KEPT_OUT}"),
    (re.compile(r"\b(bearer|basic)[ \t]{1,4}[^\s\"',;]{1,1000}", re.IGNORECASE), rf"\1 {TOKEN}"),
    # key=value, "key": "value", key='two words', however a library writes it; the word may be part of a longer one.
    (
        re.compile(
            rf"((?:{_WORDS})[A-Za-z_-]{{0,16}}[\"']?[ ]{{0,2}}[=:][ ]{{0,2}})"
            r"(?:\"[^\"\n]{0,512}\"?|'[^'\n]{0,512}'?|[^\s\"',;&)}\]]{1,512})",
            re.IGNORECASE,
        ),
        rf"\1{KEPT_OUT}",
    ),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,1000}(?:\.[A-Za-z0-9_-]{0,1000}){0,4}"), TOKEN),
    (re.compile(r"\b(?:sk|rk|whsec)_[A-Za-z0-9_-]{4,255}|_secret_[A-Za-z0-9_-]{4,255}"), TOKEN),
    (re.compile(r"[^\s@\"'<>,;:()]{1,64}@[^\s@\"'<>,;:()]{1,253}"), ADDRESS),
)
_KEEP = (
    r"(?P<keep>\b[a-z]{2,4}_[0-9a-hjkmnp-tv-z]{26}\b"
    r"|\b(?:19|20)\d\d-[01]\d-[0-3]\d(?:[T ][0-2]\d:[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?(?:Z|[+-][01]\d:\d\d)?)?"
    r"(?![\d -]{0,3}\d))"
)
_GAP = "[ \u00a0().\\-/_\u2010-\u2015]{0,3}"
_NUMBERS = re.compile(rf"{_KEEP}|(?P<number>\+?\d(?:{_GAP}\d){{5,200}})|(?P<token>[A-Za-z0-9_+=~-]{{24,1000}})")
_QUOTED = re.compile(r"'[^'\n]{1,1000}'?|\"[^\"\n]{1,1000}\"?|“[^”\n]{1,1000}”?|«[^»\n]{1,1000}»?")


class Redactor:
    """Patterns, and the secrets that our own settings hold, letter by letter."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({text for text in secrets if MIN_SECRET_CHARS <= len(text) <= MAX_SECRET_CHARS}, key=len)
        self._secrets = re.compile("|".join(re.escape(text) for text in reversed(known))) if known else None

    def text(self, value: str, *, quotes: bool = False) -> str:
        """``value`` without what it must not hold. ``quotes``: what stands in quotes goes too, as of errors' messages,
        which quote what they were given.
        """
        if self._secrets is not None:
            # Before the cut, which could leave the half of one.
            value = self._secrets.sub(KEPT_OUT, value[: MAX_CHARS + MAX_SECRET_CHARS])
        cut = len(value) > MAX_CHARS
        value = value[:MAX_CHARS]
        for pattern, instead in _PATTERNS:
            value = pattern.sub(instead, value)
        value = _NUMBERS.sub(_instead, value)
        if quotes:
            value = _QUOTED.sub("'…'", value)
        return value + "…" if cut else value


def _instead(match: re.Match[str]) -> str:
    if match["keep"] is not None:
        return match["keep"]
    if match["number"] is not None:
        return NUMBER
    # A long word without a digit is a function's name; with one it may open something.
    return TOKEN if any(letter.isdigit() for letter in match["token"]) else match["token"]
