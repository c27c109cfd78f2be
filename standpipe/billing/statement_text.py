"""A statement in words."""

from datetime import date
from decimal import Decimal

from babel.core import Locale, UnknownLocaleError
from babel.dates import format_date, format_skeleton
from babel.numbers import format_currency

from standpipe.billing.statement_body import Movement, StatementLine
from standpipe.platform.language import to_translate, translate
from standpipe.platform.units import currency_exponent, money_text, volume_text

_WORDS = {
    "TITLE": to_translate("Statement"),
    "DRAFT": to_translate("so far"),
    "METER": to_translate("Meter"),
    "OPENING": to_translate("Credit at the beginning"),
    "CLOSING": to_translate("Credit at the end"),
    "TOP_UP": to_translate("Top-up"),
    "TAKEN_BACK": to_translate("Payment taken back"),
    "REFUND_HELD": to_translate("Set aside for a refund"),
    "REFUND_RELEASED": to_translate("Refund that did not happen"),
    "EMERGENCY": to_translate("Emergency credit"),
    "ARREARS": to_translate("Arrears from before"),
    "OTHER": to_translate("Other"),
    "WATER": to_translate("Water, block {tier}"),
    "ALLOWANCE": to_translate("Free allowance"),
    "STANDING": "{name}",
    "LEVY": "{name}",
    "DISCOUNT": "{name}",
    "ELSEWHERE": to_translate("Booked in another month"),
    "USE": to_translate("Water used"),
    "CHARGES": to_translate("Charges"),
    "FIXED": to_translate("Standing charges"),
    "OWED": to_translate("Owed at the end"),
    "ADJUSTED": to_translate("{month} came to {now} instead of {was}"),
    "PAID": to_translate("paid {paid}"),
    "DAILY": to_translate("Water by day, litres"),
    "DUE_STANDING_DUE": to_translate("Standing charges due"),
    "DUE_RECEIVABLE": to_translate("Arrears"),
    "DUE_EMERGENCY": to_translate("Emergency credit in use"),
    "DAYS": to_translate("{days} days"),
    "OWED_BEFORE": to_translate("Owed at the beginning"),
    "SILENT": to_translate("days without a reading: {days}"),
    "NOTE": to_translate("Readings that come later are shown in a later statement, as an adjustment of this month."),
}


def word(name: str, language: str) -> str:
    """A word of a statement; the code of a thing that has no word stands for "other"."""
    return translate(_WORDS.get(name, _WORDS["OTHER"]), language)


def month_text(month: date, language: str) -> str:
    """A month as its reader writes it."""
    return format_date(month, "LLLL y", locale=_locale(language))


def day_text(day: date, language: str) -> str:
    """A day of the month as its reader writes it, without the year."""
    return format_skeleton("MMMd", day, locale=_locale(language))


def _locale(language: str) -> Locale:
    try:
        return Locale.parse(language, sep="-")
    except (UnknownLocaleError, ValueError):
        return Locale("en")


def _rate_text(rate_minor: Decimal, currency: str, language: str) -> str:
    """A price per cubic metre with all its digits: it may have more than its currency."""
    amount = rate_minor.scaleb(-currency_exponent(currency)).normalize()
    return format_currency(amount, currency, locale=_locale(language), decimal_quantization=False)


def line_text(line: StatementLine, currency: str, language: str) -> str:
    """Describe a line of the bill: block, volume, price; or the charge's name and its days."""
    label = word(line.kind, language).format(tier=(line.tier or 0) + 1, name=line.name)
    if line.kind in {"WATER", "ALLOWANCE"}:
        label += f": {volume_text(line.quantity, language)}"
        if line.rate:
            label += f" × {_rate_text(line.rate, currency, language)}/m³"
    elif line.kind == "STANDING":
        label += f", {word('DAYS', language).format(days=line.quantity)}"
    return label


def movement_text(movement: Movement, currency: str, language: str) -> str:
    """Describe a movement."""
    label = word(movement.kind, language)
    if movement.paid_minor:
        label += f" ({word('PAID', language).format(paid=money_text(movement.paid_minor, currency, language))})"
    return label
