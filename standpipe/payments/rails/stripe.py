"""Stripe, through its official SDK: PaymentIntents and Checkout Sessions, asked and never believed.

Time-out and retries are set here, on purpose: the SDK's own default is 80 s and no retry. Every call that creates
something carries our idempotency key. The API version is pinned. Several API keys may be set: while one is being
rotated out, a call that Stripe does not authenticate goes on with the next.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import stripe

from standpipe.payments.rails.base import BaseRail
from standpipe.payments.rails.port import (
    CARD_POLLS_S,
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
    RefundTruth,
    SettlementLine,
    WebhookCall,
)
from standpipe.payments.rails.signatures import verify
from standpipe.payments.rails.stripe_amounts import NAME, from_stripe, limits_minor, step_minor, to_stripe
from standpipe.payments.rails.stripe_events import PAYMENT_ID, parse
from standpipe.payments.rails.stripe_statement import line_of
from standpipe.payments.rails.stripe_truth import REFERENCE, REFUND_KEY, intent_truth, refund_truth
from standpipe.payments.rails.stripe_vault import StripeVault
from standpipe.platform.language import to_translate

API_VERSION = "2026-10-28.endive"
MAX_RETRIES = 2
PAGE = 100
MAX_LINES = 100_000
_INTENT_PARTS = ["latest_charge", "payment_method"]
_SESSION_STATUS = {"expired": PaymentStatus.EXPIRED}


class StripeRail(BaseRail):
    """Cards by PaymentSheet, Checkout, or off session. ``api_keys``, ``webhook_secrets``: newest first."""

    name = NAME
    capabilities = Capabilities(
        CARD_POLLS_S,
        refunds=True,
        partial_refunds=True,
        reports_refunds=True,
        cancels=True,
        saved_methods=True,
        settlements=True,
    )

    def __init__(
        self,
        *,
        api_keys: list[str],
        publishable_key: str,
        webhook_secrets: list[str],
        api_base: str,
        timeout_s: float,
        return_base_url: str,
        accounts: Sequence[str] = (),
    ) -> None:
        self._return_base = return_base_url
        self._publishable_key, self._webhook_secrets, self._accounts = publishable_key, webhook_secrets, accounts
        self._live = api_keys[0].startswith(("sk_live_", "rk_live_"))
        self._http = stripe.HTTPXClient(timeout=timeout_s)
        self._clients = [
            stripe.StripeClient(
                key,
                base_addresses={"api": api_base},
                http_client=self._http,
                max_network_retries=MAX_RETRIES,
                stripe_version=API_VERSION,
            )
            for key in api_keys
        ]
        self._vault = StripeVault(self._ask, publishable_key)
        self.vault = self._vault

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """A card in the app, and a card on Stripe's own page."""
        least_minor, most_minor = limits_minor(currency)
        step = step_minor(currency)
        names = (("stripe", to_translate("Card")), ("stripe_checkout", to_translate("Card, on a web page")))
        return tuple(
            PaymentMethod(method, MethodKind.CARD, label, least_minor, most_minor, step_minor=step)
            for method, label in names
        )

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """Create the payment, or find the one that this reference made before."""
        if request.method_id == "stripe_checkout":
            return await self._create_session(request)
        return await self._create_intent(request)

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """The payment now, with its refunds and disputes."""
        _checked(rail_ref)
        if rail_ref.startswith("cs_"):
            return await self._fetch_session(rail_ref)
        intent = await self._ask(
            lambda client: client.v1.payment_intents.retrieve_async(rail_ref, {"expand": _INTENT_PARTS})
        )
        truth = await self._read(intent)
        if (intent.get("metadata") or {}).get("via") != "checkout":
            return truth
        # Whoever asks by the intent gets the page's truth: one payment must not pass for two.
        sessions = await self._pages(
            lambda client, page: client.v1.checkout.sessions.list_async(page), {"payment_intent": rail_ref}
        )
        return _session_truth(sessions[0], truth) if sessions else truth

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:
        """Search by our reference. Stripe's index lags by up to a minute; callers ask only about old payments."""
        # Sessions cannot be searched, but a paid one has left an intent that carries our reference.
        query = f"metadata['{REFERENCE}']:'{request.reference}'"
        found = await self._ask(lambda client: client.v1.payment_intents.search_async({"query": query, "limit": 1}))
        rows = found.get("data") or []
        return await self.fetch(str(rows[0]["id"])) if rows else None

    async def cancel(self, rail_ref: str) -> PaymentTruth:
        """Cancel; where it is too late for that, what it has become."""
        _checked(rail_ref)
        try:
            if rail_ref.startswith("cs_"):
                await self._ask(lambda client: client.v1.checkout.sessions.expire_async(rail_ref))
            else:
                await self._ask(lambda client: client.v1.payment_intents.cancel_async(rail_ref))
        except RailRefusedError:
            pass
        return await self.fetch(rail_ref)

    async def refund(self, request: RefundRequest) -> RefundTruth:
        """Refund part or all of a payment."""
        _checked(request.rail_ref)
        amount = to_stripe(request.amount_minor, request.currency)
        made = await self._ask(
            lambda client: client.v1.refunds.create_async(
                {
                    "payment_intent": request.rail_ref,
                    "amount": amount,
                    "metadata": {REFUND_KEY: request.key},
                },
                {"idempotency_key": f"refund:{request.key}"},
            )
        )
        return refund_truth(made, request.currency)

    async def find_refund(self, request: RefundRequest) -> RefundTruth | None:
        """The refund that carries our key: Stripe forgets idempotency keys after a day."""
        _checked(request.rail_ref)
        for refund in await self._refunds(request.rail_ref):
            if (refund.get("metadata") or {}).get(REFUND_KEY) == request.key:
                return refund_truth(refund, request.currency)
        return None

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:
        """Ask how a refund stands now. Raises RailRefusedError."""
        for refund in (await self.fetch(rail_ref)).refunds:
            if refund.rail_ref == refund_ref:
                return refund
        raise RailRefusedError(NAME, "resource_missing", to_translate("There is no such refund."))

    def authenticate(self, call: WebhookCall) -> None:
        """Verify ``Stripe-Signature`` over the raw bytes.

        Not by the SDK's ``construct_event``: it takes signatures from the future, and raises TypeError on a header
        that is not ASCII.
        """
        verify(call.headers.get("stripe-signature"), call.body, self._webhook_secrets, call.now_s)

    def parse(self, call: WebhookCall) -> RailNotice:
        """Tell what an event is about."""
        return parse(call, live=self._live, accounts=self._accounts)

    async def settlements(self, since: datetime, until: datetime) -> Sequence[SettlementLine]:
        """Balance transactions of these days, each with the payout that it left in, where it has left."""
        span: Any = {"gte": int(since.timestamp()), "lte": int(until.timestamp())}
        payouts = await self._pages(lambda client, page: client.v1.payouts.list_async(page), {"created": span})
        lines: dict[str, SettlementLine] = {}
        for payout in payouts:
            ref = str(payout["id"])
            for row in await self._transactions({"payout": ref}):
                lines[str(row["id"])] = line_of(row, ref)
        for row in await self._transactions({"created": span}):
            lines.setdefault(str(row["id"]), line_of(row, None))
        return list(lines.values())

    async def close(self) -> None:
        """Close the SDK's connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # The SDK leaves it bare.

    async def _create_intent(self, request: PaymentRequest) -> PaymentTruth:
        order: Any = {
            "amount": to_stripe(request.amount_minor, request.currency),
            "currency": request.currency.lower(),
            "description": request.description,
            "metadata": {REFERENCE: request.reference},
            "automatic_payment_methods": {"enabled": True},
            "expand": _INTENT_PARTS,
        }
        if request.customer_ref is not None:
            order["customer"] = request.customer_ref
        if request.off_session:
            order |= {"confirm": True, "off_session": True, "payment_method": request.saved_method_ref}
        key = {"idempotency_key": f"create:{request.reference}"}
        try:
            intent = await self._ask(lambda client: client.v1.payment_intents.create_async(order, key))  # type: ignore[arg-type]  # One option of many.
        except _DeclinedError as declined:
            # The card said no, but the payment is there: it can still be made by the customer on session.
            return await self.fetch(declined.intent_id)
        truth = await self._read(intent)
        if request.customer_ref is None or truth.next_action is None:
            return truth
        return replace(truth, next_action=truth.next_action | await self._cards_of(request.customer_ref))

    async def _cards_of(self, customer_ref: str) -> dict[str, Any]:
        """The sheet's key to the customer's saved cards; without it the sheet asks for a card."""
        try:
            return {"customer_session_client_secret": await self._vault.session_secret(customer_ref)}
        except (RailRefusedError, RailUnavailableError):
            return {}

    async def _create_session(self, request: PaymentRequest) -> PaymentTruth:
        metadata = {REFERENCE: request.reference}
        back = request.return_url or f"{self._return_base}/{request.reference}"
        item = {
            "quantity": 1,
            "price_data": {
                "currency": request.currency.lower(),
                "unit_amount": to_stripe(request.amount_minor, request.currency),
                "product_data": {"name": "Water top-up"},
            },
        }
        order: Any = {
            "mode": "payment",
            "line_items": [item],
            "success_url": back,
            "cancel_url": back,
            "client_reference_id": request.reference,
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata | {"via": "checkout"}, "description": request.description},
        }
        if request.customer_ref is not None:
            order["customer"] = request.customer_ref
        key: Any = {"idempotency_key": f"create:{request.reference}"}
        made = await self._ask(lambda client: client.v1.checkout.sessions.create_async(order, key))
        return _session_truth(made, None)

    async def _fetch_session(self, session_ref: str) -> PaymentTruth:
        made = await self._ask(lambda client: client.v1.checkout.sessions.retrieve_async(session_ref))
        intent_ref = made.get("payment_intent")
        if not isinstance(intent_ref, str):
            return _session_truth(made, None)
        intent = await self._ask(
            lambda client: client.v1.payment_intents.retrieve_async(intent_ref, {"expand": _INTENT_PARTS})
        )
        return _session_truth(made, await self._read(intent))

    async def _read(self, intent: dict[str, Any]) -> PaymentTruth:
        charge = intent.get("latest_charge")
        charge = charge if isinstance(charge, dict) else {}
        refunds = await self._refunds(str(intent["id"])) if charge else []
        disputes = await self._disputes(str(intent["id"])) if charge.get("disputed") else []
        return intent_truth(intent, refunds=refunds, disputes=disputes, next_action=await self._sheet(intent))

    async def _sheet(self, intent: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the app needs to open the PaymentSheet."""
        if not intent.get("client_secret") or intent["status"] in {"succeeded", "canceled"}:
            return None
        customer = intent.get("customer")
        return {
            "type": "stripe_payment_sheet",
            "publishable_key": self._publishable_key,
            "client_secret": intent["client_secret"],
            "customer_id": customer,
        }

    async def _refunds(self, intent_ref: str) -> list[dict[str, Any]]:
        return await self._pages(
            lambda client, page: client.v1.refunds.list_async(page), {"payment_intent": intent_ref}
        )

    async def _disputes(self, intent_ref: str) -> list[dict[str, Any]]:
        return await self._pages(
            lambda client, page: client.v1.disputes.list_async(page), {"payment_intent": intent_ref}
        )

    async def _transactions(self, which: dict[str, Any]) -> list[dict[str, Any]]:
        return await self._pages(
            lambda client, page: client.v1.balance_transactions.list_async(page), {"expand": ["data.source"]} | which
        )

    async def _pages(
        self, call: Callable[[stripe.StripeClient, Any], Awaitable[Any]], which: dict[str, Any]
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while len(rows) < MAX_LINES:
            page = {"limit": PAGE} | which | ({"starting_after": rows[-1]["id"]} if rows else {})
            found = await self._ask(partial(_with_page, call, page))
            rows += found.get("data") or []
            if not found.get("has_more"):
                return rows
        raise RailUnavailableError(NAME, "the list has no end")

    async def _ask(self, call: Callable[[stripe.StripeClient], Awaitable[Any]]) -> dict[str, Any]:
        """One call, with the newest key that Stripe takes; its errors in our words."""
        refused: Exception | None = None
        for client in self._clients:
            try:
                answer: dict[str, Any] = (await call(client)).to_dict()
            except stripe.AuthenticationError as error:
                refused = error
            except stripe.StripeError as error:
                raise _neutral(error) from error
            else:
                return answer
        raise RailUnavailableError(NAME, "no API key is accepted") from refused


async def _with_page(
    call: Callable[[stripe.StripeClient, Any], Awaitable[Any]], page: dict[str, Any], client: stripe.StripeClient
) -> Any:
    return await call(client, page)


class _DeclinedError(RailRefusedError):
    """A card's no to a payment that exists."""

    def __init__(self, intent_id: str, code: str, message: str) -> None:
        super().__init__(NAME, code, message)
        self.intent_id = intent_id


def _session_truth(session: dict[str, Any], paid: PaymentTruth | None) -> PaymentTruth:
    """A Checkout Session: its intent's truth under the session's name. ``unpaid`` is pending, complete or not (P27)."""
    currency = str(session["currency"]).upper()
    reference = (session.get("metadata") or {}).get(REFERENCE) or session.get("client_reference_id")
    status = _SESSION_STATUS.get(str(session["status"]), PaymentStatus.PENDING)
    requested_minor = from_stripe(session.get("amount_total") or 0, currency)
    action = {"type": "redirect", "url": session.get("url")} if session.get("url") else None
    base = PaymentTruth(str(session["id"]), reference, status, currency, requested_minor, 0, 0, next_action=action)
    if paid is None:
        return base
    is_paid = paid.status is PaymentStatus.SUCCEEDED or paid.captured_minor > 0
    return replace(
        paid,
        rail_ref=base.rail_ref,
        reference=reference,
        aliases=(paid.rail_ref,),
        status=paid.status if is_paid or status is PaymentStatus.PENDING else status,
        next_action=None if is_paid else action,
    )


def _checked(rail_ref: str) -> None:
    # Ids go into the path of a URL, and the SDK leaves a "/" as it is.
    if not PAYMENT_ID.fullmatch(rail_ref):
        raise RailRefusedError(NAME, "bad_id", to_translate("This is not a payment's id."))


def _neutral(error: stripe.StripeError) -> RailRefusedError | RailUnavailableError:
    """Only a clear no is a refusal. What leaves the outcome open, or may pass, is "unavailable": we ask again."""
    code, message = str(error.code or "invalid_request"), str(error.user_message or "Refused.")
    if isinstance(error, stripe.CardError):
        body = error.json_body if isinstance(error.json_body, dict) else {}
        intent = (body.get("error") or {}).get("payment_intent") or {}
        if isinstance(intent, dict) and isinstance(intent.get("id"), str):
            return _DeclinedError(intent["id"], code, message)
    if isinstance(error, stripe.InvalidRequestError | stripe.CardError | stripe.IdempotencyError):
        return RailRefusedError(NAME, code, message)
    return RailUnavailableError(NAME, type(error).__name__)
