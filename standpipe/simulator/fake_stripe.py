"""A stand-in for Stripe's API, as far as Standpipe uses it: PaymentIntents and refunds, in Stripe's wire format.

Form-encoded requests, Stripe-shaped JSON and errors, idempotency keys honoured and conflicting ones refused. What a
card holder does happens by ``POST /_control/payment_intents/{id}/{succeed|fail}``.
"""

import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from standpipe.simulator.store import JsonStore
from standpipe.simulator.webhooks import WebhookSender

HEADER = "Stripe-Signature"
_QUERY = re.compile(r"metadata\['(\w+)'\]:'([^']*)'")


class StripeRefusalError(Exception):
    """An error as Stripe words it."""

    def __init__(self, status: HTTPStatus, kind: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code


class StripeState:
    """PaymentIntents by id. ``withhold``: how many creates happen without their answer ever coming."""

    def __init__(self, store: JsonStore, sender: WebhookSender | None, api_key: str) -> None:
        self.store, self.sender, self.api_key = store, sender, api_key
        self.intents: dict[str, dict[str, Any]] = store.data.setdefault("intents", {})
        self.keys: dict[str, dict[str, Any]] = store.data.setdefault("keys", {})
        self.withhold = 0
        self.fetches = 0

    def intent(self, intent_id: str) -> dict[str, Any]:
        """One intent. Raises StripeRefusalError."""
        if intent_id not in self.intents:
            raise StripeRefusalError(
                HTTPStatus.NOT_FOUND,
                "invalid_request_error",
                "resource_missing",
                f"No such payment_intent: {intent_id}",
            )
        return self.intents[intent_id]

    def create(self, form: dict[str, str], key: str | None) -> dict[str, Any]:
        """A new intent, or the one that this key made. Raises StripeRefusalError."""
        if key is not None and key in self.keys:
            if self.keys[key]["form"] != form or "intent" not in self.keys[key]:
                raise _key_reused()
            return self.intent(self.keys[key]["intent"])
        if not form.get("amount", "").isdigit() or int(form["amount"]) <= 0:
            raise StripeRefusalError(
                HTTPStatus.BAD_REQUEST, "invalid_request_error", "parameter_invalid_integer", "Invalid integer: amount"
            )
        intent_id = f"pi_{secrets.token_hex(12)}"
        self.intents[intent_id] = {
            "id": intent_id,
            "object": "payment_intent",
            "amount": int(form["amount"]),
            "amount_received": 0,
            "currency": form.get("currency", "usd"),
            "client_secret": f"{intent_id}_secret_{secrets.token_hex(12)}",
            "created": int(time.time()),
            "description": form.get("description"),
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": {
                name[len("metadata[") : -1]: value for name, value in form.items() if name.startswith("metadata[")
            },
            "status": "requires_payment_method",
        }
        if key is not None:
            self.keys[key] = {"form": form, "intent": intent_id}
        self.store.save()
        return self.intents[intent_id]

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
            "paid": True,
            "payment_intent": intent["id"],
        }
        self.announce("payment_intent.succeeded", intent)

    def fail(self, intent: dict[str, Any]) -> None:
        """The bank declines; the same intent may succeed with another card."""
        intent["last_payment_error"] = {
            "type": "card_error",
            "code": "card_declined",
            "message": "Your card was declined.",
        }
        self.announce("payment_intent.payment_failed", intent)

    def refund(self, form: dict[str, str], key: str | None) -> dict[str, Any]:
        """Give back part of a charge. Raises StripeRefusalError for more than there is."""
        if key is not None and key in self.keys:
            if self.keys[key]["form"] != form:
                raise _key_reused()
            made: dict[str, Any] = self.keys[key]["refund"]
            return made
        intent = self.intent(form.get("payment_intent", ""))
        charge = intent["latest_charge"]
        left = 0 if charge is None else charge["amount_captured"] - charge["amount_refunded"]
        wanted = form.get("amount", str(left))
        amount = int(wanted) if wanted.isascii() and wanted.isdigit() else 0
        if not 0 < amount <= left:
            raise StripeRefusalError(
                HTTPStatus.BAD_REQUEST, "invalid_request_error", "charge_already_refunded", "Refund exceeds the charge."
            )
        charge["amount_refunded"] += amount
        refund = {
            "id": f"re_{secrets.token_hex(12)}",
            "object": "refund",
            "amount": amount,
            "currency": intent["currency"],
            "payment_intent": intent["id"],
            "status": "succeeded",
        }
        if key is not None:
            self.keys[key] = {"form": form, "refund": refund}
        self.announce("charge.refunded", charge)
        return refund

    def announce(self, kind: str, subject: dict[str, Any]) -> None:
        """Save, and send the event if webhooks are on."""
        self.store.save()
        if self.sender is not None:
            self.sender.send(event(kind, subject))


