"""Customers, cards and Checkout pages of the Stripe stand-in."""

import secrets
import time
from typing import Any

from standpipe_demo.simulator.fake_stripe_wire import StripeRefusalError, bad, metadata_of, missing

CARDS: dict[str, dict[str, Any]] = {
    "visa": {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2031},
    "needs_auth": {"brand": "visa", "last4": "3184", "exp_month": 12, "exp_year": 2031},
    "declined": {"brand": "visa", "last4": "0341", "exp_month": 12, "exp_year": 2031},
}
_SAYS = {"needs_auth": "authentication_required", "declined": "insufficient_funds"}


class Cards:
    """Mixed into StripeState: what hangs on customers."""

    customers: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    setups: dict[str, dict[str, Any]]
    sessions: dict[str, dict[str, Any]]
    public_url: str

    def announce(self, kind: str, subject: dict[str, Any]) -> None:
        """Tell the shop."""
        raise NotImplementedError

    def create(self, form: dict[str, str], key: str | None) -> dict[str, Any]:
        """A payment intent."""
        raise NotImplementedError

    def succeed(self, intent: dict[str, Any], amount: int | None = None) -> None:
        """The payer pays."""
        raise NotImplementedError

    def new_customer(self, form: dict[str, str]) -> dict[str, Any]:
        """A customer."""
        made: dict[str, Any] = {
            "id": f"cus_{secrets.token_hex(7)}",
            "object": "customer",
            "metadata": metadata_of(form),
        }
        self.customers[made["id"]] = made
        return made

    def delete_customer(self, customer_id: str) -> dict[str, Any]:
        """A customer goes, with the cards; their payments stay."""
        if customer_id not in self.customers:
            raise missing("customer", customer_id)
        gone = self.customers.pop(customer_id)
        self.announce("customer.deleted", gone)
        return gone

    def new_customer_session(self, form: dict[str, str]) -> dict[str, Any]:
        """The PaymentSheet's key to a customer's cards."""
        self._customer(form)
        return {
            "object": "customer_session",
            "client_secret": f"cuss_secret_{secrets.token_hex(12)}",
            "customer": form["customer"],
            "expires_at": int(time.time()) + 1800,
        }

    def new_setup(self, form: dict[str, str]) -> dict[str, Any]:
        """A card about to be saved."""
        self._customer(form)
        setup_id = f"seti_{secrets.token_hex(12)}"
        self.setups[setup_id] = {
            "id": setup_id,
            "object": "setup_intent",
            "client_secret": f"{setup_id}_secret_{secrets.token_hex(8)}",
            "customer": form["customer"],
            "metadata": metadata_of(form),
            "payment_method": None,
            "status": "requires_payment_method",
            "usage": form.get("usage", "off_session"),
        }
        return self.setups[setup_id]

    def finish_setup(self, setup: dict[str, Any], card: str) -> None:
        """The card holder has typed the card."""
        method = {
            "id": f"pm_{secrets.token_hex(12)}",
            "object": "payment_method",
            "type": "card",
            "card": dict(CARDS[card]),
            "customer": setup["customer"],
            "says": _SAYS.get(card),
        }
        self.methods[method["id"]] = method
        setup.update(status="succeeded", payment_method=method["id"])
        self.announce("setup_intent.succeeded", setup)
        self.announce("payment_method.attached", method)

    def charge_saved(self, intent: dict[str, Any], form: dict[str, str]) -> None:
        """Confirm an intent with a saved card, the card holder not being there. Raises StripeRefusalError."""
        method = self.methods.get(form.get("payment_method", ""))
        if method is None or method["customer"] is None or method["customer"] != form.get("customer"):
            raise bad("The provided PaymentMethod cannot be attached or does not belong to this customer.")
        says = method.pop("says_next", None) or method["says"]
        intent["payment_method"] = method["id"]
        if says is None:
            self.succeed(intent)
            return
        code = says if says == "authentication_required" else "card_declined"
        intent["last_payment_error"] = {
            "type": "card_error",
            "code": code,
            "decline_code": says,
            "message": "Your card was declined.",
        }
        self.announce("payment_intent.payment_failed", intent)
        raise StripeRefusalError(402, "card_error", code, "Your card was declined.", intent=intent)

    def detach(self, method: dict[str, Any]) -> None:
        """A card leaves its customer."""
        if method["customer"] is None:
            raise bad("The payment method you provided is not attached to a customer.")
        method["customer"] = None
        self.announce("payment_method.detached", method)

    def new_session(self, form: dict[str, str]) -> dict[str, Any]:
        """A Checkout page."""
        session_id = f"cs_test_{secrets.token_hex(16)}"
        self.sessions[session_id] = {
            "id": session_id,
            "object": "checkout.session",
            "amount_total": int(form["line_items[0][price_data][unit_amount]"]),
            "currency": form["line_items[0][price_data][currency]"],
            "client_reference_id": form.get("client_reference_id"),
            "metadata": metadata_of(form),
            "intent_metadata": metadata_of(form, "payment_intent_data[metadata]"),
            "payment_intent": None,
            "payment_status": "unpaid",
            "status": "open",
            "success_url": form.get("success_url"),
            "url": f"{self.public_url}/pay/{session_id}",
        }
        return self.sessions[session_id]

    def session_action(self, session: dict[str, Any], action: str) -> None:
        """Act on the page: pay, pay_async (the bank takes its time), async_done, async_fail, expire."""
        if action == "expire":
            if session["status"] != "open":
                raise bad("Only Checkout Sessions with a status in [open] can be expired.")
            session.update(status="expired", url=None)
            self.announce("checkout.session.expired", session)
            return
        if session["payment_intent"] is None:
            form = {"amount": str(session["amount_total"]), "currency": session["currency"]}
            form |= {f"metadata[{name}]": value for name, value in session["intent_metadata"].items()}
            session["payment_intent"] = self.create(form, None)["id"]
        self._act_on_page(session, action)

    def intent(self, intent_id: str) -> dict[str, Any]:
        """One intent."""
        raise NotImplementedError

    def _act_on_page(self, session: dict[str, Any], action: str) -> None:
        intent = self.intent(session["payment_intent"])
        session.update(status="complete", url=None)
        if action == "pay_async":
            intent["status"] = "processing"
            self.announce("checkout.session.completed", session)
        elif action == "async_fail":
            intent["status"] = "requires_payment_method"
            intent["last_payment_error"] = {"type": "card_error", "code": "payment_intent_payment_attempt_failed"}
            self.announce("checkout.session.async_payment_failed", session)
        else:
            session["payment_status"] = "paid"
            self.succeed(intent)
            late = action == "async_done"
            self.announce(f"checkout.session.{'async_payment_succeeded' if late else 'completed'}", session)

    def _customer(self, form: dict[str, str]) -> None:
        if form.get("customer") not in self.customers:
            raise missing("customer", form.get("customer", ""))
