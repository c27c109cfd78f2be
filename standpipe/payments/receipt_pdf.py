"""A receipt as a PDF page (A5), the same bytes for the same receipt. Pure."""

import io

from reportlab.lib.pagesizes import A5
from reportlab.pdfgen.canvas import Canvas

from standpipe.payments.receipt_text import issued_text, line_label, method_text, note_text, number_text, word
from standpipe.payments.receipts import GIVEN_BACK, ReceiptView
from standpipe.platform.pdf import BOLD, REGULAR, fitted, shown
from standpipe.platform.units import money_text

_LEFT, _RIGHT, _TOP = 40, A5[0] - 40, A5[1] - 50
_MAX_LINES = 18


def render(view: ReceiptView, language: str) -> bytes:
    """The page. A character that the font lacks is shown as "?", so that nothing keeps a receipt from being made."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A5, invariant=1, pageCompression=1)
    title = f"{word(view.kind, language)} {number_text(view)}"
    canvas.setTitle(title)
    canvas.setAuthor(shown(view.utility_name))
    y = _head(canvas, view, title, language)
    y = _lines(canvas, view, language, y)
    _total(canvas, view, language, y)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _head(canvas: Canvas, view: ReceiptView, title: str, language: str) -> float:
    canvas.setFont(BOLD, 15)
    canvas.drawString(_LEFT, _TOP, fitted(view.utility_name, BOLD, 15, _RIGHT - _LEFT))
    canvas.setFont(REGULAR, 11)
    canvas.drawString(_LEFT, _TOP - 20, shown(title))
    canvas.setStrokeColorRGB(0.72, 0.79, 0.82)
    canvas.line(_LEFT, _TOP - 30, _RIGHT, _TOP - 30)
    y: float = _TOP - 50
    facts = [(word("METER", language), view.meter_serial), (word("HOW", language), method_text(view, language))]
    for name, value in [("", issued_text(view, language)), *facts]:
        canvas.setFont(REGULAR, 9)
        canvas.setFillColorRGB(0.29, 0.40, 0.45)
        canvas.drawString(_LEFT, y, shown(name))
        canvas.setFillColorRGB(0.07, 0.19, 0.24)
        left = _LEFT + (80 if name else 0)
        canvas.drawString(left, y, fitted(value, REGULAR, 9, _RIGHT - left))
        y -= 16
    return y - 14


def _lines(canvas: Canvas, view: ReceiptView, language: str, y: float) -> float:
    canvas.setFont(REGULAR, 9)
    sign = -1 if view.kind == GIVEN_BACK else 1
    printed = list(view.lines[:_MAX_LINES])
    rest_minor = sum(int(line["amount_minor"]) for line in view.lines[_MAX_LINES:])
    if rest_minor:
        printed.append({"kind": "OTHER", "amount_minor": rest_minor})
    for line in printed:
        amount = money_text(sign * int(line["amount_minor"]), view.currency, language)
        canvas.drawString(_LEFT, y, fitted(line_label(line, language), REGULAR, 9, 230))
        canvas.drawRightString(_RIGHT, y, shown(amount))
        y -= 16
    return y


def _total(canvas: Canvas, view: ReceiptView, language: str, y: float) -> None:
    canvas.line(_LEFT, y + 4, _RIGHT, y + 4)
    canvas.setFont(BOLD, 11)
    name = word("BACK" if view.kind == GIVEN_BACK else "PAID", language)
    canvas.drawString(_LEFT, y - 12, shown(name))
    canvas.drawRightString(_RIGHT, y - 12, shown(money_text(abs(view.paid_minor), view.currency, language)))
    canvas.setFont(REGULAR, 7)
    canvas.setFillColorRGB(0.29, 0.40, 0.45)
    canvas.drawString(_LEFT, 36, fitted(note_text(view, language), REGULAR, 7, _RIGHT - _LEFT))