def _key_reused() -> StripeRefusalError:
    return StripeRefusalError(
        HTTPStatus.BAD_REQUEST,
        "idempotency_error",
        "idempotency_error",
        "Keys for idempotent requests can only be used with the same parameters they were first used with.",
    )


def event(kind: str, subject: dict[str, Any]) -> dict[str, Any]:
    """A snapshot event about an object, shaped like Stripe's."""
    return {
        "id": f"evt_{secrets.token_hex(12)}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "livemode": False,
        "type": kind,
        "data": {"object": dict(subject)},
    }


def make_app(*, api_key: str, webhook_url: str | None, webhook_secret: str, store: Path | None) -> Starlette:
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
        Route("/v1/payment_intents", _create, methods=["POST"]),
        Route("/v1/payment_intents/search", _search, methods=["GET"]),
        Route("/v1/payment_intents/{id}", _retrieve, methods=["GET"]),
        Route("/v1/payment_intents/{id}/cancel", _cancel, methods=["POST"]),
        Route("/v1/refunds", _refund, methods=["POST"]),
        Route("/_control/payment_intents/{id}/{action}", _control, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={StripeRefusalError: _refused})
    app.state.stripe = StripeState(kept, sender, api_key)
    return app


def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, StripeRefusalError):
        raise error
    body = {"error": {"type": error.kind, "code": error.code, "message": str(error)}}
    return JSONResponse(body, error.status, headers={"Request-Id": f"req_{secrets.token_hex(7)}"})


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


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


async def _create(request: Request) -> Response:
    state = _merchant(request)
    form = await _form(request)
    intent = state.create(form, request.headers.get("idempotency-key"))
    if state.withhold > 0:
        state.withhold -= 1
        # The create happened; its answer is lost on the way, and a gateway in between says so.
        return JSONResponse({"error": {"type": "api_error", "message": "timeout"}}, HTTPStatus.GATEWAY_TIMEOUT)
    return _answer(_as_asked(intent, form))


async def _retrieve(request: Request) -> Response:
    state = _merchant(request)
    state.fetches += 1
    return _answer(_as_asked(state.intent(request.path_params["id"]), dict(request.query_params)))


async def _search(request: Request) -> Response:
    state = _merchant(request)
    wanted = _QUERY.fullmatch(request.query_params.get("query", ""))
    if wanted is None:
        raise StripeRefusalError(HTTPStatus.BAD_REQUEST, "invalid_request_error", "bad_query", "Unreadable query.")
    found = [
        _as_asked(intent, {}) for intent in state.intents.values() if intent["metadata"].get(wanted[1]) == wanted[2]
    ]
    return JSONResponse(
        {"object": "search_result", "data": found, "has_more": False, "url": "/v1/payment_intents/search"}
    )


async def _cancel(request: Request) -> Response:
    state = _merchant(request)
    intent = state.intent(request.path_params["id"])
    if intent["status"] == "succeeded":
        raise StripeRefusalError(
            HTTPStatus.BAD_REQUEST, "invalid_request_error", "payment_intent_unexpected_state", "It has succeeded."
        )
    intent["status"] = "canceled"
    state.announce("payment_intent.canceled", intent)
    return _answer(_as_asked(intent, await _form(request)))


async def _refund(request: Request) -> Response:
    state = _merchant(request)
    return _answer(state.refund(await _form(request), request.headers.get("idempotency-key")))


async def _control(request: Request) -> Response:
    state = _state(request)
    intent = state.intent(request.path_params["id"])
    if request.path_params["action"] == "succeed":
        amount = request.query_params.get("amount")
        state.succeed(intent, int(amount) if amount else None)
    else:
        state.fail(intent)
    return _answer(intent)


def _as_asked(intent: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    """An intent as Stripe shows it: its charge is an id unless ``expand`` asks for the object."""
    charge = intent["latest_charge"]
    asked = any(name.startswith("expand[") and value == "latest_charge" for name, value in parameters.items())
    return intent if asked or charge is None else intent | {"latest_charge": charge["id"]}


def _answer(body: dict[str, Any]) -> Response:
    return JSONResponse(body, headers={"Request-Id": f"req_{secrets.token_hex(7)}"})
