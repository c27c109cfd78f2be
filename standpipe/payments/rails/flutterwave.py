"""Flutterwave v3, the aggregator: cards, mobile money, bank and USSD on its hosted page, in many countries.

Our reference (``tx_ref``) names a payment; several attempts may stand under it, and each that succeeded is money
that we hold: the captured total is their sum. Amounts are decimal numbers in major units and are read exactly. The
webhook carries a static token, so it is worth no more than a hint. Source: Flutterwave v3 documentation (Standard,
Verify transaction, Refunds, Settlements, Webhooks).
"""

import hmac
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any

import httpx

from standpipe.payments.rails.base import BaseRail
from standpipe.payments.rails.notices import read_json, text_at, unreadable
from standpipe.payments.rails.port import (
    MOBILE_POLLS_S,
    Capabilities,
    MethodKind,
    PaymentMethod,
    PaymentRequest,
    PaymentStatus,
    PaymentTruth,
    RailNotice,
    RailRefusedError,
    RailUnavailableError,
    RefundRequest,
    RefundStatus,
    RefundTruth,
    SettlementKind,
    SettlementLine,
    SignatureInvalidError,
    WebhookCall,
)
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import to_translate
from standpipe.platform.units import currency_exponent, to_major, to_minor

NAME = "flutterwave"
# Currencies that Flutterwave collects in, with the most of one payment in major units (its published limits, rounded
# down); what it does not list is not offered.
_LIMITS = {
    "KES": 250_000,
    "NGN": 10_000_000,
    "GHS": 50_000,
    "UGX": 5_000_000,
    "TZS": 5_000_000,
    "RWF": 2_000_000,
    "ZMW": 20_000,
    "XAF": 1_500_000,
    "XOF": 1_500_000,
    "MWK": 1_000_000,
    "ZAR": 100_000,
    "USD": 10_000,
    "EUR": 10_000,
    "GBP": 10_000,
}
_REFERENCE = re.compile(r"top_[0-9a-z]{26}")
_REFUND = {
    "completed": RefundStatus.SUCCEEDED,
    "completed-mpgs": RefundStatus.SUCCEEDED,
    "completed-momo": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
}
MAX_PAGES = 500


