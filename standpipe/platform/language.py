"""Languages of what people read: gettext catalogues in ``standpipe/locale``, English where one is not there yet.

A sentence stands in the code in English, inside ``to_translate`` or ``phrase``, which also mark it for the extractor;
a test compares the catalogues with the code, so that a sentence without its translations does not pass.
"""

import gettext
import io
from functools import cache
from importlib.resources import files
from typing import Any, Self

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

SOURCE = "en"
LANGUAGES = (SOURCE, "sw", "fr")
"""The languages that are spoken (BCP 47), the one of the code first."""


class Phrase(str):
    """A sentence in English that remembers how to be said in another language.

    It is a text, so errors, logs and tests that know no language use it as they always did. ``message`` is the English
    sentence with its gaps, ``gaps`` what fills them.
    """

    __slots__ = ("gaps", "message")

    message: str
    gaps: dict[str, Any]

    def __new__(cls, message: str, gaps: dict[str, Any]) -> Self:
        """Fill the gaps of the English sentence."""
        made = super().__new__(cls, message.format(**gaps) if gaps else message)
        made.message, made.gaps = message, gaps
        return made

    def __getnewargs__(self) -> tuple[str, dict[str, Any]]:  # type: ignore[override]  # str knows one argument.
        """Copies are made as the first was."""
        return self.message, self.gaps


def phrase(message: str, /, **gaps: Any) -> Phrase:
    """Say something that may be translated later, by whoever knows the reader (``in_language``)."""
    return Phrase(message, gaps)


NOT_AVAILABLE = phrase("Not available at the moment. Please try again shortly.")
"""The answer of every door while the database is away."""


def to_translate(message: str) -> str:
    """Mark a sentence that ``translate`` will be asked for; it stays as it is."""
    return message


def language_of(accept_language: str | None) -> str:
    """The first language that a client names (``Accept-Language``), as BCP 47; English where it names none."""
    first = (accept_language or SOURCE).split(",")[0].split(";")[0].strip()
    return first if first.replace("-", "").isalnum() and first.isascii() else SOURCE


def in_language(text: str, language: str) -> str:
    """A phrase in the reader's language; any other text as it is."""
    if not isinstance(text, Phrase):
        return text
    said = translate(text.message, language)
    return said.format(**{name: in_language(gap, language) for name, gap in text.gaps.items()}) if text.gaps else said


def translate(message: str, language: str) -> str:
    """A marked sentence in a language (BCP 47: ``sw``, ``fr-CI``), its gaps still open."""
    return _catalogue(spoken(language)).gettext(message) if message else ""


def translate_many(one: str, many: str, count: int, language: str) -> str:
    """A sentence about ``count`` things in a language, its gaps still open."""
    return _catalogue(spoken(language)).ngettext(one, many, count)


def spoken(language: str) -> str:
    """The language of ``LANGUAGES`` in which somebody with this one (BCP 47) is spoken to."""
    short = language.replace("_", "-").partition("-")[0].lower()
    return short if short in LANGUAGES else SOURCE


@cache
def _catalogue(language: str) -> gettext.NullTranslations:
    if language == SOURCE:
        return gettext.NullTranslations()
    with (files("standpipe") / "locale" / f"{language}.po").open("rb") as file:
        catalogue = read_po(file, locale=language)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)
