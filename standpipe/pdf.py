"""What our printed pages share: fonts, and text made to fit. Pure."""

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
    """A text in the font's characters; any other is shown as "?", so that nothing keeps a page from being made."""
    spaced = text.replace("\u00a0", " ").replace("\u202f", " ").replace("\u200f", "").replace("\u200e", "")
    return "".join(char if ord(char) in _KNOWN else "?" for char in spaced)


def fitted(text: str, font: str, size: float, width: float) -> str:
    """A text cut to a width in points."""
    cut = shown(text)
    while cut and pdfmetrics.stringWidth(cut, font, size) > width:
        cut = cut[:-2].rstrip(" …") + "…"
        if len(cut) < 3:  # noqa: PLR2004 - nothing sensible is left to cut.
            break
    return cut
