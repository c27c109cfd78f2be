"""A statement in words. Pure; English where a language is not spoken yet."""

from datetime import date
from decimal import Decimal

from babel.core import Locale, UnknownLocaleError
from babel.dates import format_date, format_skeleton
from babel.numbers import format_currency

from standpipe.platform.units import currency_exponent, money_text, volume_text
from standpipe.usage.statement_body import Movement, StatementLine

_WORDS: dict[str, dict[str, str]] = {
    "en": {
        "TITLE": "Statement", "DRAFT": "so far", "METER": "Meter", "OPENING": "Credit at the beginning",
        "CLOSING": "Credit at the end", "TOP_UP": "Top-up", "TAKEN_BACK": "Payment taken back",
        "REFUND_HELD": "Set aside for a refund", "REFUND_RELEASED": "Refund that did not happen",
        "EMERGENCY": "Emergency credit", "ARREARS": "Arrears from before", "OTHER": "Other",
        "WATER": "Water, block {tier}", "ALLOWANCE": "Free allowance", "STANDING": "{name}", "LEVY": "{name}",
        "DISCOUNT": "{name}", "ELSEWHERE": "Booked in another month", "USE": "Water used", "CHARGES": "Charges",
        "FIXED": "Standing charges", "OWED": "Owed at the end", "ADJUSTED": "{month} came to {now} instead of {was}",
        "PAID": "paid {paid}", "DAILY": "Water by day, litres", "DUE_STANDING_DUE": "Standing charges due",
        "DUE_RECEIVABLE": "Arrears", "DUE_EMERGENCY": "Emergency credit in use", "DAYS": "{days} days",
        "OWED_BEFORE": "Owed at the beginning", "SILENT": "days without a reading: {days}",
        "NOTE": "Readings that come later are shown in a later statement, as an adjustment of this month.",
    },
    "sw": {
        "TITLE": "Taarifa", "DRAFT": "hadi sasa", "METER": "Mita", "OPENING": "Salio mwanzoni",
        "CLOSING": "Salio mwishoni", "TOP_UP": "Kuongeza salio", "TAKEN_BACK": "Malipo yaliyorudishwa",
        "REFUND_HELD": "Imetengwa kurudishwa", "REFUND_RELEASED": "Marejesho hayakufanyika",
        "EMERGENCY": "Salio la dharura", "ARREARS": "Deni la awali", "OTHER": "Nyingine",
        "WATER": "Maji, daraja {tier}", "ALLOWANCE": "Maji ya bure", "STANDING": "{name}", "LEVY": "{name}",
        "DISCOUNT": "{name}", "ELSEWHERE": "Imewekwa mwezi mwingine", "USE": "Maji yaliyotumika", "CHARGES": "Gharama",
        "FIXED": "Ada za kudumu", "OWED": "Deni mwishoni", "ADJUSTED": "{month} ilifika {now} badala ya {was}",
        "PAID": "imelipwa {paid}", "DAILY": "Maji kwa siku, lita", "DUE_STANDING_DUE": "Ada za kudumu zinazodaiwa",
        "DUE_RECEIVABLE": "Deni", "DUE_EMERGENCY": "Salio la dharura linalotumika", "DAYS": "siku {days}",
        "OWED_BEFORE": "Deni mwanzoni", "SILENT": "siku bila usomaji: {days}",
        "NOTE": "Usomaji unaofika baadaye huonyeshwa kwenye taarifa ya baadaye, kama marekebisho ya mwezi huu.",
    },
    "fr": {
        "TITLE": "Relevé", "DRAFT": "à ce jour", "METER": "Compteur", "OPENING": "Crédit au début",
        "CLOSING": "Crédit à la fin", "TOP_UP": "Recharge", "TAKEN_BACK": "Paiement repris",
        "REFUND_HELD": "Mis de côté pour remboursement", "REFUND_RELEASED": "Remboursement sans suite",
        "EMERGENCY": "Crédit d'urgence", "ARREARS": "Arriérés", "OTHER": "Autre",
        "WATER": "Eau, tranche {tier}", "ALLOWANCE": "Volume gratuit", "STANDING": "{name}", "LEVY": "{name}",
        "DISCOUNT": "{name}", "ELSEWHERE": "Compté dans un autre mois", "USE": "Eau consommée", "CHARGES": "Charges",
        "FIXED": "Charges fixes", "OWED": "Dû à la fin", "ADJUSTED": "{month} : {now} au lieu de {was}",
        "PAID": "payé {paid}", "DAILY": "Eau par jour, litres", "DUE_STANDING_DUE": "Charges fixes dues",
        "DUE_RECEIVABLE": "Arriérés", "DUE_EMERGENCY": "Crédit d'urgence utilisé", "DAYS": "{days} jours",
        "OWED_BEFORE": "Dû au début", "SILENT": "jours sans relevé : {days}",
        "NOTE": "Les relevés tardifs figurent sur un relevé suivant, comme ajustement de ce mois.",
    },
}  # fmt: skip


def word(name: str, language: str) -> str:
    """A word of a statement; the code of a thing that has no word stands for "other"."""
    words = _WORDS.get(language.replace("_", "-").partition("-")[0].lower(), _WORDS["en"])
    return words.get(name, words["OTHER"])


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
    """What a line of the bill is about: block, volume, price; or the charge's name and its days."""
    label = word(line.kind, language).format(tier=(line.tier or 0) + 1, name=line.name)
    if line.kind in {"WATER", "ALLOWANCE"}:
        label += f": {volume_text(line.quantity, language)}"
        if line.rate:
            label += f" × {_rate_text(line.rate, currency, language)}/m³"
    elif line.kind == "STANDING":
        label += f", {word('DAYS', language).format(days=line.quantity)}"
    return label


def movement_text(movement: Movement, currency: str, language: str) -> str:
    """What a movement was."""
    label = word(movement.kind, language)
    if movement.paid_minor:
        label += f" ({word('PAID', language).format(paid=money_text(movement.paid_minor, currency, language))})"
    return label
