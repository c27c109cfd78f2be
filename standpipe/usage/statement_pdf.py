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
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from standpipe.pdf import BOLD, REGULAR, fitted, shown
from standpipe.units import ML_PER_LITRE, money_text, volume_text
from standpipe.usage.statement_body import StatementBody
from standpipe.usage.statement_text import line_text, month_text, movement_text, word

_MARGIN = 48
_WIDTH = A4[0] - 2 * _MARGIN
_AMOUNT = 110
_INK, _QUIET, _LINE, _WATER = HexColor("#12303d"), HexColor("#4a6673"), HexColor("#b8c9d1"), HexColor("#2b8ca3")
_TITLE = ParagraphStyle("title", fontName=BOLD, fontSize=16, leading=20, textColor=_INK)
_SUB = ParagraphStyle("sub", fontName=REGULAR, fontSize=9, leading=13, textColor=_QUIET)
_HEAD = ParagraphStyle("head", fontName=BOLD, fontSize=10, leading=16, textColor=_INK, spaceBefore=8)


def render(body: StatementBody, number: str | None, language: str) -> bytes:
    """The pages. ``number`` is None for a month that is not closed."""
    buffer = io.BytesIO()
    month = month_text(body.period_start, language)
    title = f"{word('TITLE', language)} {number or '(' + word('DRAFT', language) + ')'}: {month}"
    page = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN,
        title=title,
        author=shown(body.utility_name),
        invariant=1,
    )
    page.build(
        [
            Paragraph(_plain(body.utility_name), _TITLE),
            Paragraph(_plain(title), _SUB),
            Paragraph(_plain(f"{word('METER', language)} {body.serial}, {body.label}"), _SUB),
            Spacer(1, 8),
            _wallet(body, language),
            *_owed(body, language),
            Paragraph(_plain(f"{word('DAILY', language)} ({volume_text(body.use.volume_ml, language)})"), _HEAD),
            _plot(body),
            Paragraph(_plain(word("NOTE", language)), _SUB),
        ]
    )
    return buffer.getvalue()


def _wallet(body: StatementBody, language: str) -> Table:
    """Opening, what came in, what was used and what for, adjustments, closing: a sum that anybody can add up."""
    span, zone = body.accounts["WALLET"], ZoneInfo(body.time_zone)
    rows: list[tuple[str, int, bool]] = [(word("OPENING", language), span.opening_minor, True)]
    for item in body.movements:
        if item.amounts.get("WALLET"):
            label = f"{item.at.astimezone(zone):%d.%m.} {movement_text(item, body.currency, language)}"
            rows.append((label, item.amounts["WALLET"], False))
    rows.extend((line_text(item, body.currency, language), -item.amount_minor, False) for item in body.use.lines)
    for change in body.adjustments:
        if change.account == "WALLET":
            label = word("ADJUSTED", language).format(
                month=month_text(change.period_start, language),
                was=money_text(change.was.total_minor, body.currency, language),
                now=money_text(change.now.total_minor, body.currency, language),
            )
            rows.append((label, -change.difference_minor, False))
    rows.append((word("CLOSING", language), span.closing_minor, True))
    return _table(rows, body.currency, language)


def _owed(body: StatementBody, language: str) -> list[Any]:
    """Each account on which something is owed, or was."""
    found: list[Any] = []
    for kind in ("STANDING_DUE", "RECEIVABLE", "EMERGENCY"):
        span = body.accounts[kind]
        rows = [(word("OWED", language), -span.opening_minor, True)]
        if kind == "STANDING_DUE":
            rows.extend(
                (line_text(item, body.currency, language), item.amount_minor, False) for item in body.standing.lines
            )
        rows.extend(
            (movement_text(item, body.currency, language), -item.amounts[kind], False)
            for item in body.movements
            if item.amounts.get(kind)
        )
        rows.extend(
            (month_text(item.period_start, language), item.difference_minor, False)
            for item in body.adjustments
            if item.account == kind
        )
        if len(rows) == 1 and not span.opening_minor:
            continue
        rows.append((word("OWED", language), -span.closing_minor, True))
        found.extend([Paragraph(_plain(word(f"DUE_{kind}", language)), _HEAD), _table(rows, body.currency, language)])
    return found


def _table(rows: list[tuple[str, int, bool]], currency: str, language: str) -> Table:
    cells = [
        [
            fitted(label, BOLD if strong else REGULAR, 9, _WIDTH - _AMOUNT - 12),
            shown(money_text(amount_minor, currency, language)),
        ]
        for label, amount_minor, strong in rows
    ]
    table = Table(cells, colWidths=[_WIDTH - _AMOUNT, _AMOUNT], rowHeights=15, repeatRows=0)
    style: list[Any] = [
        ("FONT", (0, 0), (-1, -1), REGULAR, 9),
        ("TEXTCOLOR", (0, 0), (-1, -1), _INK),
        ("ALIGN", (1, 0), (1, -1), "RIGHT"),
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
    chart.valueAxis.labels.fontName = chart.categoryAxis.labels.fontName = REGULAR
    chart.valueAxis.labels.fontSize = chart.categoryAxis.labels.fontSize = 7
    chart.valueAxis.strokeColor = chart.categoryAxis.strokeColor = _LINE
    chart.categoryAxis.categoryNames = [str(day.day) if day.day % 2 else "" for day in days]
    drawing.add(chart)
    return drawing


def _plain(text: str) -> str:
    """Paragraphs read markup; a name is none."""
    return shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
