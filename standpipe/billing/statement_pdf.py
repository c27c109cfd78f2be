"""A statement as PDF pages (A4) with a plot of the month's days; the same bytes for the same statement. Pure."""

import io
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from reportlab.graphics.charts.barcharts import VerticalBarChart
from reportlab.graphics.shapes import Drawing
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.platypus import KeepTogether, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from standpipe.billing.statement_body import StatementBody
from standpipe.billing.statement_text import day_text, line_text, month_text, movement_text, word
from standpipe.platform.pdf import BOLD, REGULAR, fitted, shown
from standpipe.platform.units import ML_PER_LITRE, money_text, volume_text

_MARGIN = 48
_WIDTH = A4[0] - 2 * _MARGIN
_AMOUNT = 110
_INK, _QUIET, _LINE, _WATER = HexColor("#12303d"), HexColor("#4a6673"), HexColor("#b8c9d1"), HexColor("#2b8ca3")
_TITLE = ParagraphStyle("title", fontName=BOLD, fontSize=16, leading=20, textColor=_INK)
_SUB = ParagraphStyle("sub", fontName=REGULAR, fontSize=9, leading=13, textColor=_QUIET)
_HEAD = ParagraphStyle("head", fontName=BOLD, fontSize=10, leading=16, textColor=_INK, spaceBefore=8, keepWithNext=1)
_PADDING = 6
"""Space that the library keeps free inside its frame."""
_LEAST_TOP = 100
"""Litres that the plot's axis reaches at least: nothing used is a line at nought, not at a hundredth."""


def render(body: StatementBody, number: str | None, language: str) -> bytes:
    """The pages. ``number`` is None for a month that is not closed."""
    buffer = io.BytesIO()
    month = month_text(body.period_start, language)
    title = f"{word('TITLE', language)} {number or '(' + word('DRAFT', language) + ')'}: {month}"
    margin = _MARGIN - _PADDING
    page = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=margin,
        rightMargin=margin,
        topMargin=margin,
        bottomMargin=margin,
        title=title,
        author=shown(body.utility_name),
        invariant=1,
    )
    parts = [
        Paragraph(_plain(body.utility_name), _TITLE),
        Spacer(1, 4),
        Paragraph(_plain(title), _SUB),
        Paragraph(_plain(f"{word('METER', language)} {body.serial}, {body.label}"), _SUB),
        Spacer(1, 8),
        _table(wallet_rows(body, language), body.currency, language),
        *_owed(body, language),
        *_daily(body, language, closed=number is not None),
        Paragraph(_plain(word("NOTE", language)), _SUB),
    ]
    foot = shown(f"{body.serial}, {month}")
    page.build(
        parts,
        onFirstPage=lambda canvas, _: _foot(canvas, foot),
        onLaterPages=lambda canvas, _: _foot(canvas, foot),
    )
    return buffer.getvalue()


def _foot(canvas: Any, text: str) -> None:
    canvas.setFont(REGULAR, 7)
    canvas.setFillColor(_QUIET)
    canvas.drawString(_MARGIN, _MARGIN / 2, fitted(text, REGULAR, 7, _WIDTH - 40))
    canvas.drawRightString(A4[0] - _MARGIN, _MARGIN / 2, str(canvas.getPageNumber()))


def wallet_rows(body: StatementBody, language: str) -> list[tuple[str, int, bool]]:
    """Opening, what came in, what was used and what for, adjustments, closing: a sum that anybody can add up.

    Label, amount in minor units, and whether the row stands out.
    """
    span = body.accounts["WALLET"]
    rows: list[tuple[str, int, bool]] = [(word("OPENING", language), span.opening_minor, True)]
    rows.extend(_moved(body, "WALLET", 1, language))
    rows.extend((line_text(item, body.currency, language), -item.amount_minor, False) for item in body.use.lines)
    rows.extend(_adjusted(body, "WALLET", -1, language))
    rows.append((word("CLOSING", language), span.closing_minor, True))
    return rows


def owed_rows(body: StatementBody, kind: str, language: str) -> list[tuple[str, int, bool]]:
    """Lay out an account on which something is owed, like ``rows``, in amounts owed; none where nothing ever was."""
    span = body.accounts[kind]
    rows: list[tuple[str, int, bool]] = []
    if kind == "STANDING_DUE":
        rows.extend(
            (line_text(item, body.currency, language), item.amount_minor, False) for item in body.standing.lines
        )
    rows.extend(_moved(body, kind, -1, language))
    rows.extend(_adjusted(body, kind, 1, language))
    if not rows and not span.opening_minor:
        return []
    before = (word("OWED_BEFORE", language), -span.opening_minor, True)
    return [before, *rows, (word("OWED", language), -span.closing_minor, True)]


