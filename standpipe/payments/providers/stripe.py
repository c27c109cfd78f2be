"""Stripe, through its official SDK: PaymentIntents, asked and never believed.

Time-out and retries are set here, on purpose: the SDK's own default is 80 s and no retry. Every call that creates
something carries our idempotency key. The API version is pinned by the locked SDK release.
"""

import re
from decimal import Decimal
from typing import Any

import stripe

from standpipe.payments.provider import (
    CARD_POLLS_S,
    Capabilities,
    MethodKind,
    PaymentMethod,
    PaymentRequest,
    PaymentStatus,
    PaymentTruth,
    ProviderNotice,
    ProviderRefusedError,
    ProviderUnavailableError,
    Rail,
    RefundRequest,
    RefundStatus,
    RefundTruth,
    WebhookCall,
)
from standpipe.payments.providers.notices import read_json, text_at, unreadable
from standpipe.payments.signatures import verify
from standpipe.units import currency_exponent, to_minor

NAME = "stripe"
MAX_RETRIES = 2
REFERENCE = "top_up_id"

# https://docs.stripe.com/currencies: which exponent Stripe uses, where it is not ISO 4217's own. UGX and ISK are
# sent with two decimals that must be zero, as are the last digit of the three-decimal currencies.
_EXPONENTS = {"UGX": 2, "ISK": 2, "MGA": 0}
_STEP = {"UGX": 100, "ISK": 100, "BHD": 10, "JOD": 10, "KWD": 10, "OMR": 10, "TND": 10}
_ID = re.compile(r"pi_[A-Za-z0-9_]{1,250}")
_STATUS = {
    "succeeded": PaymentStatus.SUCCEEDED,
    "canceled": PaymentStatus.CANCELLED,
}


def to_stripe(amount_minor: int, currency: str) -> int:
    """Our minor units in Stripe's. Raises ProviderRefusedError for an amount that Stripe cannot express."""
    factor = Decimal(10) ** (stripe_exponent(currency) - currency_exponent(currency))
    amount = Decimal(amount_minor) * factor
    if amount != amount.to_integral_value() or int(amount) % _STEP.get(currency, 1):
        raise ProviderRefusedError(NAME, "amount_step", "Stripe cannot charge this amount exactly.")
    return int(amount)


def from_stripe(amount: int, currency: str) -> int:
    """Stripe's units in ours, exact. Raises InvalidInputError for a fraction of our minor unit."""
    return to_minor(Decimal(amount).scaleb(-stripe_exponent(currency)), currency)


def stripe_exponent(currency: str) -> int:
    """Digits after the point in Stripe's amounts of this currency."""
    return _EXPONENTS.get(currency, currency_exponent(currency))


