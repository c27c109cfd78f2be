"""Subjects of Stripe's events: from its type to how its object names what we must ask for. Pure."""

import re
from collections.abc import Callable, Collection
from typing import Any

from standpipe.payments.rails.notices import read_json, text_at, unreadable
from standpipe.payments.rails.port import NoticeSubject, RailNotice, WebhookCall
from standpipe.payments.rails.stripe_truth import REFERENCE

PAYMENT_ID = re.compile(r"(pi|cs)_[A-Za-z0-9_]{1,250}")
OTHER_ID = re.compile(r"(seti|pm|cus|po|re)_[A-Za-z0-9_]{1,250}")
_Named = tuple[str | None, str | None]
"""Stripe's id of what to ask for, and our reference."""


def _intent(subject: dict[str, Any]) -> _Named:
    reference = text_at(subject, "metadata", REFERENCE)
    # An intent behind a Checkout Session is asked for through the session, which knows both.
    via_checkout = text_at(subject, "metadata", "via") == "checkout"
    return (None if via_checkout and reference else text_at(subject, "id")), reference


def _session(subject: dict[str, Any]) -> _Named:
    return text_at(subject, "id"), text_at(subject, "metadata", REFERENCE)


def _of_intent(subject: dict[str, Any]) -> _Named:
    """Charges, refunds, disputes and warnings name the intent that they belong to."""
    return text_at(subject, "payment_intent"), text_at(subject, "metadata", REFERENCE)


def _own_id(subject: dict[str, Any]) -> _Named:
    return text_at(subject, "id"), None


def _method(subject: dict[str, Any]) -> _Named:
    return text_at(subject, "payment_method"), None


_PAYMENT, _SAVED = NoticeSubject.PAYMENT, NoticeSubject.SAVED_METHOD
_INTENTS = (
    *("processing", "succeeded", "payment_failed", "canceled", "requires_action"),
    *("amount_capturable_updated", "partially_funded", "created"),
)
_SESSIONS = ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
_CHARGES = ("succeeded", "failed", "captured", "pending", "refunded", "updated", "expired")
_DISPUTES = ("created", "updated", "funds_withdrawn", "funds_reinstated", "closed")
EVENTS: dict[str, tuple[NoticeSubject, Callable[[dict[str, Any]], _Named]]] = {
    **{f"payment_intent.{kind}": (_PAYMENT, _intent) for kind in _INTENTS},
    **{f"checkout.session.{kind}": (_PAYMENT, _session) for kind in _SESSIONS},
    **{f"charge.{kind}": (_PAYMENT, _of_intent) for kind in _CHARGES},
    **{f"charge.dispute.{kind}": (_PAYMENT, _of_intent) for kind in _DISPUTES},
    **{f"refund.{kind}": (_PAYMENT, _of_intent) for kind in ("created", "updated", "failed")},
    "charge.refund.updated": (_PAYMENT, _of_intent),
    "radar.early_fraud_warning.created": (_PAYMENT, _of_intent),
    **{f"setup_intent.{kind}": (_SAVED, _own_id) for kind in ("succeeded", "setup_failed")},
    **{
        f"payment_method.{kind}": (_SAVED, _own_id)
        for kind in ("attached", "detached", "updated", "automatically_updated")
    },
    "mandate.updated": (_SAVED, _method),
    "customer.deleted": (NoticeSubject.CUSTOMER, _own_id),
    **{f"payout.{kind}": (NoticeSubject.PAYOUT, _own_id) for kind in ("paid", "failed", "reconciliation_completed")},
}


def parse(call: WebhookCall, *, live: bool, accounts: Collection[str]) -> RailNotice:
    """An authenticated event, reduced to what to ask for. Never raises."""
    event = read_json(call.body)
    if event is None:
        return unreadable(call.body, "not a JSON object")
    event_id, kind = text_at(event, "id"), text_at(event, "type") or ""
    if event_id is None or text_at(event, "object") != "event":
        return unreadable(call.body, "not a snapshot event", kind=kind)
    data = event.get("data")
    subject = data.get("object") if isinstance(data, dict) else None
    why_not = _why_not(event, kind, subject, live=live, accounts=accounts)
    if why_not is not None or not isinstance(subject, dict):
        return RailNotice(event_id, kind, ignored=why_not)
    about, name = EVENTS[kind]
    ref, reference = name(subject)
    pattern = PAYMENT_ID if about is _PAYMENT else OTHER_ID
    if ref is not None and not pattern.fullmatch(ref):
        ref = None
    if ref is None and reference is None:
        return RailNotice(event_id, kind, ignored="names no payment")
    return RailNotice(event_id, kind, rail_ref=ref, reference=reference, subject=about)


def _why_not(event: dict[str, Any], kind: str, subject: object, *, live: bool, accounts: Collection[str]) -> str | None:
    if event.get("livemode") is not live:
        return "of the other mode (test or live)"
    if event.get("account") is not None and event.get("account") not in accounts:
        return "of another account"
    return None if kind in EVENTS and isinstance(subject, dict) else "of no kind that concerns us"
