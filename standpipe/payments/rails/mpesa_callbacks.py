"""M-Pesa's callbacks: who may send them, and what each is about.

They are unsigned. What makes one ours is the secret in its address and where it comes from; and even then it is only
a hint, for our own query decides.
"""

import hashlib
import hmac
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from standpipe.payments.rails.mpesa_wire import (
    code_of,
    is_checkout,
    is_transaction,
    items_of,
    read_c2b,
    read_object,
    text_of,
)
from standpipe.payments.rails.notices import unreadable
from standpipe.payments.rails.port import NoticeSubject, RailNotice, SignatureInvalidError, WebhookCall

# The addresses that Safaricom publishes for Daraja's callbacks (developer portal, "Getting started", production).
SAFARICOM_NETWORKS = (
    "196.201.214.200/32",
    "196.201.214.206/32",
    "196.201.213.114/32",
    "196.201.214.207/32",
    "196.201.214.208/32",
    "196.201.213.44/32",
    "196.201.212.127/32",
    "196.201.212.138/32",
    "196.201.212.129/32",
    "196.201.212.136/32",
    "196.201.212.74/32",
    "196.201.212.69/32",
)
# What M-Pesa understands as an answer to its question before a paybill payment (C2B validation).
VALIDATION_ANSWERS = {
    "ACCEPT": {"ResultCode": "0", "ResultDesc": "Accepted"},
    "UNKNOWN_ACCOUNT": {"ResultCode": "C2B00012", "ResultDesc": "Rejected"},
    "BAD_AMOUNT": {"ResultCode": "C2B00013", "ResultDesc": "Rejected"},
}
CHANNELS = ("stk", "c2b/validation", "c2b/confirmation", "result", "timeout")


def authenticate(call: WebhookCall, secrets: Sequence[str], networks: Sequence[str]) -> None:
    """Accept a call with our secret in its address, from an allowed network (P10). Raises SignatureInvalidError."""
    given, _, channel = call.tail.partition("/")
    offered = given.encode("utf-8", "surrogatepass")
    if not any(hmac.compare_digest(offered, secret.encode()) for secret in secrets if secret):
        raise SignatureInvalidError("The callback's address does not hold our secret.")
    if not channel.startswith(CHANNELS):
        raise SignatureInvalidError("There is no such callback.")
    if call.address is None or not any(ip_address(call.address) in ip_network(network) for network in networks):
        raise SignatureInvalidError(f"Callbacks are not taken from {call.address}.")


def parse(call: WebhookCall) -> RailNotice:
    """Tell what a callback is about. Never raises."""
    channel = call.tail.partition("/")[2]
    if channel == "stk":
        return _stk(call.body)
    if channel == "c2b/confirmation":
        return _confirmation(call.body)
    if channel.startswith(("result/", "timeout/")):
        return _result(call.body, channel)
    return unreadable(call.body, "not a notice", kind=channel[:32])


def _stk(body: bytes) -> RailNotice:
    value = read_object(body)
    outer = value.get("Body") if value else None
    inner = outer.get("stkCallback") if isinstance(outer, dict) else None
    if not isinstance(inner, dict) or not is_checkout(text_of(inner.get("CheckoutRequestID"))):
        return unreadable(body, "names no push", kind="stk")
    checkout, code = text_of(inner["CheckoutRequestID"]), code_of(inner.get("ResultCode"))
    metadata = inner.get("CallbackMetadata")
    items = items_of(metadata.get("Item") if isinstance(metadata, dict) else None, "Name", "Value")
    receipt = text_of(items.get("MpesaReceiptNumber"))
    # There is no event id; a later success after a failure must not pass for the same news.
    return RailNotice(
        event_id=f"stk:{checkout}:{code}",
        kind=f"stk:{code}"[:32],
        rail_ref=checkout,
        receipt_ref=receipt if is_transaction(receipt) else None,
    )


def _confirmation(body: bytes) -> RailNotice:
    paid = read_c2b(body)
    if paid is None:
        return unreadable(body, "names no transaction", kind="c2b")
    return RailNotice(
        event_id=f"c2b:{paid.trans_id}",
        kind="c2b",
        rail_ref=paid.trans_id,
        reference=paid.account_reference or None,
        subject=NoticeSubject.UNSOLICITED,
    )


def _result(body: bytes, channel: str) -> RailNotice:
    kind, _, question = channel.partition("/")
    if kind == "timeout":
        # M-Pesa did not get to our question. Nothing is known by that; whoever asked asks again.
        return unreadable(body, "the question ran out of time", kind=kind)
    digest = hashlib.sha256(body).hexdigest()[:32]
    if not question or len(question) > 80 or not question.replace("_", "").replace("-", "").isalnum():  # noqa: PLR2004 - our ids are shorter.
        return unreadable(body, "answers no question", kind=kind)
    return RailNotice(
        event_id=f"{kind}:{question}:{digest}", kind=kind, subject=NoticeSubject.ANSWER, answer_to=question
    )