class FlutterwaveRail(BaseRail):
    """``webhook_hashes``: newest first. ``email_domain``: Flutterwave wants an address; no customer's is given away."""

    name = NAME
    capabilities = Capabilities(
        MOBILE_POLLS_S, refunds=True, partial_refunds=True, settlements=True, create_again_s=365 * 24 * 3600
    )

    def __init__(
        self,
        *,
        base_url: str,
        secret_key: str,
        webhook_hashes: list[str],
        return_base_url: str,
        email_domain: str,
        timeout_s: float,
    ) -> None:
        self._hashes, self._return_base, self._email_domain = webhook_hashes, return_base_url, email_domain
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=timeout_s, headers={"Authorization": f"Bearer {secret_key}"}
        )

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """The hosted page."""
        if currency not in _LIMITS:
            return ()
        unit = 10 ** currency_exponent(currency)
        label = to_translate("Mobile money, bank or card")
        return (PaymentMethod(NAME, MethodKind.BANK_REDIRECT, label, unit, _LIMITS[currency] * unit),)

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """A hosted page for this reference. A second page for it is harmless: all that is paid under it is counted.

        Raises RailUnavailableError.
        """
        body = {
            "tx_ref": request.reference,
            "amount": f"{to_major(request.amount_minor, request.currency):f}",
            "currency": request.currency,
            "redirect_url": request.return_url or f"{self._return_base}/{request.reference}",
            "customer": {"email": f"{request.reference}@{self._email_domain}"},
            "customizations": {"title": "Water top-up", "description": request.description},
        }
        answer = await self._call("POST", "/v3/payments", body)
        link = text_at(answer, "data", "link")
        if link is None:
            raise RailUnavailableError(NAME, "a payment without its page")
        return PaymentTruth(
            rail_ref=request.reference,
            reference=request.reference,
            status=PaymentStatus.PENDING,
            currency=request.currency,
            requested_minor=request.amount_minor,
            captured_minor=0,
            refunded_minor=0,
            next_action={"type": "redirect", "url": link},
        )

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """All attempts under a reference, as one payment. PENDING while nobody has tried."""
        _checked(rail_ref)
        answer = await self._call("GET", "/v3/transactions", params={"tx_ref": rail_ref})
        rows = answer.get("data")
        rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        mine = [row for row in rows if row.get("tx_ref") == rail_ref]
        return _read(rail_ref, mine)

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:
        """By the reference; None while nobody has tried."""
        truth = await self.fetch(request.reference)
        return truth if truth.aliases else None

    async def refund(self, request: RefundRequest) -> RefundTruth:
        """Refund an attempt, once per key: Flutterwave has no idempotency keys, so what carries ours is looked for.

        Raises RailRefusedError, RailUnavailableError.
        """
        known = await self.find_refund(request)
        if known is not None:
            return known
        truth = await self.fetch(request.rail_ref) if _REFERENCE.fullmatch(request.rail_ref) else None
        transaction = truth.aliases[0] if truth is not None and truth.aliases else request.rail_ref
        if not transaction.isascii() or not transaction.isdigit():
            raise RailRefusedError(NAME, "no_transaction", to_translate("There is no transaction to refund."))
        amount = f"{to_major(request.amount_minor, request.currency):f}"
        answer = await self._call(
            "POST", f"/v3/transactions/{transaction}/refund", {"amount": amount, "comments": request.key}
        )
        data = answer.get("data")
        if not isinstance(data, dict):
            raise RailUnavailableError(NAME, "a refund without its data")
        return _read_refund(data, request.currency)

    async def find_refund(self, request: RefundRequest) -> RefundTruth | None:
        """The refund whose comment is our key."""
        for page in range(1, MAX_PAGES):
            answer = await self._call("GET", "/v3/refunds", params={"page": str(page)})
            rows = answer.get("data")
            rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
            for row in rows:
                if row.get("comment") == request.key or row.get("comments") == request.key:
                    return _read_refund(row, request.currency)
            if not rows:
                return None
        return None

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:  # noqa: ARG002
        """Ask how a refund stands now. Raises RailRefusedError, RailUnavailableError."""
        if not refund_ref.isascii() or not refund_ref.isdigit():
            raise RailRefusedError(NAME, "bad_id", to_translate("This is not a refund's id."))
        answer = await self._call("GET", f"/v3/refunds/{refund_ref}")
        data = answer.get("data")
        if not isinstance(data, dict):
            raise RailUnavailableError(NAME, "a refund without its data")
        return _read_refund(data, str(data.get("currency") or ""))

    def authenticate(self, call: WebhookCall) -> None:
        """Check the static token. It proves little, and nothing rests on it. Raises SignatureInvalidError."""
        offered = (call.headers.get("verif-hash") or "").encode("utf-8", "surrogatepass")
        if not any(hmac.compare_digest(offered, token.encode()) for token in self._hashes if token):
            raise SignatureInvalidError("The webhook does not carry our token.")

    def parse(self, call: WebhookCall) -> RailNotice:
        """The reference that an event names. Amounts in it are never read (P9)."""
        body = read_json(call.body)
        reference = text_at(body, "data", "tx_ref") or text_at(body, "txRef")
        if body is None or reference is None or not _REFERENCE.fullmatch(reference):
            return unreadable(call.body, "names no payment")
        kind = (text_at(body, "event") or "")[:32]
        data = body.get("data")
        number = str(data.get("id"))[:32] if isinstance(data, dict) else ""
        status = text_at(body, "data", "status") or ""
        return RailNotice(
            event_id=f"{kind}:{number}:{status}:{reference}", kind=kind, rail_ref=reference, reference=reference
        )

    async def settlements(self, since: datetime, until: datetime) -> Sequence[SettlementLine]:
        """List what Flutterwave has settled in these days, transaction by transaction, with its fees."""
        span = {"from": f"{since:%Y-%m-%d}", "to": f"{until:%Y-%m-%d}"}
        lines: list[SettlementLine] = []
        for page in range(1, MAX_PAGES):
            answer = await self._call("GET", "/v3/settlements", params=span | {"page": str(page)})
            rows = answer.get("data")
            if not isinstance(rows, list) or not rows:
                break
            for row in rows:
                detail = await self._call("GET", f"/v3/settlements/{int(row['id'])}")
                lines += _settled(detail.get("data"))
        return lines

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, params: dict[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body, params=params)
            answer = json.loads(response.content, parse_float=Decimal, parse_constant=str)
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise RailUnavailableError(NAME, type(error).__name__) from error
        if not isinstance(answer, dict) or response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            raise RailUnavailableError(NAME, f"HTTP {response.status_code}")
        if response.status_code in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY}:
            raise RailRefusedError(
                NAME, f"http_{response.status_code}", to_translate("Flutterwave refused the request.")
            )
        if not response.is_success or answer.get("status") != "success":
            # 401 included: our key may be wrong, which is our fault and can be put right.
            raise RailUnavailableError(NAME, f"HTTP {response.status_code}")
        return answer


