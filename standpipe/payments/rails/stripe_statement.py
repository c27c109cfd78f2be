"""Stripe's statement: balance transactions, each with the payout that it left in. Pure.

Source: Stripe API, "Balance transactions" (reporting categories) and "Payout reconciliation".
"""

from datetime import UTC, datetime
from typing import Any

from standpipe.payments.rails.port import SettlementKind, SettlementLine
from standpipe.payments.rails.stripe_amounts import from_stripe

_KINDS = {
    "charge": SettlementKind.PAYMENT,
    "payment": SettlementKind.PAYMENT,
    "refund": SettlementKind.REFUND,
    "payment_refund": SettlementKind.REFUND,
    "refund_failure": SettlementKind.REFUND,
    "payment_failure_refund": SettlementKind.REFUND,
    "stripe_fee": SettlementKind.FEE,
    "payout": SettlementKind.PAYOUT,
    "payout_failure": SettlementKind.PAYOUT,
}


def line_of(transaction: dict[str, Any], payout_ref: str | None) -> SettlementLine:
    """A balance transaction, whose ``source`` is expanded, as a line of ours."""
    currency = str(transaction["currency"]).upper()
    source = transaction.get("source")
    source = source if isinstance(source, dict) else {}
    kind = _KINDS.get(str(transaction["type"]), SettlementKind.OTHER)
    if source.get("object") == "dispute":
        kind = SettlementKind.DISPUTE
    return SettlementLine(
        external_id=str(transaction["id"]),
        kind=kind,
        payment_ref=source.get("payment_intent"),
        currency=currency,
        gross_minor=from_stripe(transaction["amount"], currency),
        fee_minor=from_stripe(transaction.get("fee") or 0, currency),
        occurred_at=datetime.fromtimestamp(transaction["created"], UTC),
        payout_ref=payout_ref or (source.get("id") if kind is SettlementKind.PAYOUT else None),
        description=str(transaction.get("description") or ""),
    )
