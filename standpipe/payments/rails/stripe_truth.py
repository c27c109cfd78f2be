"""Stripe's objects read into truths: intents, Checkout Sessions, refunds, disputes, cards. Pure.

Each function takes the SDK's object as the dict that it stands for.
"""

from collections.abc import Sequence
from typing import Any

from standpipe.payments.rails.port import (
    DisputeState,
    PaymentStatus,
    PaymentTruth,
    RefundStatus,
    RefundTruth,
    SavedCard,
)
from standpipe.payments.rails.stripe_amounts import from_stripe

REFERENCE = "top_up_id"
REFUND_KEY = "refund_id"
_INTENT = {"succeeded": PaymentStatus.SUCCEEDED, "canceled": PaymentStatus.CANCELLED}
_REFUND = {
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.FAILED,
}
_DISPUTE = {
    "won": DisputeState.WON,
    "lost": DisputeState.LOST,
    "needs_response": DisputeState.OPEN,
    "under_review": DisputeState.OPEN,
    "warning_needs_response": DisputeState.INQUIRY,
    "warning_under_review": DisputeState.INQUIRY,
    "warning_closed": DisputeState.WON,
    "prevented": DisputeState.WON,
}
_GRAVITY = [DisputeState.WON, DisputeState.INQUIRY, DisputeState.OPEN, DisputeState.LOST]
# Declines after which Stripe advises not to try the same card again ("Decline codes").
_FINAL_DECLINES = frozenset(
    {
        "lost_card",
        "stolen_card",
        "pickup_card",
        "expired_card",
        "incorrect_number",
        "invalid_account",
        "revocation_of_authorization",
    }
)


def intent_truth(
    intent: dict[str, Any],
    *,
    refunds: Sequence[dict[str, Any]] = (),
    disputes: Sequence[dict[str, Any]] = (),
    next_action: dict[str, Any] | None = None,
) -> PaymentTruth:
    """A PaymentIntent, whose ``latest_charge`` is expanded, with its refunds and disputes."""
    currency = str(intent["currency"]).upper()
    error = intent.get("last_payment_error") or None
    status = _INTENT.get(str(intent["status"]), PaymentStatus.FAILED if error else PaymentStatus.PENDING)
    refund_truths = tuple(refund_truth(refund, currency) for refund in refunds)
    states = [_DISPUTE[dispute["status"]] for dispute in disputes if dispute["status"] in _DISPUTE]
    code = (error.get("decline_code") or error.get("code") or error.get("type")) if error else None
    return PaymentTruth(
        rail_ref=str(intent["id"]),
        reference=(intent.get("metadata") or {}).get(REFERENCE),
        status=status,
        currency=currency,
        requested_minor=from_stripe(intent["amount"], currency),
        captured_minor=from_stripe(intent.get("amount_received") or 0, currency),
        refunded_minor=sum(r.amount_minor for r in refund_truths if r.status is RefundStatus.SUCCEEDED),
        failure_code=code if status is PaymentStatus.FAILED else None,
        failure_message=error.get("message") if error and status is PaymentStatus.FAILED else None,
        next_action=None if intent["status"] in _INTENT else next_action,
        refunds=refund_truths,
        disputed_minor=sum(_withdrawn_minor(dispute, currency) for dispute in disputes),
        dispute_fee_minor=sum(_fee_minor(dispute, currency) for dispute in disputes),
        dispute=max(states, key=_GRAVITY.index) if states else None,
        saved_card=_saved_on(intent),
        retryable=code not in _FINAL_DECLINES,
    )


def refund_truth(refund: dict[str, Any], currency: str) -> RefundTruth:
    """A refund. Pending for want of funds stays pending (P40)."""
    status = _REFUND.get(str(refund["status"]), RefundStatus.PENDING)
    return RefundTruth(
        str(refund["id"]), from_stripe(refund["amount"], currency), currency, status, refund.get("failure_reason")
    )


def card_of(method: dict[str, Any]) -> SavedCard:
    """A PaymentMethod that is a card, or looks like one to its owner."""
    card = method.get("card") or {}
    expires = f"{card['exp_year']}-{card['exp_month']:02}" if card.get("exp_year") and card.get("exp_month") else None
    return SavedCard(
        rail_ref=str(method["id"]),
        customer_ref=method.get("customer"),
        brand=str(card.get("brand") or method.get("type") or "card"),
        last4=str(card.get("last4") or ""),
        expires=expires,
        usable=method.get("customer") is not None,
    )


def _saved_on(intent: dict[str, Any]) -> SavedCard | None:
    """The card that a succeeded payment saved; its ``payment_method`` must be expanded."""
    method = intent.get("payment_method")
    kept = intent.get("setup_future_usage") == "off_session" and intent["status"] == "succeeded"
    return card_of(method) if kept and isinstance(method, dict) and method.get("customer") else None


def _withdrawn_minor(dispute: dict[str, Any], currency: str) -> int:
    """Return the minor units that a dispute has taken and not given back; an inquiry takes nothing."""
    moves = dispute.get("balance_transactions") or []
    if all(str(move.get("currency", "")).upper() == currency for move in moves):
        return max(from_stripe(-sum(int(move["amount"]) for move in moves), currency), 0)
    # Settled in another currency than charged: the charge's own amount, while more was taken than given back.
    return from_stripe(dispute["amount"], currency) if sum(int(move["amount"]) for move in moves) < 0 else 0


def _fee_minor(dispute: dict[str, Any], currency: str) -> int:
    moves = dispute.get("balance_transactions") or []
    same = [move for move in moves if str(move.get("currency", "")).upper() == currency]
    return max(from_stripe(sum(int(move.get("fee") or 0) for move in same), currency), 0)
