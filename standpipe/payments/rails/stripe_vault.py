"""Cards kept at Stripe: customers, SetupIntents, payment methods."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import stripe

from standpipe.payments.rails.port import RailRefusedError, SavedCard
from standpipe.payments.rails.stripe_amounts import NAME
from standpipe.payments.rails.stripe_truth import card_of
from standpipe.platform.language import to_translate

_ID = re.compile(r"(seti|pm|cus)_[A-Za-z0-9_]{1,250}")
Ask = Callable[[Callable[[stripe.StripeClient], Awaitable[Any]]], Awaitable[dict[str, Any]]]
"""Calls the SDK with a key that works, maps its errors, and answers the object as a dict."""


class StripeVault:
    """``rail.CardVault`` on Stripe."""

    def __init__(self, ask: Ask, publishable_key: str) -> None:
        self._ask, self._publishable_key = ask, publishable_key

    async def ensure_customer(self, owner: str) -> str:
        """The customer of this owner. The idempotency key guards two first calls at once; we keep the id for later."""
        made = await self._ask(
            lambda client: client.v1.customers.create_async(
                {"metadata": {"owner": owner}}, {"idempotency_key": f"customer:{owner}"}
            )
        )
        return str(made["id"])

    async def begin_save(self, *, key: str, customer_ref: str | None, owner: str) -> dict[str, Any]:
        """A SetupIntent for later charges without the customer."""
        customer = customer_ref or await self.ensure_customer(owner)
        made = await self._ask(
            lambda client: client.v1.setup_intents.create_async(
                {
                    "customer": customer,
                    "usage": "off_session",
                    "automatic_payment_methods": {"enabled": True},
                    "metadata": {"card_setup_id": key},
                },
                {"idempotency_key": f"setup:{key}"},
            )
        )
        return {
            "type": "stripe_setup",
            "publishable_key": self._publishable_key,
            "client_secret": made["client_secret"],
            "customer_ref": customer,
            "setup_ref": str(made["id"]),
            "customer_session_client_secret": await self.session_secret(customer),
        }

    async def session_secret(self, customer: str) -> str:
        """A CustomerSession for the PaymentSheet: it shows the customer's saved cards, and may save and remove them."""
        features = {
            "payment_method_save": "enabled",
            "payment_method_redisplay": "enabled",
            "payment_method_remove": "enabled",
        }
        made = await self._ask(
            lambda client: client.v1.customer_sessions.create_async(
                {
                    "customer": customer,
                    "components": {"mobile_payment_element": {"enabled": True, "features": features}},  # type: ignore[typeddict-item]  # The SDK wants literals.
                }
            )
        )
        return str(made["client_secret"])

    async def fetch_setup(self, setup_ref: str) -> SavedCard | None:
        """The card that a finished setup saved."""
        _checked(setup_ref)
        made = await self._ask(
            lambda client: client.v1.setup_intents.retrieve_async(setup_ref, {"expand": ["payment_method"]})
        )
        method = made.get("payment_method")
        return card_of(method) if made["status"] == "succeeded" and isinstance(method, dict) else None

    async def fetch_card(self, card_ref: str) -> SavedCard:
        """A card now; one without a customer has been detached and cannot be charged."""
        _checked(card_ref)
        return card_of(await self._ask(lambda client: client.v1.payment_methods.retrieve_async(card_ref)))

    async def forget_card(self, card_ref: str) -> None:
        """Detach a card; one that is gone already is no error."""
        _checked(card_ref)
        try:
            await self._ask(lambda client: client.v1.payment_methods.detach_async(card_ref))
        except RailRefusedError:
            return

    async def forget_customer(self, customer_ref: str) -> None:
        """Delete the customer, with the cards that hang on it; one that is gone already is no error."""
        _checked(customer_ref)
        try:
            await self._ask(lambda client: client.v1.customers.delete_async(customer_ref))
        except RailRefusedError:
            return


def _checked(ref: str) -> None:
    # Ids go into the path of a URL, and the SDK leaves a "/" as it is.
    if not _ID.fullmatch(ref):
        raise RailRefusedError(NAME, "bad_id", to_translate("This is not an id of Stripe's."))
