"""Tools that our printed pages share: fonts, and text made to fit. Pure."""

import unicodedata
from pathlib import Path

import reportlab
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

REGULAR, BOLD = "Vera", "VeraBd"
_FONTS = Path(reportlab.__file__).parent / "fonts"
pdfmetrics.registerFont(TTFont(REGULAR, _FONTS / "Vera.ttf"))
pdfmetrics.registerFont(TTFont(BOLD, _FONTS / "VeraBd.ttf"))
_KNOWN = pdfmetrics.getFont(REGULAR).face.charToGlyph


def shown(text: str) -> str:
    """A text in the font's characters, so that nothing keeps a page from being made.

    A letter that the font lacks loses its marks (Wanjikũ: Wanjiku); what is still not known is shown as "?".
    """
    spaced = text.replace("\u00a0", " ").replace("\u202f", " ").replace("\u200f", "").replace("\u200e", "")
    return "".join(_in_font(char) for char in unicodedata.normalize("NFC", spaced))


def _in_font(char: str) -> str:
    if ord(char) in _KNOWN:
        return char
    bare = "".join(part for part in unicodedata.normalize("NFKD", char) if ord(part) in _KNOWN)
    return bare or ("" if unicodedata.combining(char) else "?")


def fitted(text: str, font: str, size: float, width: float) -> str:
    """A text cut to a width in points."""
    cut = shown(text)
    while cut and pdfmetrics.stringWidth(cut, font, size) > width:
        cut = cut[:-2].rstrip(" …") + "…"
        if len(cut) < 3:  # noqa: PLR2004 - nothing sensible is left to cut.
            break
    return cut