def _moved(body: StatementBody, kind: str, sign: int, language: str) -> list[tuple[str, int, bool]]:
    zone = ZoneInfo(body.time_zone)
    return [
        (
            f"{day_text(item.at.astimezone(zone).date(), language)} – {movement_text(item, body.currency, language)}",
            sign * item.amounts[kind],
            False,
        )
        for item in body.movements
        if item.amounts.get(kind)
    ]


def _adjusted(body: StatementBody, kind: str, sign: int, language: str) -> list[tuple[str, int, bool]]:
    return [
        (
            word("ADJUSTED", language).format(
                month=month_text(item.period_start, language),
                was=money_text(item.was.total_minor, body.currency, language),
                now=money_text(item.now.total_minor, body.currency, language),
            ),
            sign * item.difference_minor,
            False,
        )
        for item in body.adjustments
        if item.account == kind
    ]


def _owed(body: StatementBody, language: str) -> list[Any]:
    found: list[Any] = []
    for kind in ("STANDING_DUE", "RECEIVABLE", "EMERGENCY"):
        rows = owed_rows(body, kind, language)
        if rows:
            head = Paragraph(_plain(word(f"DUE_{kind}", language)), _HEAD)
            found.extend([head, _table(rows, body.currency, language)])
    return found


def _daily(body: StatementBody, language: str, *, closed: bool) -> list[Any]:
    """The plot under its heading. Days without a reading are no days without use, so it says how many there are."""
    silent = (body.period_end - body.period_start).days - len(body.daily_ml)
    facts = [volume_text(body.use.volume_ml, language)]
    if closed and silent:
        facts.append(word("SILENT", language).format(days=silent))
    head = Paragraph(_plain(f"{word('DAILY', language)} ({', '.join(facts)})"), _HEAD)
    return [KeepTogether([head, _plot(body)])] if body.daily_ml else [head]


def _table(rows: list[tuple[str, int, bool]], currency: str, language: str) -> Table:
    cells = [
        [
            fitted(label, BOLD if strong else REGULAR, 9, _WIDTH - _AMOUNT - 12),
            shown(money_text(amount_minor, currency, language)),
        ]
        for label, amount_minor, strong in rows
    ]
    table = Table(cells, colWidths=[_WIDTH - _AMOUNT, _AMOUNT], rowHeights=15, hAlign="LEFT")
    style: list[Any] = [
        ("FONT", (0, 0), (-1, -1), REGULAR, 9),
        ("TEXTCOLOR", (0, 0), (-1, -1), _INK),
        ("ALIGN", (1, 0), (1, -1), "RIGHT"),
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 0),
        ("LINEABOVE", (0, -1), (-1, -1), 0.5, _LINE),
    ]
    style.extend(("FONT", (0, index), (-1, index), BOLD, 9) for index, row in enumerate(rows) if row[2])
    table.setStyle(TableStyle(style))
    return table


def _plot(body: StatementBody) -> Drawing:
    days = [body.period_start + timedelta(days=n) for n in range((body.period_end - body.period_start).days)]
    drawing = Drawing(_WIDTH, 150)
    chart = VerticalBarChart()
    chart.x, chart.y, chart.width, chart.height = 34, 22, _WIDTH - 40, 118
    chart.data = [[body.daily_ml.get(day, 0) / ML_PER_LITRE for day in days]]
    chart.bars[0].fillColor, chart.bars[0].strokeColor = _WATER, None
    chart.valueAxis.valueMin = 0
    if max(chart.data[0]) < _LEAST_TOP:
        chart.valueAxis.valueMax = _LEAST_TOP
    chart.valueAxis.labels.fontName = chart.categoryAxis.labels.fontName = REGULAR
    chart.valueAxis.labels.fontSize = chart.categoryAxis.labels.fontSize = 7
    chart.valueAxis.strokeColor = chart.categoryAxis.strokeColor = _LINE
    chart.categoryAxis.categoryNames = [str(day.day) if day.day % 2 else "" for day in days]
    drawing.add(chart)
    return drawing


def _plain(text: str) -> str:
    """Paragraphs read markup; a name is none."""
    return shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
