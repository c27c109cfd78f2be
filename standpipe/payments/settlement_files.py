"""Statements as files: a CSV of ours for any provider, and M-Pesa's organisation statement. Pure.

The CSV has the columns of COLUMNS; amounts are exact decimals in the currency's own digits, ``gross`` signed from our
side (a payment +, a refund −), ``occurred_at`` RFC 3339. A bad line is named and stops no other (P9).
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation

from standpipe.payments.rails.mpesa_wire import CURRENCY, instant_of, is_transaction
from standpipe.payments.rails.port import SettlementKind, SettlementLine
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import is_storable, to_minor

COLUMNS = (
    *("external_id", "kind", "payment_ref", "currency", "gross", "fee"),
    *("occurred_at", "payout_ref", "description"),
)
NEEDED = ("external_id", "kind", "currency", "gross", "occurred_at")
MAX_TEXT = 255


@dataclass(frozen=True, slots=True)
class Statement:
    """The lines that could be read, and a sentence for each that could not."""

    lines: tuple[SettlementLine, ...]
    refused: tuple[str, ...]


def read_statement(rail: str, text: str) -> Statement:
    """A provider's file. Raises InvalidInputError for one that is no statement at all."""
    if rail == "mpesa" and "Receipt No." in text:
        return _read(text[text.index("Receipt No.") :], ("Receipt No.",), _mpesa_line)
    return _read(text, NEEDED, _own_line)


def _read(
    text: str, needed: tuple[str, ...], read_line: Callable[[dict[str, str]], SettlementLine | None]
) -> Statement:
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    missing = [name for name in needed if name not in (rows.fieldnames or [])]
    if missing:
        raise InvalidInputError(f"This is no statement: the column {missing[0]} is missing.")
    lines: list[SettlementLine] = []
    refused: list[str] = []
    for row in rows:
        try:
            found = read_line(
                {str(key): (value or "").strip() for key, value in row.items() if isinstance(value, str | None)}
            )
        except (InvalidInputError, ValueError, InvalidOperation) as error:
            refused.append(f"line {rows.line_num}: {error}")
            continue
        if found is not None:
            lines.append(found)
    return Statement(tuple(lines), tuple(refused))


def _own_line(row: dict[str, str]) -> SettlementLine:
    currency = row["currency"].upper()
    if len(currency) != 3 or not currency.isalpha():  # noqa: PLR2004 - ISO 4217.
        raise InvalidInputError(f"{row['currency']!r} is no currency")
    if not row["external_id"] or any(len(value) > MAX_TEXT or not is_storable(value) for value in row.values()):
        raise InvalidInputError("external_id is missing, or a field is too long")
    if row["kind"].upper() not in SettlementKind.__members__:
        raise InvalidInputError(f"{row['kind']!r} is none of {', '.join(SettlementKind)}")
    occurred_at = datetime.fromisoformat(row["occurred_at"])
    if occurred_at.tzinfo is None:
        raise InvalidInputError("occurred_at needs its offset from UTC")
    return SettlementLine(
        external_id=row["external_id"],
        kind=SettlementKind[row["kind"].upper()],
        payment_ref=row.get("payment_ref") or None,
        currency=currency,
        gross_minor=_amount(row["gross"], currency),
        fee_minor=_amount(row.get("fee") or "0", currency),
        occurred_at=occurred_at,
        payout_ref=row.get("payout_ref") or None,
        description=row.get("description", ""),
    )


def _mpesa_line(row: dict[str, str]) -> SettlementLine | None:
    """A line of M-Pesa's organisation statement (portal, CSV). A charge stands on a line of its own."""
    receipt, details = row["Receipt No."], row.get("Details", "")
    if not is_transaction(receipt):
        raise InvalidInputError(f"{receipt!r} is no receipt number")
    if row.get("Transaction Status", "Completed") != "Completed":
        return None
    at = instant_of(row.get("Completion Time", ""))
    if at is None:
        raise InvalidInputError("the completion time cannot be read")
    gross_minor = _amount(row.get("Paid In") or "0", CURRENCY) - abs(_amount(row.get("Withdrawn") or "0", CURRENCY))
    low = details.lower()
    kind = SettlementKind.PAYMENT
    if "charge" in low or "fee" in low:
        kind = SettlementKind.FEE
    elif "reversal" in low:
        kind = SettlementKind.REFUND
    elif gross_minor < 0:
        kind = SettlementKind.PAYOUT
    return SettlementLine(
        external_id=receipt if kind is SettlementKind.PAYMENT else f"{receipt}:{kind.lower()}",
        kind=kind,
        payment_ref=receipt if kind is SettlementKind.PAYMENT else None,
        currency=CURRENCY,
        gross_minor=gross_minor,
        fee_minor=0,
        occurred_at=at,
        description=row.get("A/C No.", ""),
    )


def _amount(text: str, currency: str) -> int:
    return to_minor(Decimal(text.replace(",", "")), currency)