def _read(reference: str, rows: list[dict[str, Any]]) -> PaymentTruth:
    paid = [row for row in rows if row.get("status") == "successful"]
    currencies = {str(row.get("currency")) for row in paid}
    if len(currencies) > 1:
        raise RailUnavailableError(NAME, "one reference paid in several currencies; a person must look")
    shown = (paid or rows or [{}])[-1]
    currency = str(shown.get("currency") or "")
    captured = sum(_amount(row, "amount", currency) for row in paid)
    status = PaymentStatus.PENDING
    if paid:
        status = PaymentStatus.SUCCEEDED
    elif rows and all(row.get("status") == "failed" for row in rows):
        status = PaymentStatus.FAILED
    return PaymentTruth(
        rail_ref=reference,
        reference=reference,
        status=status,
        currency=currency,
        requested_minor=captured,
        captured_minor=captured,
        refunded_minor=0,
        failure_code="declined" if status is PaymentStatus.FAILED else None,
        failure_message=to_translate("The payment was declined.") if status is PaymentStatus.FAILED else None,
        aliases=(str(int(shown["id"])),) if isinstance(shown.get("id"), int) else (),
        receipt_ref=text_at(shown, "flw_ref") if paid else None,
    )


def _read_refund(row: dict[str, Any], currency: str) -> RefundTruth:
    if not isinstance(row.get("id"), int):
        raise RailUnavailableError(NAME, "a refund without its id")
    status = _REFUND.get(str(row.get("status")), RefundStatus.PENDING)
    amount = _amount(row, "amount_refunded", currency)
    return RefundTruth(str(row["id"]), amount, currency, status, "failed" if status is RefundStatus.FAILED else None)


def _settled(data: object) -> list[SettlementLine]:
    if not isinstance(data, dict):
        return []
    currency, payout = str(data.get("currency")), str(data.get("id"))
    at = datetime.fromisoformat(str(data.get("processed_date") or data.get("created_at"))).replace(tzinfo=UTC)
    lines = [
        SettlementLine(
            external_id=f"flw:{row.get('id')}",
            kind=SettlementKind.PAYMENT,
            payment_ref=text_at(row, "tx_ref"),
            currency=currency,
            gross_minor=_amount(row, "charged_amount", currency),
            fee_minor=_fee(row, currency),
            occurred_at=at,
            payout_ref=payout,
        )
        for row in data.get("transactions") or []
        if isinstance(row, dict)
    ]
    net = sum(line.gross_minor - line.fee_minor for line in lines)
    if net:
        external = f"flw:settlement:{payout}"
        lines.append(SettlementLine(external, SettlementKind.PAYOUT, None, currency, -net, 0, at, payout))
    return lines


def _amount(row: dict[str, Any], name: str, currency: str) -> int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal) or len(str(value)) > 30:  # noqa: PLR2004 - longer is no amount.
        raise RailUnavailableError(NAME, f"{name} is no amount")
    try:
        amount = to_minor(Decimal(str(value)), currency)
    except (InvalidOperation, InvalidInputError) as error:
        raise RailUnavailableError(NAME, f"{name} is no amount") from error
    if amount < 0:
        raise RailUnavailableError(NAME, f"{name} is below zero")
    return amount


def _fee(row: dict[str, Any], currency: str) -> int:
    """Flutterwave works its fees out to more digits than a currency has; they are rounded here, half up, per line."""
    try:
        fee = Decimal(str(row.get("app_fee")))
        step = Decimal(1).scaleb(-currency_exponent(currency))
        return to_minor(fee.quantize(step, ROUND_HALF_UP), currency)
    except (InvalidOperation, InvalidInputError) as error:
        raise RailUnavailableError(NAME, "app_fee is no amount") from error


def _checked(reference: str) -> None:
    if not _REFERENCE.fullmatch(reference):
        raise RailRefusedError(NAME, "bad_id", to_translate("This is not a payment's reference."))
