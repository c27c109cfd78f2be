"""MTN MoMo, Collections (request to pay) and Disbursements (refund), as the MTN MoMo developer portal describes them.

The id of a payment is a UUID of ours, made from the top-up's id: however often and late we ask, it is one payment.
The callback is sent once and unsigned, so asking is the rule. Amounts are decimal texts in the environment's one
currency.
"""

import base64
import hmac
import json
import time
import uuid
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from ipaddress import ip_address, ip_network
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
    SignatureInvalidError,
    WebhookCall,
)
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import to_translate
from standpipe.platform.units import currency_exponent, to_major, to_minor

NAME = "momo"
_NAMESPACE = uuid.UUID("7b0c1f5e-5f0e-4a3b-9a59-0d9f7b1b2a44")
PROMPT_S = 300
MAXIMUM_UNITS = 5_000_000
"""The largest daily limit among MTN's markets, in major units; each account's own limit is MTN's to say."""
_STATUS = {
    "PENDING": PaymentStatus.PENDING,
    "CREATED": PaymentStatus.PENDING,
    "SUCCESSFUL": PaymentStatus.SUCCEEDED,
    "FAILED": PaymentStatus.FAILED,
}
# Reasons of a FAILED request to pay that are no plain failure: what they mean for the payment, and for the payer.
_REASONS = {
    "EXPIRED": (PaymentStatus.EXPIRED, to_translate("The request to the phone ran out.")),
    "APPROVAL_REJECTED": (PaymentStatus.CANCELLED, to_translate("The request was refused on the phone.")),
    "COULD_NOT_PERFORM_TRANSACTION": (PaymentStatus.EXPIRED, to_translate("The phone did not answer in time.")),
    "INTERNAL_PROCESSING_ERROR": (PaymentStatus.PENDING, ""),
    "SERVICE_UNAVAILABLE": (PaymentStatus.PENDING, ""),
    "NOT_ENOUGH_FUNDS": (PaymentStatus.FAILED, to_translate("There is not enough money in the MoMo account.")),
    "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED": (
        PaymentStatus.FAILED,
        to_translate("There is not enough money."),
    ),
    "PAYER_LIMIT_REACHED": (PaymentStatus.FAILED, to_translate("The MoMo account's limit is reached.")),
    "PAYER_NOT_FOUND": (PaymentStatus.FAILED, to_translate("This number has no MoMo account.")),
}
_REFUND_STATUS = {
    "PENDING": RefundStatus.PENDING,
    "SUCCESSFUL": RefundStatus.SUCCEEDED,
    "FAILED": RefundStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class MomoKeys:
    """The keys of one MoMo product."""

    subscription_key: str
    api_user: str
    api_key: str


def payment_id(reference: str) -> str:
    """The X-Reference-Id of a top-up, always the same."""
    return str(uuid.uuid5(_NAMESPACE, reference))


class MomoRail(BaseRail):
    """One MoMo environment. Refunds need the keys of the Disbursements product."""

    name = NAME

    def __init__(
        self,
        *,
        base_url: str,
        collection: MomoKeys,
        disbursement: MomoKeys | None,
        target_environment: str,
        currency: str,
        callback_url: str,
        callback_secrets: list[str],
        allowed_networks: list[str],
        timeout_s: float,
    ) -> None:
        self._keys = {"collection": collection, "disbursement": disbursement}
        self._environment, self._currency = target_environment, currency
        self._callback_url = f"{callback_url.rstrip('/')}/{callback_secrets[0]}"
        self._secrets, self._networks = callback_secrets, allowed_networks
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s)
        self._tokens: dict[str, tuple[str, float]] = {}
        able = disbursement is not None
        # The same UUID is the same payment for ever, so creating again is always safe.
        self.capabilities = Capabilities(
            MOBILE_POLLS_S, refunds=able, partial_refunds=able, create_again_s=10 * 365 * 24 * 3600
        )

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """MoMo, in the environment's currency."""
        if currency != self._currency:
            return ()
        unit = 10 ** currency_exponent(currency)
        return (
            PaymentMethod("momo", MethodKind.MOBILE_MONEY, "MTN MoMo", unit, MAXIMUM_UNITS * unit, phone_required=True),
        )

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """Ring the phone; asked again, it is the same request. Raises RailRefusedError."""
        phone, reference = (request.phone or "").lstrip("+"), payment_id(request.reference)
        if not phone.isascii() or not phone.isdigit():
            raise RailRefusedError(NAME, "phone", to_translate("MoMo needs the payer's phone number."))
        body = {
            "amount": f"{to_major(request.amount_minor, request.currency):f}",
            "currency": request.currency,
            "externalId": request.reference,
            "payer": {"partyIdType": "MSISDN", "partyId": phone},
            "payerMessage": "Water top-up",
            "payeeNote": request.account_reference or request.reference,
        }
        headers = {"X-Reference-Id": reference, "X-Callback-Url": self._callback_url}
        status, answer = await self._call("collection", "POST", "/v1_0/requesttopay", json=body, headers=headers)
        if status == HTTPStatus.CONFLICT:
            return await self.fetch(reference)
        _refuse_unless(status == HTTPStatus.ACCEPTED, status, answer)
        return PaymentTruth(
            rail_ref=reference,
            reference=request.reference,
            status=PaymentStatus.PENDING,
            currency=request.currency,
            requested_minor=request.amount_minor,
            captured_minor=0,
            refunded_minor=0,
            next_action={"type": "stk_push", "phone_masked": _masked(phone), "expires_s": PROMPT_S},
        )

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """The request to pay now."""
        path = f"/v1_0/requesttopay/{_checked(rail_ref)}"
        status, answer = await self._call("collection", "GET", path)
        _refuse_unless(status == HTTPStatus.OK, status, answer)
        return _read(rail_ref, answer)

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:
        """By the UUID that this reference always has."""
        try:
            return await self.fetch(payment_id(request.reference))
        except RailRefusedError:
            return None

    async def refund(self, request: RefundRequest) -> RefundTruth:
        """Give back through Disbursements; the same key is the same refund."""
        reference = payment_id(request.key)
        body = {
            "amount": f"{to_major(request.amount_minor, request.currency):f}",
            "currency": request.currency,
            "externalId": request.key,
            "payerMessage": "Water top-up refund",
            "payeeNote": request.key,
            "referenceIdToRefund": _checked(request.rail_ref),
        }
        headers = {"X-Reference-Id": reference}
        status, answer = await self._call("disbursement", "POST", "/v1_0/refund", json=body, headers=headers)
        _refuse_unless(status in {HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT}, status, answer)
        return RefundTruth(reference, request.amount_minor, request.currency, RefundStatus.PENDING)

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:  # noqa: ARG002
        """The refund now."""
        status, answer = await self._call("disbursement", "GET", f"/v1_0/refund/{_checked(refund_ref)}")
        _refuse_unless(status == HTTPStatus.OK, status, answer)
        currency = str(answer.get("currency"))
        state = _REFUND_STATUS.get(str(answer.get("status")), RefundStatus.PENDING)
        failure = _reason(answer) if state is RefundStatus.FAILED else None
        return RefundTruth(refund_ref, _amount(answer, currency), currency, state, failure)

    def authenticate(self, call: WebhookCall) -> None:
        """Check the secret in the address, and, where networks are set, the sender. Raises SignatureInvalidError."""
        offered = call.tail.encode("utf-8", "surrogatepass")
        if not any(hmac.compare_digest(offered, secret.encode()) for secret in self._secrets if secret):
            raise SignatureInvalidError("The callback's address does not hold our secret.")
        if not self._networks:
            return
        if call.address is None or not any(ip_address(call.address) in ip_network(net) for net in self._networks):
            raise SignatureInvalidError(f"Callbacks are not taken from {call.address}.")

    def parse(self, call: WebhookCall) -> RailNotice:
        """The top-up that a callback names; the payment's id follows from it."""
        body = read_json(call.body)
        reference = text_at(body, "externalId") if body else None
        if body is None or reference is None:
            return unreadable(call.body, "names no payment")
        status = text_at(body, "status") or ""
        return RailNotice(
            event_id=f"{payment_id(reference)}:{status}",
            kind=status[:32],
            rail_ref=payment_id(reference),
            reference=reference,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(
        self, product: str, method: str, path: str, *, json: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        keys = self._keys[product]
        if keys is None:
            raise RailRefusedError(NAME, "unsupported", to_translate("MoMo is not set up for this."))
        status, answer = 0, {}
        for fresh in (False, True):
            sent = {
                "Authorization": f"Bearer {await self._token(product, keys, fresh=fresh)}",
                "Ocp-Apim-Subscription-Key": keys.subscription_key,
                "X-Target-Environment": self._environment,
            }
            try:
                response = await self._http.request(
                    method, f"/{product}{path}", json=json, headers=sent | (headers or {})
                )
            except httpx.HTTPError as error:
                raise RailUnavailableError(NAME, type(error).__name__) from error
            status, answer = response.status_code, _object(response.content)
            if status != HTTPStatus.UNAUTHORIZED:
                break
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RailUnavailableError(NAME, f"HTTP {status}")
        return status, answer

    async def _token(self, product: str, keys: MomoKeys, *, fresh: bool) -> str:
        token, until_s = self._tokens.get(product, ("", 0.0))
        if not fresh and time.monotonic() < until_s:
            return token
        basic = base64.b64encode(f"{keys.api_user}:{keys.api_key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Ocp-Apim-Subscription-Key": keys.subscription_key}
        try:
            response = await self._http.post(f"/{product}/token/", headers=headers)
            answer = _object(response.content)
            token, lasts_s = str(answer["access_token"]), int(answer["expires_in"])
        except (httpx.HTTPError, KeyError, ValueError, TypeError) as error:
            raise RailUnavailableError(NAME, f"no access token: {type(error).__name__}") from error
        self._tokens[product] = (token, time.monotonic() + max(lasts_s - 60, 0))
        return token


def _read(reference: str, answer: dict[str, Any]) -> PaymentTruth:
    currency = str(answer.get("currency"))
    status = _STATUS.get(str(answer.get("status")), PaymentStatus.PENDING)
    reason = _reason(answer) if status is PaymentStatus.FAILED else None
    message = None
    if reason is not None:
        status, message = _REASONS.get(reason, (PaymentStatus.FAILED, to_translate("The payment was declined.")))
    amount = _amount(answer, currency)
    receipt = text_at(answer, "financialTransactionId")
    return PaymentTruth(
        rail_ref=reference,
        reference=text_at(answer, "externalId"),
        status=status,
        currency=currency,
        requested_minor=amount,
        captured_minor=amount if status is PaymentStatus.SUCCEEDED else 0,
        refunded_minor=0,
        failure_code=reason,
        failure_message=message or None,
        receipt_ref=receipt,
        payer=_masked(str((answer.get("payer") or {}).get("partyId", ""))) if _is_party(answer) else None,
    )


def _is_party(answer: dict[str, Any]) -> bool:
    return isinstance(answer.get("payer"), dict)


def _reason(answer: dict[str, Any]) -> str:
    reason = answer.get("reason")
    code = reason.get("code") if isinstance(reason, dict) else reason
    return str(code or "unknown")[:64].upper()


def _amount(answer: dict[str, Any], currency: str) -> int:
    value = answer.get("amount")
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal) or len(str(value)) > 30:  # noqa: PLR2004 - longer is no amount.
        raise RailUnavailableError(NAME, "an amount that is none")
    try:
        amount = to_minor(Decimal(str(value)), currency)
    except (InvalidOperation, InvalidInputError) as error:
        raise RailUnavailableError(NAME, "an amount that is none") from error
    if amount < 0:
        raise RailUnavailableError(NAME, "an amount below zero")
    return amount


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content, parse_float=Decimal, parse_constant=str)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refuse_unless(good: bool, status: int, answer: dict[str, Any]) -> None:
    if good:
        return
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN}:
        raise RailRefusedError(NAME, str(answer.get("code") or status)[:64], to_translate("MoMo refused the request."))
    raise RailUnavailableError(NAME, f"HTTP {status}")


def _checked(reference: str) -> str:
    try:
        return str(uuid.UUID(reference))
    except ValueError:
        raise RailRefusedError(NAME, "bad_id", to_translate("This is not a MoMo payment's id.")) from None


def _masked(phone: str) -> str:
    return f"+{phone[:3]}*****{phone[-3:]}" if len(phone) >= 8 else "hidden"  # noqa: PLR2004 - shorter ones would show whole.