class StripeProvider(Rail):
    """Card payments by PaymentIntent. ``webhook_secrets``: newest first; two while one is being rotated."""

    name = NAME
    capabilities = Capabilities(CARD_POLLS_S, refunds=True, partial_refunds=True, reports_refunds=True, cancels=True)

    def __init__(
        self,
        *,
        api_key: str,
        publishable_key: str,
        webhook_secrets: list[str],
        api_base: str,
        timeout_s: float,
    ) -> None:
        self._publishable_key = publishable_key
        self._webhook_secrets = webhook_secrets
        self._live = api_key.startswith(("sk_live_", "rk_live_"))
        self._http = stripe.HTTPXClient(timeout=timeout_s)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base},
            http_client=self._http,
            max_network_retries=MAX_RETRIES,
        )

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """Cards; limits keep within Stripe's own for every currency we serve."""
        unit = 10 ** currency_exponent(currency)
        return (PaymentMethod("stripe", MethodKind.CARD, "Card", 1 * unit, 500_000 * unit),)

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """Create the PaymentIntent, or find the one that this reference made before."""
        amount = to_stripe(request.amount_minor, request.currency)
        return await self._truth(
            self._client.v1.payment_intents.create_async(
                {
                    "amount": amount,
                    "currency": request.currency.lower(),
                    "description": request.description,
                    "metadata": {REFERENCE: request.reference},
                    "automatic_payment_methods": {"enabled": True},
                    "expand": ["latest_charge"],
                },
                {"idempotency_key": f"create:{request.reference}"},
            )
        )

    async def fetch(self, provider_ref: str) -> PaymentTruth:
        """The PaymentIntent now, with its refunds."""
        _checked(provider_ref)
        return await self._truth(
            self._client.v1.payment_intents.retrieve_async(provider_ref, {"expand": ["latest_charge"]})
        )

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:
        """Search by our reference. Stripe's index lags by up to a minute; callers ask only about old payments."""
        try:
            found = await self._client.v1.payment_intents.search_async(
                {"query": f"metadata['{REFERENCE}']:'{request.reference}'", "limit": 1}
            )
        except stripe.StripeError as error:
            raise _neutral(error) from error
        return await self.fetch(found.data[0].id) if found.data else None

    async def cancel(self, provider_ref: str) -> PaymentTruth:
        """Cancel; where it is too late for that, what it has become."""
        _checked(provider_ref)
        try:
            return await self._truth(
                self._client.v1.payment_intents.cancel_async(provider_ref, {"expand": ["latest_charge"]})
            )
        except ProviderRefusedError:
            return await self.fetch(provider_ref)

    async def refund(self, request: RefundRequest) -> RefundTruth:
        """Refund part or all of a PaymentIntent."""
        _checked(request.provider_ref)
        try:
            refund = await self._client.v1.refunds.create_async(
                {"payment_intent": request.provider_ref, "amount": to_stripe(request.amount_minor, request.currency)},
                {"idempotency_key": f"refund:{request.key}"},
            )
        except stripe.StripeError as error:
            raise _neutral(error) from error
        amount = from_stripe(refund.amount, request.currency)
        return RefundTruth(refund.id, amount, request.currency, RefundStatus.SUCCEEDED)

    def authenticate(self, call: WebhookCall) -> None:
        """Verify ``Stripe-Signature`` over the raw bytes.

        Not by the SDK's ``construct_event``: it takes signatures from the future, and raises TypeError on a header
        that is not ASCII.
        """
        verify(call.headers.get("stripe-signature"), call.body, self._webhook_secrets, call.now_s)

    def parse(self, call: WebhookCall) -> ProviderNotice:
        """The PaymentIntent that an event is about, whether it comes as the intent, its charge or its refund."""
        body = call.body
        event = read_json(body)
        if event is None:
            return unreadable(body, "not a JSON object")
        event_id, kind = text_at(event, "id"), text_at(event, "type") or ""
        if event_id is None or text_at(event, "object") != "event":
            return unreadable(body, "not a snapshot event", kind=kind)
        if event.get("livemode") is not self._live:
            return ProviderNotice(event_id, kind, ignored="of the other mode (test or live)")
        subject: Any = (event.get("data") or {}).get("object") if isinstance(event.get("data"), dict) else None
        is_intent = text_at(subject, "object") == "payment_intent"
        ref = text_at(subject, "id") if is_intent else text_at(subject, "payment_intent")
        if ref is None or not _ID.fullmatch(ref):
            return ProviderNotice(event_id, kind, ignored="names no payment")
        return ProviderNotice(event_id, kind, provider_ref=ref, reference=text_at(subject, "metadata", REFERENCE))

    async def close(self) -> None:
        """Close the SDK's connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # The SDK leaves it bare.

    async def _truth(self, call: Any) -> PaymentTruth:
        try:
            intent: stripe.PaymentIntent = await call
        except stripe.StripeError as error:
            raise _neutral(error) from error
        return self._read(intent)

    def _read(self, intent: stripe.PaymentIntent) -> PaymentTruth:
        currency = intent.currency.upper()
        charge = intent.latest_charge
        refunded = charge.amount_refunded if isinstance(charge, stripe.Charge) else 0
        error = intent.last_payment_error.to_dict() if intent.last_payment_error else None
        status = _STATUS.get(intent.status, PaymentStatus.FAILED if error else PaymentStatus.PENDING)
        payable = intent.status not in _STATUS and intent.client_secret
        return PaymentTruth(
            provider_ref=intent.id,
            reference=intent.metadata.to_dict().get(REFERENCE),
            status=status,
            currency=currency,
            requested_minor=from_stripe(intent.amount, currency),
            captured_minor=from_stripe(intent.amount_received or 0, currency),
            refunded_minor=from_stripe(refunded, currency),
            failure_code=(error.get("code") or error.get("type")) if error else None,
            failure_message=error.get("message") if error else None,
            next_action={
                "type": "stripe_payment_sheet",
                "publishable_key": self._publishable_key,
                "client_secret": intent.client_secret,
            }
            if payable
            else None,
        )


def _checked(provider_ref: str) -> None:
    # Ids go into the path of a URL, and the SDK leaves a "/" as it is.
    if not _ID.fullmatch(provider_ref):
        raise ProviderRefusedError(NAME, "bad_id", "This is not a PaymentIntent's id.")


def _neutral(error: stripe.StripeError) -> ProviderRefusedError | ProviderUnavailableError:
    """Only a clear no is a refusal. What leaves the outcome open, or may pass, is "unavailable": we ask again."""
    refusals = (stripe.InvalidRequestError, stripe.CardError, stripe.IdempotencyError)
    if isinstance(error, refusals):
        return ProviderRefusedError(NAME, str(error.code or "invalid_request"), str(error.user_message or "Refused."))
    return ProviderUnavailableError(NAME, type(error).__name__)
