"""A receipt as a PDF page (A5), the same bytes for the same receipt. Pure."""

import io
from pathlib import Path

import reportlab
from reportlab.lib.pagesizes import A5
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from standpipe.payments.receipt_text import issued_text, line_label, method_text, number_text, word
from standpipe.payments.receipts import GIVEN_BACK, ReceiptView
from standpipe.units import money_text

_FONTS = Path(reportlab.__file__).parent / "fonts"
_REGULAR, _BOLD = "Vera", "VeraBd"
_LEFT, _RIGHT, _TOP = 40, A5[0] - 40, A5[1] - 50
_MAX_LINES = 18
pdfmetrics.registerFont(TTFont(_REGULAR, _FONTS / "Vera.ttf"))
pdfmetrics.registerFont(TTFont(_BOLD, _FONTS / "VeraBd.ttf"))
_KNOWN = pdfmetrics.getFont(_REGULAR).face.charToGlyph


def render(view: ReceiptView, language: str) -> bytes:
    """The page. A character that the font lacks is shown as "?", so that nothing keeps a receipt from being made."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A5, invariant=1, pageCompression=1)
    title = f"{word(view.kind, language)} {number_text(view)}"
    canvas.setTitle(title)
    canvas.setAuthor(_shown(view.utility_name))
    y = _head(canvas, view, title, language)
    y = _lines(canvas, view, language, y)
    _total(canvas, view, language, y)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _head(canvas: Canvas, view: ReceiptView, title: str, language: str) -> float:
    canvas.setFont(_BOLD, 15)
    canvas.drawString(_LEFT, _TOP, _fitted(view.utility_name, _BOLD, 15, _RIGHT - _LEFT))
    canvas.setFont(_REGULAR, 11)
    canvas.drawString(_LEFT, _TOP - 20, _shown(title))
    canvas.setStrokeColorRGB(0.72, 0.79, 0.82)
    canvas.line(_LEFT, _TOP - 30, _RIGHT, _TOP - 30)
    y: float = _TOP - 50
    facts = [(word("METER", language), view.meter_serial), (word("HOW", language), method_text(view))]
    for name, value in [("", issued_text(view, language)), *facts]:
        canvas.setFont(_REGULAR, 9)
        canvas.setFillColorRGB(0.29, 0.40, 0.45)
        canvas.drawString(_LEFT, y, _shown(name))
        canvas.setFillColorRGB(0.07, 0.19, 0.24)
        left = _LEFT + (80 if name else 0)
        canvas.drawString(left, y, _fitted(value, _REGULAR, 9, _RIGHT - left))
        y -= 16
    return y - 14


def _lines(canvas: Canvas, view: ReceiptView, language: str, y: float) -> float:
    canvas.setFont(_REGULAR, 9)
    sign = -1 if view.kind == GIVEN_BACK else 1
    shown = list(view.lines[:_MAX_LINES])
    rest_minor = sum(int(line["amount_minor"]) for line in view.lines[_MAX_LINES:])
    if rest_minor:
        shown.append({"kind": "OTHER", "amount_minor": rest_minor})
    for line in shown:
        amount = money_text(sign * int(line["amount_minor"]), view.currency, language)
        canvas.drawString(_LEFT, y, _fitted(line_label(line, language), _REGULAR, 9, 230))
        canvas.drawRightString(_RIGHT, y, _shown(amount))
        y -= 16
    return y


def _total(canvas: Canvas, view: ReceiptView, language: str, y: float) -> None:
    canvas.line(_LEFT, y + 4, _RIGHT, y + 4)
    canvas.setFont(_BOLD, 11)
    name = word("BACK" if view.kind == GIVEN_BACK else "PAID", language)
    canvas.drawString(_LEFT, y - 12, _shown(name))
    canvas.drawRightString(_RIGHT, y - 12, _shown(money_text(abs(view.paid_minor), view.currency, language)))
    canvas.setFont(_REGULAR, 7)
    canvas.setFillColorRGB(0.29, 0.40, 0.45)
    canvas.drawString(_LEFT, 36, _fitted(word("NOTE", language), _REGULAR, 7, _RIGHT - _LEFT))


def _shown(text: str) -> str:
    spaced = text.replace("\u00a0", " ").replace("\u202f", " ").replace("\u200f", "").replace("\u200e", "")
    return "".join(char if ord(char) in _KNOWN else "?" for char in spaced)


def _fitted(text: str, font: str, size: int, width: float) -> str:
    shown = _shown(text)
    while shown and pdfmetrics.stringWidth(shown, font, size) > width:
        shown = shown[:-2].rstrip(" …") + "…"
        if len(shown) < 3:  # noqa: PLR2004 - nothing sensible is left to cut.
            break
    return shown
