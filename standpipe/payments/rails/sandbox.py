"""The sandbox: a small provider process of our own, reached only over HTTP, for demos and app developers."""

import re
from http import HTTPStatus
from typing import Any

import httpx

from standpipe.payments.rails.base import BaseRail
from standpipe.payments.rails.notices import read_json, text_at, unreadable
from standpipe.payments.rails.port import (
    MOBILE_POLLS_S,
    Capabilities,
    DisputeState,
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
    WebhookCall,
)
from standpipe.payments.rails.signatures import verify
from standpipe.platform.language import to_translate
from standpipe.platform.units import currency_exponent

NAME = "sandbox"
TIMEOUT_S = 5.0

_ID = re.compile(r"sch_[A-Za-z0-9]{1,64}")
_STATUS = {
    "pending": PaymentStatus.PENDING,
    "succeeded": PaymentStatus.SUCCEEDED,
    "failed": PaymentStatus.FAILED,
    "cancelled": PaymentStatus.CANCELLED,
    "expired": PaymentStatus.EXPIRED,
}
_REFUND_STATUS = {
    "pending": RefundStatus.PENDING,
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
}


class SandboxRail(BaseRail):
    """Speaks to ``standpipe simulate``'s provider; amounts travel in ISO 4217 minor units."""

    name = NAME
    capabilities = Capabilities(MOBILE_POLLS_S, refunds=True, partial_refunds=True, reports_refunds=True, cancels=True)

    def __init__(self, *, base_url: str, api_key: str, webhook_secrets: list[str]) -> None:
        self._webhook_secrets = webhook_secrets
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=TIMEOUT_S, headers={"Authorization": f"Bearer {api_key}"}
        )

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """One mobile-money-like method in every currency."""
        unit = 10 ** currency_exponent(currency)
        return (
            PaymentMethod(
                "sandbox", MethodKind.MOBILE_MONEY, to_translate("Sandbox money"), 1 * unit, 1_000_000 * unit
            ),
        )

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """Create the charge, or find the one that this reference made before."""
        body = {
            "reference": request.reference,
            "amount": request.amount_minor,
            "currency": request.currency,
            "description": request.description,
        }
        return _read(await self._call("POST", "/v1/charges", json=body, key=request.reference))

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """The charge now."""
        return _read(await self._call("GET", f"/v1/charges/{_checked(rail_ref)}"))

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:
        """The charge that carries our reference."""
        try:
            return _read(await self._call("GET", "/v1/charges", params={"reference": request.reference}))
        except RailRefusedError:
            return None

    async def cancel(self, rail_ref: str) -> PaymentTruth:
        """Cancel; where it is too late for that, what it has become."""
        try:
            return _read(await self._call("POST", f"/v1/charges/{_checked(rail_ref)}/cancel"))
        except RailRefusedError:
            return await self.fetch(rail_ref)

    async def refund(self, request: RefundRequest) -> RefundTruth:
        """Refund part or all of a charge."""
        path = f"/v1/charges/{_checked(request.rail_ref)}/refunds"
        made = await self._call("POST", path, json={"amount": request.amount_minor}, key=f"refund:{request.key}")
        return _read_refund(made, request.currency)

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:
        """Ask how a refund stands now. Raises RailRefusedError."""
        for refund in (await self.fetch(rail_ref)).refunds:
            if refund.rail_ref == refund_ref:
                return refund
        raise RailRefusedError(NAME, "not_found", to_translate("There is no such refund."))

    def authenticate(self, call: WebhookCall) -> None:
        """Verify ``Sandbox-Signature`` over the raw bytes."""
        verify(call.headers.get("sandbox-signature"), call.body, self._webhook_secrets, call.now_s)

    def parse(self, call: WebhookCall) -> RailNotice:
        """The charge that an event is about."""
        event = read_json(call.body)
        if event is None:
            return unreadable(call.body, "not a JSON object")
        event_id, kind = text_at(event, "id"), text_at(event, "type") or ""
        charge = text_at(event, "data", "charge", "id")
        if event_id is None or charge is None or not _ID.fullmatch(charge):
            return unreadable(call.body, "names no charge", kind=kind)
        return RailNotice(event_id, kind, rail_ref=charge, reference=text_at(event, "data", "charge", "reference"))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: dict[str, str] | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            response = await self._http.request(method, path, json=json, params=params, headers=headers)
            answer: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RailUnavailableError(NAME, type(error).__name__) from error
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS or response.is_server_error:
            raise RailUnavailableError(NAME, f"HTTP {response.status_code}")
        if response.is_error:
            message = str(answer.get("message") or to_translate("Refused."))
            raise RailRefusedError(NAME, str(answer.get("code", "refused")), message)
        return answer


def _read(charge: dict[str, Any]) -> PaymentTruth:
    try:
        status = _STATUS[charge["status"]]
        return PaymentTruth(
            rail_ref=_checked(charge["id"]),
            reference=charge["reference"],
            status=status,
            currency=charge["currency"],
            requested_minor=_whole(charge["amount"]),
            captured_minor=_whole(charge["captured"]),
            refunded_minor=_whole(charge["refunded"]),
            refunds=tuple(_read_refund(refund, charge["currency"]) for refund in charge["refunds"]),
            disputed_minor=_whole(charge["disputed"]),
            dispute_fee_minor=_whole(charge["dispute_fee"]),
            dispute=DisputeState(charge["dispute"].upper()) if charge["dispute"] else None,
            failure_code=charge.get("failure_code"),
            failure_message=to_translate("The payment was declined.") if status is PaymentStatus.FAILED else None,
            next_action={"type": "redirect", "url": charge["pay_url"]} if status is PaymentStatus.PENDING else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RailUnavailableError(NAME, f"unreadable charge: {error!r}") from error


def _read_refund(refund: dict[str, Any], currency: str) -> RefundTruth:
    try:
        status = _REFUND_STATUS[refund["status"]]
        return RefundTruth(str(refund["id"]), _whole(refund["amount"]), currency, status, refund.get("failure_code"))
    except (KeyError, TypeError) as error:
        raise RailUnavailableError(NAME, f"unreadable refund: {error!r}") from error


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"not a whole amount: {value!r}")
    return value


def _checked(rail_ref: str) -> str:
    if not _ID.fullmatch(rail_ref):
        raise RailRefusedError(NAME, "bad_id", to_translate("This is not a charge's id."))
    return rail_ref
