"""A receipt in words: its lines, and a text message. Pure. English where a language is not spoken yet."""

from typing import Any
from zoneinfo import ZoneInfo

from babel.core import Locale, UnknownLocaleError
from babel.dates import format_datetime

from standpipe.payments.receipts import GIVEN_BACK, ReceiptView
from standpipe.platform.units import money_text, volume_text

NUMBER_DIGITS = 6
SMS_LENGTH = 160
_WORDS: dict[str, dict[str, str]] = {
    "en": {
        "SALE": "Receipt",
        "GIVEN_BACK": "Credit note",
        "PAID": "Paid",
        "BACK": "Given back",
        "METER": "Meter",
        "HOW": "Paid by",
        "CREDIT": "Credit",
        "TIER": "Credit, tier {tier}: about {volume}",
        "BOUGHT": "Water, tier {tier}: {volume}",
        "RESIDUE": "Credit left over",
        "OVERDRAWN": "Credit for water that had run already",
        "RESIDUE_USED": "Credit left over from before",
        "DEBT": "Repayment of what is owed",
        "FEE": "Service fee",
        "STANDING": "Standing charges",
        "EMERGENCY": "Repayment of emergency credit",
        "TAX": "Tax",
        "DISCOUNT": "Discount",
        "REFUND": "Refund",
        "DISPUTED": "Taken back by the payer's bank",
        "OTHER": "Other",
        "NOTE": "Credit is priced when the water is used; volumes are at this period's use so far.",
        "NOTE_BOUGHT": "This water is paid for, and goes to your meter. What makes no whole unit stays as credit.",
        "WATER": "Water",
    },
    "sw": {
        "SALE": "Risiti",
        "GIVEN_BACK": "Hati ya kurudisha",
        "PAID": "Kimelipwa",
        "BACK": "Kimerudishwa",
        "METER": "Mita",
        "HOW": "Njia ya malipo",
        "CREDIT": "Salio",
        "TIER": "Salio, daraja {tier}: karibu {volume}",
        "BOUGHT": "Maji, daraja {tier}: {volume}",
        "RESIDUE": "Salio lililobaki",
        "OVERDRAWN": "Salio la maji yaliyotumika tayari",
        "RESIDUE_USED": "Salio lililobaki awali",
        "DEBT": "Malipo ya deni",
        "FEE": "Ada ya huduma",
        "STANDING": "Ada za kudumu",
        "EMERGENCY": "Malipo ya salio la dharura",
        "TAX": "Kodi",
        "DISCOUNT": "Punguzo",
        "REFUND": "Kurudishiwa",
        "DISPUTED": "Kimechukuliwa na benki ya mlipaji",
        "OTHER": "Nyingine",
        "NOTE": "Salio hukatwa maji yanapotumika; kiasi cha maji ni kwa matumizi ya kipindi hiki.",
        "NOTE_BOUGHT": "Maji haya yamelipiwa na yanatumwa kwenye mita yako. Kisichotosha kipimo kamili hubaki salio.",
        "WATER": "Maji",
    },
    "fr": {
        "SALE": "Reçu",
        "GIVEN_BACK": "Avoir",
        "PAID": "Payé",
        "BACK": "Rendu",
        "METER": "Compteur",
        "HOW": "Payé par",
        "CREDIT": "Crédit",
        "TIER": "Crédit, tranche {tier} : environ {volume}",
        "BOUGHT": "Eau, tranche {tier} : {volume}",
        "RESIDUE": "Reste de crédit",
        "OVERDRAWN": "Crédit pour l'eau déjà consommée",
        "RESIDUE_USED": "Reste de crédit d'avant",
        "DEBT": "Remboursement de la dette",
        "FEE": "Frais de service",
        "STANDING": "Charges fixes",
        "EMERGENCY": "Remboursement du crédit d'urgence",
        "TAX": "Taxe",
        "DISCOUNT": "Remise",
        "REFUND": "Remboursement",
        "DISPUTED": "Repris par la banque du payeur",
        "OTHER": "Autre",
        "NOTE": "Le crédit est compté quand l'eau coule ; les volumes suivent l'usage de cette période.",
        "NOTE_BOUGHT": "Cette eau est payée et va à votre compteur. Ce qui ne fait pas une unité reste en crédit.",
        "WATER": "Eau",
    },
}

_CREDIT = frozenset({"CREDIT", "TAX", "DISCOUNT", "RESIDUE", "OVERDRAWN"})
"""Lines that the credit consists of: what its water costs holds tax."""

_METHODS = {
    "stripe": "Card",
    "stripe_checkout": "Card",
    "mpesa": "M-Pesa",
    "momo": "MTN MoMo",
    "flutterwave": "Flutterwave",
    "agent": "Agent",
    "voucher": "Voucher",
    "sandbox": "Sandbox",
}


def method_text(view: ReceiptView) -> str:
    """How it was paid, and the number on the payer's own receipt."""
    name = _METHODS.get(view.method_id, view.method_id)
    return f"{name}, {view.provider_receipt}" if view.provider_receipt else name


def word(name: str, language: str) -> str:
    """A word of a receipt."""
    return _WORDS.get(language.replace("_", "-").partition("-")[0].lower(), _WORDS["en"])[name]


def number_text(view: ReceiptView) -> str:
    """A receipt's number as it is shown."""
    return f"{view.number:0{NUMBER_DIGITS}}"


def line_label(line: dict[str, Any], language: str) -> str:
    """What a line is about."""
    if "tier" in line:
        volume = volume_text(int(line["volume_ml"]), language)
        name = "BOUGHT" if line.get("bought") else "TIER"
        return word(name, language).format(tier=int(line["tier"]) + 1, volume=volume)
    used = line["kind"] == "RESIDUE" and int(line["amount_minor"]) < 0
    label = word("RESIDUE_USED" if used else str(line["kind"]), language)
    return f"{label}: {line['name']}" if line.get("name") else label


def note_text(view: ReceiptView, language: str) -> str:
    """What the page says at its foot."""
    return word("NOTE_BOUGHT" if any(line.get("bought") for line in view.lines) else "NOTE", language)


def issued_text(view: ReceiptView, language: str, layout: str = "medium") -> str:
    """When it was issued, where the meter is."""
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
