"""M-Pesa's own words, read: amounts, phones, result codes, callback bodies. Pure.

Source: Safaricom Daraja API documentation (M-Pesa Express, C2B, Transaction Status, Reversal, Pull Transactions).
Amounts come as "5.00", "10" or 10.0 and are read exactly; result codes come as text or as numbers.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from standpipe.payments.rails.port import PaymentStatus
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import to_translate
from standpipe.platform.units import is_storable, to_minor

CURRENCY = "KES"
EAST_AFRICA = timezone(timedelta(hours=3))
MAX_TEXT = 128
_TRANSACTION = re.compile(r"[A-Z0-9]{6,20}")
_CHECKOUT = re.compile(r"ws_CO_[A-Za-z0-9]{1,60}")

# M-Pesa Express result codes. What is not here leaves the payment open: it is asked about again, never given up.
STK_STATUS = {
    "0": PaymentStatus.SUCCEEDED,
    "1": PaymentStatus.FAILED,
    "17": PaymentStatus.FAILED,
    "1019": PaymentStatus.EXPIRED,
    "1032": PaymentStatus.CANCELLED,
    "1036": PaymentStatus.EXPIRED,
    "1037": PaymentStatus.EXPIRED,
    "2001": PaymentStatus.FAILED,
}
STK_MESSAGE = {
    "1": to_translate("There is not enough money in the M-Pesa account."),
    "17": to_translate(
        "M-Pesa takes the same amount again only after two minutes. Please wait two minutes and try again."
    ),
    "1019": to_translate("The request to the phone ran out."),
    "1032": to_translate("The request was cancelled on the phone."),
    "1036": to_translate("The request to the phone ran out."),
    "1037": to_translate("The phone could not be reached."),
    "2001": to_translate("The PIN was wrong."),
}


@dataclass(frozen=True, slots=True)
class C2bRequest:
    """A paybill payment as M-Pesa tells of it. ``amount_minor`` None: unreadable. ``payer`` is masked."""

    trans_id: str
    amount_minor: int | None
    account_reference: str
    shortcode: str
    payer: str | None


def read_object(body: bytes | str) -> dict[str, Any] | None:
    """The JSON object in a body, its numbers exact; None where it is none."""
    try:
        value = json.loads(body, parse_float=Decimal, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def amount_minor(value: object) -> int | None:
    """An amount in minor units; None for what is no exact amount above zero."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal) or len(str(value)) > MAX_TEXT:
        return None
    try:
        minor = to_minor(Decimal(str(value).replace(",", "").strip()), CURRENCY)
    except (InvalidOperation, InvalidInputError):
        return None
    return minor if minor > 0 else None


def text_of(value: object) -> str:
    """A text or number as storable text of bounded length; "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return ""
    found = str(value).strip()[:MAX_TEXT]
    return found if is_storable(found) else ""


def code_of(value: object) -> str:
    """A result code, which comes as text or as a number."""
    return text_of(value)


def is_transaction(text: str) -> bool:
    """Tell whether a text has the form of M-Pesa's transaction number."""
    return _TRANSACTION.fullmatch(text) is not None


def is_checkout(text: str) -> bool:
    """Tell whether a text has the form of a CheckoutRequestID."""
    return _CHECKOUT.fullmatch(text) is not None


def masked(phone: str) -> str:
    """A phone number of which only ends are shown."""
    digits = phone.lstrip("+")
    return f"+{digits[:4]}*****{digits[-3:]}" if digits.isdigit() and len(digits) >= 9 else "hidden"  # noqa: PLR2004 - shorter ones would show whole.


def items_of(value: object, name: str, content: str) -> dict[str, Any]:
    """A list of ``{name: …, content: …}`` as a dict; entries without content, or of another shape, are left out."""
    rows = value if isinstance(value, list) else [value]
    return {text_of(row.get(name)): row[content] for row in rows if isinstance(row, dict) and content in row}


def read_c2b(body: bytes) -> C2bRequest | None:
    """A C2B validation request or confirmation; None where it names no transaction."""
    value = read_object(body)
    trans_id = text_of(value.get("TransID")) if value else ""
    if value is None or not is_transaction(trans_id):
        return None
    return C2bRequest(
        trans_id=trans_id,
        amount_minor=amount_minor(value.get("TransAmount")),
        account_reference=text_of(value.get("BillRefNumber")),
        shortcode=text_of(value.get("BusinessShortCode")),
        payer=masked(text_of(value.get("MSISDN"))),
    )


def instant_of(text: str) -> datetime | None:
    """M-Pesa's date-times: ``20260501093000`` and ``2026-05-01 09:30:00`` in East Africa, or with their own offset."""
    for layout in ("%Y%m%d%H%M%S", "%Y-%m-%d %H:%M:%S", "%d-%m-%Y %H:%M:%S"):
        try:
            return datetime.strptime(text, layout).replace(tzinfo=EAST_AFRICA).astimezone(UTC)
        except ValueError:
            continue
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=EAST_AFRICA)).astimezone(UTC)
