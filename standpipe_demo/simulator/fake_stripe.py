"""A stand-in for Stripe's API, as far as Standpipe uses it, in Stripe's wire format.

Form-encoded requests, Stripe-shaped JSON and errors; an idempotency key replays the first answer as it was then, and
is refused with another request. What card holders and banks do happens by ``POST /_control/…`` (``_control`` below
lists it), or on the page of a Checkout Session.
"""

import html
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from standpipe.platform.units import money_text
from standpipe_demo.simulator.fake_stripe_books import Books
from standpipe_demo.simulator.fake_stripe_cards import CARDS, Cards
from standpipe_demo.simulator.fake_stripe_wire import StripeRefusalError, bad, key_reused, metadata_of, missing, page_of
from standpipe_demo.simulator.store import JsonStore
from standpipe_demo.simulator.webhooks import WebhookSender

HEADER = "Stripe-Signature"
MODES = ("on", "off", "double", "shuffle", "delay")
DELAY_S = 15
PAGE = (Path(__file__).parent / "pages" / "checkout.html").read_text()
_QUERY = re.compile(r"metadata\['(\w+)'\]:'([^']*)'")


class StripeState(Cards, Books):
    """All objects by id. ``withhold``: how many requests happen without their answer ever coming."""

    def __init__(self, store: JsonStore, sender: WebhookSender | None, api_key: str, public_url: str) -> None:
        self.store, self.sender, self.api_key, self.public_url = store, sender, api_key, public_url
        self.intents: dict[str, dict[str, Any]] = store.data.setdefault("intents", {})
        self.keys: dict[str, dict[str, Any]] = store.data.setdefault("keys", {})
        for name in ("customers", "methods", "setups", "sessions", "refunds", "disputes", "transactions", "payouts"):
            setattr(self, name, store.data.setdefault(name, {}))
        for key in [key for key, kept in self.keys.items() if "path" not in kept]:
            # Stored by an earlier release, in another form.
            del self.keys[key]
        self.withhold = 0
        self.fetches = 0
        self.mode = "on"
        self._held: list[dict[str, Any]] = []

    def intent(self, intent_id: str) -> dict[str, Any]:
        """One intent. Raises StripeRefusalError."""
        if intent_id not in self.intents:
            raise missing("payment_intent", intent_id)
        return self.intents[intent_id]

    def create(self, form: dict[str, str], key: str | None) -> dict[str, Any]:
        """A new intent, or the one that this key made. Raises StripeRefusalError."""
        made: dict[str, Any] = self.once(key, "/v1/payment_intents", form, lambda: self._create(form))
        return self.intents[made["id"]]

    def once(
        self, key: str | None, path: str, form: dict[str, str], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Repeat the answer to this key's first request. Raises StripeRefusalError for another request."""
        if key is None:
            return make()
        if key in self.keys:
            if (self.keys[key]["path"], self.keys[key]["form"]) != (path, form):
                raise key_reused()
            stored: dict[str, Any] = json.loads(self.keys[key]["answer"])
            return stored
        made = make()
        self.keys[key] = {"path": path, "form": form, "answer": json.dumps(made)}
        self.store.save()
        return made

    def succeed(self, intent: dict[str, Any], amount: int | None = None) -> None:
        """The card holder pays; ``amount`` for a partial capture."""
        received = intent["amount"] if amount is None else amount
        intent.update(status="succeeded", amount_received=received, last_payment_error=None)
        intent["latest_charge"] = {
            "id": f"ch_{secrets.token_hex(12)}",
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": received,
            "amount_refunded": 0,
            "currency": intent["currency"],
            "disputed": False,
            "metadata": dict(intent["metadata"]),
            "paid": True,
            "payment_intent": intent["id"],
        }
        self.book_charge(intent["latest_charge"])
        self.announce("charge.succeeded", intent["latest_charge"])
        self.announce("payment_intent.succeeded", intent)

    def fail(self, intent: dict[str, Any]) -> None:
        """The bank declines; the same intent may succeed with another card."""
        intent["last_payment_error"] = {
            "type": "card_error",
            "code": "card_declined",
            "message": "Your card was declined.",
        }
        self.announce("payment_intent.payment_failed", intent)

    def announce(self, kind: str, subject: dict[str, Any]) -> None:
        """Save, and send the event in the way of the present mode."""
        self.store.save()
        if self.sender is None or self.mode == "off":
            return
        told = event(kind, subject)
        if self.mode == "shuffle":
            self._held.append(told)
            if len(self._held) > 1:
                for held in reversed(self._held):
                    self.sender.send(held)
                self._held.clear()
            return
        for _ in range(2 if self.mode == "double" else 1):
            self.sender.send(told, after_s=DELAY_S if self.mode == "delay" else 0)

    def _create(self, form: dict[str, str]) -> dict[str, Any]:
        if not form.get("amount", "").isdigit() or int(form["amount"]) <= 0:
            raise bad("Invalid integer: amount", "parameter_invalid_integer")
        intent_id = f"pi_{secrets.token_hex(12)}"
        intent: dict[str, Any] = {
            "id": intent_id,
            "object": "payment_intent",
            "amount": int(form["amount"]),
            "amount_received": 0,
            "currency": form.get("currency", "usd"),
            "client_secret": f"{intent_id}_secret_{secrets.token_hex(12)}",
            "created": int(time.time()),
            "customer": form.get("customer"),
            "description": form.get("description"),
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": metadata_of(form),
            "payment_method": None,
            "setup_future_usage": form.get("setup_future_usage"),
            "status": "requires_payment_method",
        }
        self.intents[intent_id] = intent
        self.store.save()
        if form.get("confirm") == "true":
            self.charge_saved(intent, form)
        return intent


def event(kind: str, subject: dict[str, Any]) -> dict[str, Any]:
    """A snapshot event about an object, shaped like Stripe's."""
    return {
        "id": f"evt_{secrets.token_hex(12)}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "livemode": False,
        "type": kind,
        "data": {"object": json.loads(json.dumps(subject))},
    }


def make_app(
    *, api_key: str, webhook_url: str | None, webhook_secret: str, store: Path | None, public_url: str = "http://stripe"
) -> Starlette:
    """The stand-in as an ASGI app; without ``webhook_url`` it stays silent and tests post their own events."""
    kept = JsonStore(store)
    sender = WebhookSender(webhook_url, webhook_secret, HEADER, kept) if webhook_url else None

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        if sender is not None:
            sender.start()
        yield
        if sender is not None:
            await sender.stop()

    routes = [
        Route("/v1/payment_intents/search", _search, methods=["GET"]),
        Route("/v1/{path:path}", _get, methods=["GET"]),
        Route("/v1/{path:path}", _post, methods=["POST"]),
        Route("/v1/customers/{id}", _delete_customer, methods=["DELETE"]),
        Route("/_control/{path:path}", _control, methods=["POST"]),
        Route("/pay/{id}", _page, methods=["GET"]),
        Route("/pay/{id}/{action}", _act_on_page, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={StripeRefusalError: _refused})
    app.state.stripe = StripeState(kept, sender, api_key, public_url)
    return app


def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, StripeRefusalError):
        raise error
    said: dict[str, Any] = {"type": error.kind, "code": error.code, "message": str(error)}
    if error.intent is not None:
        said |= {"payment_intent": error.intent, "decline_code": error.intent["last_payment_error"]["decline_code"]}
    return JSONResponse({"error": said}, error.status, headers={"Request-Id": f"req_{secrets.token_hex(7)}"})


def _state(request: Request) -> StripeState:
    state: StripeState = request.app.state.stripe
    return state


def _merchant(request: Request) -> StripeState:
    state = _state(request)
    if not secrets.compare_digest(
        request.headers.get("authorization", "").encode(), f"Bearer {state.api_key}".encode()
    ):
        raise StripeRefusalError(HTTPStatus.UNAUTHORIZED, "invalid_request_error", "", "Invalid API Key provided.")
    return state


async def _post(request: Request) -> Response:
    """Every creation and change, each once per idempotency key."""
    state, path = _merchant(request), f"/v1/{request.path_params['path']}"
    form = dict(parse_qsl((await request.body()).decode()))
    key = request.headers.get("idempotency-key")
    replayed = key is not None and key in state.keys
    made = state.once(key, path, form, lambda: _changed(state, path.removeprefix("/v1/").split("/"), form))
    state.store.save()
    if state.withhold > 0:
        state.withhold -= 1
        # It has happened; its answer is lost on the way, and a gateway in between says so.
        return JSONResponse({"error": {"type": "api_error", "message": "timeout"}}, HTTPStatus.GATEWAY_TIMEOUT)
    headers = {"Request-Id": f"req_{secrets.token_hex(7)}"} | ({"Idempotent-Replayed": "true"} if replayed else {})
    return JSONResponse(_as_asked(made, form), headers=headers)


def _changed(state: StripeState, path: list[str], form: dict[str, str]) -> dict[str, Any]:  # noqa: C901, PLR0911 - one table of paths.
    match path:
        case ["payment_intents"]:
            return state._create(form)  # noqa: SLF001 - the same module's class.
        case ["payment_intents", intent_id, "cancel"]:
            intent = state.intent(intent_id)
            if intent["status"] == "succeeded":
                raise bad("It has succeeded.", "payment_intent_unexpected_state")
            intent["status"] = "canceled"
            state.announce("payment_intent.canceled", intent)
            return intent
        case ["refunds"]:
            return state.refund(form)
        case ["customers"]:
            return state.new_customer(form)
        case ["customer_sessions"]:
            return state.new_customer_session(form)
        case ["setup_intents"]:
            return state.new_setup(form)
        case ["payment_methods", method_id, "detach"]:
            method = _one(state.methods, "payment_method", method_id)
            state.detach(method)
            return method
        case ["checkout", "sessions"]:
            return state.new_session(form)
        case ["checkout", "sessions", session_id, "expire"]:
            session = _one(state.sessions, "checkout.session", session_id)
            state.session_action(session, "expire")
            return session
        case _:
            raise missing("path", "/".join(path))


async def _delete_customer(request: Request) -> Response:
    state = _merchant(request)
    if state.withhold > 0:
        state.withhold -= 1
        return JSONResponse({"error": {"type": "api_error", "message": "timeout"}}, HTTPStatus.GATEWAY_TIMEOUT)
    gone = state.delete_customer(request.path_params["id"])
    state.store.save()
    return JSONResponse({"id": gone["id"], "object": "customer", "deleted": True})


async def _get(request: Request) -> Response:
    state, asked = _merchant(request), dict(request.query_params)
    path = request.path_params["path"]
    url = f"/v1/{path}"
    match path.split("/"):
        case ["payment_intents", intent_id]:
            state.fetches += 1
            found = state.intent(intent_id)
        case ["setup_intents", setup_id]:
            found = _one(state.setups, "setup_intent", setup_id)
            if _asks(asked, "payment_method") and found["payment_method"]:
                found = found | {"payment_method": state.methods[found["payment_method"]]}
        case ["payment_methods", method_id]:
            found = _one(state.methods, "payment_method", method_id)
        case ["checkout", "sessions", session_id]:
            found = _one(state.sessions, "checkout.session", session_id)
        case ["refunds" | "disputes" as name]:
            rows = state.refunds if name == "refunds" else state.disputes
            mine = [row for row in rows.values() if row["payment_intent"] == asked.get("payment_intent")]
            found = page_of(mine, asked, url)
        case ["checkout", "sessions"]:
            mine = [row for row in state.sessions.values() if row["payment_intent"] == asked.get("payment_intent")]
            found = page_of(mine, asked, url)
        case ["payouts"]:
            found = page_of(list(state.payouts.values()), asked, url)
        case ["balance_transactions"]:
            found = page_of(state.shown_transactions(asked), asked, url)
        case _:
            raise missing("path", path)
    headers = {"Request-Id": f"req_{secrets.token_hex(7)}"}
    return JSONResponse(_with_method(state, _as_asked(found, asked), asked), headers=headers)


async def _search(request: Request) -> Response:
    state = _merchant(request)
    wanted = _QUERY.fullmatch(request.query_params.get("query", ""))
    if wanted is None:
        raise bad("Unreadable query.", "bad_query")
    found = [
        _as_asked(intent, {}) for intent in state.intents.values() if intent["metadata"].get(wanted[1]) == wanted[2]
    ]
    return JSONResponse(
        {"object": "search_result", "data": found, "has_more": False, "url": "/v1/payment_intents/search"}
    )


async def _control(request: Request) -> Response:  # noqa: C901 - one table of paths.
    """Do what happens outside the API; every path is listed in this one match."""
    state, asked = _state(request), request.query_params
    amount = int(asked["amount"]) if asked.get("amount", "").isdigit() else None
    result: dict[str, Any] = {}
    match request.path_params["path"].split("/"):
        case ["payment_intents", intent_id, action]:
            result = _act_on_intent(state, state.intent(intent_id), action, amount)
        case ["refunds", refund_id, "succeed" | "fail" as action]:
            result = state.move_refund(refund_id, action)
        case ["refunds", "hold" | "release" as action]:
            state.holds_refunds = action == "hold"
        case ["checkout", session_id, action]:
            result = _one(state.sessions, "checkout.session", session_id)
            state.session_action(result, action)
        case ["setup_intents", setup_id, "succeed"]:
            result = _one(state.setups, "setup_intent", setup_id)
            state.finish_setup(result, asked.get("card", "visa") if asked.get("card") in CARDS else "visa")
        case ["payment_methods", method_id, action]:
            result = _one(state.methods, "payment_method", method_id)
            _act_on_method(state, result, action)
        case ["payouts", "make"]:
            result = state.pay_out()
        case ["customers", customer_id, "delete"]:
            result = state.delete_customer(customer_id)
        case ["webhooks", mode] if mode in MODES:
            state.mode = mode
        case ["withhold"]:
            state.withhold = int(asked.get("n", "1"))
        case _:
            raise missing("control", request.path_params["path"])
    return JSONResponse(result)


def _act_on_intent(state: StripeState, intent: dict[str, Any], action: str, amount: int | None) -> dict[str, Any]:
    match action:
        case "succeed" | "capture_part":
            state.succeed(intent, amount)
        case "fail":
            state.fail(intent)
        case "process" | "require_action":
            intent["status"] = "processing" if action == "process" else "requires_action"
            state.announce(f"payment_intent.{'processing' if action == 'process' else 'requires_action'}", intent)
        case "refund":
            state.refund({"payment_intent": intent["id"]} | ({"amount": str(amount)} if amount else {}))
        case "inquiry" | "chargeback" | "win" | "lose":
            state.dispute_action(intent, action)
        case "fraud_warning":
            warning = {"id": f"issfr_{secrets.token_hex(8)}", "object": "radar.early_fraud_warning"}
            state.announce("radar.early_fraud_warning.created", warning | {"payment_intent": intent["id"]})
        case _:
            raise missing("action", action)
    return intent


def _act_on_method(state: StripeState, method: dict[str, Any], action: str) -> None:
    match action:
        case "decline_next":
            method["says_next"] = "insufficient_funds"
        case "auth_next":
            method["says_next"] = "authentication_required"
        case "detach":
            state.detach(method)
        case "update":
            method["card"] |= {"last4": "1881", "exp_year": 2034}
            state.announce("payment_method.automatically_updated", method)
        case _:
            raise missing("action", action)


async def _page(request: Request) -> Response:
    session = _one(_state(request).sessions, "checkout.session", request.path_params["id"])
    amount = money_text(session["amount_total"], session["currency"].upper())
    values = {"id": session["id"], "amount": amount, "status": session["payment_status"]}
    page = PAGE
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", html.escape(str(value)))
    return HTMLResponse(page)


async def _act_on_page(request: Request) -> Response:
    state = _state(request)
    session = _one(state.sessions, "checkout.session", request.path_params["id"])
    if session["status"] == "open":
        state.session_action(session, request.path_params["action"])
    return RedirectResponse(session["success_url"] or f"/pay/{session['id']}", HTTPStatus.SEE_OTHER)


def _one(rows: dict[str, dict[str, Any]], kind: str, object_id: str) -> dict[str, Any]:
    if object_id not in rows:
        raise missing(kind, object_id)
    return rows[object_id]


def _asks(asked: dict[str, str], name: str) -> bool:
    return any(key.startswith("expand[") and value == name for key, value in asked.items())


def _as_asked(found: dict[str, Any], asked: dict[str, str]) -> dict[str, Any]:
    """An intent as Stripe shows it: its charge is an id unless ``expand`` asks for the object."""
    charge = found.get("latest_charge")
    if found.get("object") != "payment_intent" or charge is None or _asks(asked, "latest_charge"):
        return found
    return found | {"latest_charge": charge["id"]}


def _with_method(state: StripeState, found: dict[str, Any], asked: dict[str, str]) -> dict[str, Any]:
    method = found.get("payment_method")
    if found.get("object") != "payment_intent" or not isinstance(method, str) or not _asks(asked, "payment_method"):
        return found
    return found | {"payment_method": state.methods[method]}
