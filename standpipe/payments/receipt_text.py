"""A receipt in words: its lines, and a text message."""

from typing import Any
from zoneinfo import ZoneInfo

from babel.core import Locale, UnknownLocaleError
from babel.dates import format_datetime

from standpipe.payments.receipts import GIVEN_BACK, ReceiptView
from standpipe.platform.language import to_translate, translate
from standpipe.platform.units import money_text, volume_text

NUMBER_DIGITS = 6
SMS_LENGTH = 160
_WORDS = {
    "SALE": to_translate("Receipt"),
    "GIVEN_BACK": to_translate("Credit note"),
    "PAID": to_translate("Paid"),
    "BACK": to_translate("Given back"),
    "METER": to_translate("Meter"),
    "HOW": to_translate("Paid by"),
    "CREDIT": to_translate("Credit"),
    "TIER": to_translate("Credit, tier {tier}: about {volume}"),
    "BOUGHT": to_translate("Water, tier {tier}: {volume}"),
    "RESIDUE": to_translate("Credit left over"),
    "OVERDRAWN": to_translate("Credit for water that had run already"),
    "RESIDUE_USED": to_translate("Credit left over from before"),
    "DEBT": to_translate("Repayment of what is owed"),
    "FEE": to_translate("Service fee"),
    "STANDING": to_translate("Standing charges"),
    "EMERGENCY": to_translate("Repayment of emergency credit"),
    "TAX": to_translate("Tax"),
    "DISCOUNT": to_translate("Discount"),
    "REFUND": to_translate("Refund"),
    "DISPUTED": to_translate("Taken back by the payer's bank"),
    "OTHER": to_translate("Other"),
    "NOTE": to_translate("Credit is priced when the water is used; volumes are at this period's use so far."),
    "NOTE_BOUGHT": to_translate(
        "This water is paid for, and goes to your meter. What makes no whole unit stays as credit."
    ),
    "WATER": to_translate("Water"),
}

_CREDIT = frozenset({"CREDIT", "TAX", "DISCOUNT", "RESIDUE", "OVERDRAWN"})
"""Lines that the credit consists of: what its water costs holds tax."""

_METHODS = {
    "stripe": to_translate("Card"),
    "stripe_checkout": to_translate("Card"),
    "mpesa": "M-Pesa",
    "momo": "MTN MoMo",
    "flutterwave": "Flutterwave",
    "agent": to_translate("Agent"),
    "voucher": to_translate("Voucher"),
    "sandbox": "Sandbox",
}


def method_text(view: ReceiptView, language: str) -> str:
    """Name the way that it was paid, and the number on the payer's own receipt."""
    name = translate(_METHODS.get(view.method_id, view.method_id), language)
    return f"{name}, {view.provider_receipt}" if view.provider_receipt else name


def word(name: str, language: str) -> str:
    """A word of a receipt."""
    return translate(_WORDS[name], language)


def number_text(view: ReceiptView) -> str:
    """A receipt's number as it is shown."""
    return f"{view.number:0{NUMBER_DIGITS}}"


def line_label(line: dict[str, Any], language: str) -> str:
    """Name a line of a receipt."""
    if "tier" in line:
        volume = volume_text(int(line["volume_ml"]), language)
        name = "BOUGHT" if line.get("bought") else "TIER"
        return word(name, language).format(tier=int(line["tier"]) + 1, volume=volume)
    used = line["kind"] == "RESIDUE" and int(line["amount_minor"]) < 0
    label = word("RESIDUE_USED" if used else str(line["kind"]), language)
    return f"{label}: {line['name']}" if line.get("name") else label


def note_text(view: ReceiptView, language: str) -> str:
    """Return the note at the foot of the page."""
    return word("NOTE_BOUGHT" if any(line.get("bought") for line in view.lines) else "NOTE", language)


def issued_text(view: ReceiptView, language: str, layout: str = "medium") -> str:
    """Return the time of issue, where the meter is."""
    try:
        locale = Locale.parse(language, sep="-")
    except (UnknownLocaleError, ValueError):
        locale = Locale("en")
    return format_datetime(view.issued_at.astimezone(ZoneInfo(view.time_zone)), layout, locale=locale)


def sms_text(view: ReceiptView, language: str) -> str:
    """The receipt as a text message of at most SMS_LENGTH characters: who, number, amount, credit, meter, day."""
    credit_minor = sum(int(line["amount_minor"]) for line in view.lines if line["kind"] in _CREDIT)
    bought_ml = sum(int(line["volume_ml"]) for line in view.lines if line.get("bought"))
    said = word("BACK" if view.kind == GIVEN_BACK else "PAID", language)
    credit = f"{word('CREDIT', language)} {money_text(credit_minor, view.currency, language)}"
    parts = [
        f"{view.utility_name[:40]} {word(view.kind, language)} {number_text(view)}",
        f"{said} {money_text(abs(view.paid_minor), view.currency, language)}",
        f"{word('WATER', language)} {volume_text(bought_ml, language)}" if bought_ml else credit,
        f"{word('METER', language)} {view.meter_serial[:24]}",
        f"{view.issued_at.astimezone(ZoneInfo(view.time_zone)):%Y-%m-%d}",
    ]
    return ". ".join(parts)[:SMS_LENGTH].replace("\u00a0", " ")


def guest_text(view: ReceiptView, language: str) -> str:
    """The receipt for a payer who is no member of the household: what they paid, and nothing of what it became."""
    said = word("BACK" if view.kind == GIVEN_BACK else "PAID", language)
    parts = [
        f"{view.utility_name[:40]} {word(view.kind, language)} {number_text(view)}",
        f"{said} {money_text(abs(view.paid_minor), view.currency, language)}",
        f"{word('METER', language)} {view.meter_serial[:24]}",
        f"{view.issued_at.astimezone(ZoneInfo(view.time_zone)):%Y-%m-%d}",
    ]
    return ". ".join(parts)[:SMS_LENGTH].replace("\u00a0", " ")
