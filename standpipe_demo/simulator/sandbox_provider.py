"""The sandbox provider: a small payment provider in a process of its own, with a page to approve or decline.

Wire format: docs/sandbox-provider.md. It signs its webhooks and knows Standpipe only over HTTP.
"""

import html
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from standpipe.platform.units import money_text
from standpipe_demo.simulator.sandbox_magic import Magic
from standpipe_demo.simulator.store import JsonStore
from standpipe_demo.simulator.webhooks import WebhookSender

PAGE = (Path(__file__).parent / "pages" / "pay.html").read_text()
DELAY_S = 20
ACTIONS = ("approve", "decline", "expire", "delay", "duplicate", "lose")
UNPAID = {"decline": ("failed", "declined_by_customer"), "expire": ("expired", "expired")}
DEAD = frozenset({"cancelled", "expired"})
"""Nobody can pay these any more."""
BANK_ACTIONS = ("refund", "hold-refunds", "dispute-inquiry", "dispute", "dispute-win", "dispute-lose")
"""Acts behind the merchant's back on a paid charge: in the provider's dashboard, and by the payer's bank."""
DISPUTE_FEE = 150
HEADER = "Sandbox-Signature"


class RefusalError(Exception):
    """A no, as the provider words it."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class SandboxState:
    """Charges by id, and which idempotency key made which."""

    def __init__(
        self, store: JsonStore, sender: WebhookSender, public_url: str, api_key: str, magic_pause_s: float | None
    ) -> None:
        self.store, self.sender, self.public_url, self.api_key = store, sender, public_url, api_key
        self.magic = Magic(store, self._act_by_itself, magic_pause_s)
        self.charges: dict[str, dict[str, Any]] = store.data.setdefault("charges", {})
        self.keys: dict[str, dict[str, Any]] = store.data.setdefault("keys", {})
        for charge in self.charges.values():
            _complete(charge)

    def charge(self, charge_id: str) -> dict[str, Any]:
        """One charge. Raises RefusalError."""
        if charge_id not in self.charges:
            raise RefusalError(HTTPStatus.NOT_FOUND, "not_found", "There is no such charge.")
        return self.charges[charge_id]

    def by_reference(self, reference: str) -> dict[str, Any]:
        """The charge with this merchant reference. Raises RefusalError."""
        found = [charge for charge in self.charges.values() if charge["reference"] == reference]
        if not found:
            raise RefusalError(HTTPStatus.NOT_FOUND, "not_found", "There is no charge with this reference.")
        return found[-1]

    def create(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        """A new charge, or the one that this key made. Raises RefusalError for the key with another body."""
        if key in self.keys:
            if self.keys[key]["body"] != body:
                raise RefusalError(
                    HTTPStatus.CONFLICT, "idempotency_conflict", "This key came with another body before."
                )
            return self.charge(self.keys[key]["charge"])
        amount, currency, reference = body.get("amount"), body.get("currency"), body.get("reference")
        if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
            raise RefusalError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "bad_amount", "The amount must be a whole number above 0."
            )
        if not isinstance(currency, str) or not isinstance(reference, str):
            raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_request", "Currency and reference are needed.")
        charge_id = f"sch_{secrets.token_hex(12)}"
        self.charges[charge_id] = {
            "id": charge_id,
            "reference": reference,
            "amount": amount,
            "currency": currency,
            "description": str(body.get("description", "")),
            "captured": 0,
            "refunded": 0,
            "status": "pending",
            "failure_code": None,
            "pay_url": f"{self.public_url}/pay/{charge_id}",
            "created": int(time.time()),
        }
        self.keys[key] = {"body": body, "charge": charge_id}
        _complete(self.charges[charge_id])
        self.store.save()
        self.magic.plan(charge_id, amount)
        return self.charges[charge_id]

    def act(self, charge: dict[str, Any], action: str, amount: int | None = None) -> None:
        """Act like the customer on the page. A declined charge may still be approved later."""
        if action in BANK_ACTIONS:
            self._act_as_bank(charge, action, amount)
            return
        if action not in ACTIONS:
            raise RefusalError(HTTPStatus.NOT_FOUND, "not_found", f"Actions are: {', '.join(ACTIONS)}.")
        if charge["status"] == "succeeded" and action != "decline":
            # A second tap on "approve" is no mistake, and no second event either.
            return
        if charge["status"] in {"succeeded", *DEAD}:
            raise RefusalError(HTTPStatus.CONFLICT, "already_final", f"This charge has {charge['status']}.")
        if action in UNPAID:
            status, code = UNPAID[action]
            charge.update(status=status, failure_code=code)
            self.announce(charge, f"charge.{status}")
            return
        charge.update(status="succeeded", captured=amount or charge["amount"], failure_code=None)
        if action != "lose":
            after_s = DELAY_S if action == "delay" else 0
            self.announce(charge, "charge.succeeded", times=3 if action == "duplicate" else 1, after_s=after_s)

    def cancel(self, charge: dict[str, Any]) -> None:
        """Stop a charge that nobody paid. Raises RefusalError."""
        if charge["status"] == "succeeded":
            raise RefusalError(HTTPStatus.CONFLICT, "already_final", "This charge has succeeded.")
        if charge["status"] not in DEAD:
            charge["status"] = "cancelled"
            self.announce(charge, "charge.cancelled")

    def refund(self, charge: dict[str, Any], amount: object, key: str) -> dict[str, Any]:
        """Give back; answers the refund. Raises RefusalError for more than there is."""
        body = {"refund": charge["id"], "amount": amount}
        if key in self.keys:
            if self.keys[key]["body"] != body:
                raise RefusalError(
                    HTTPStatus.CONFLICT, "idempotency_conflict", "This key came with another body before."
                )
            return next(refund for refund in charge["refunds"] if refund["id"] == self.keys[key]["refund"])
        taken = sum(refund["amount"] for refund in charge["refunds"] if refund["status"] != "failed")
        if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= charge["captured"] - taken:
            raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_amount", "More than is left to refund.")
        refund = {
            "id": f"srf_{secrets.token_hex(12)}",
            "amount": amount,
            "status": "pending" if charge["holds_refunds"] else "succeeded",
            "failure_code": None,
        }
        charge["refunds"].append(refund)
        self.keys[key] = {"body": body, "charge": charge["id"], "refund": refund["id"]}
        self._sum(charge)
        self.announce(charge, "charge.refunded")
        return refund

    def move_refund(self, refund_id: str, status: str) -> dict[str, Any]:
        """The bank takes a refund, or sends it back, perhaps long after it had taken it. Raises RefusalError."""
        for charge in self.charges.values():
            for refund in charge["refunds"]:
                if refund["id"] == refund_id and status in {"succeeded", "failed"}:
                    refund.update(status=status, failure_code="account_closed" if status == "failed" else None)
                    self._sum(charge)
                    self.announce(charge, "refund.updated")
                    return charge
        raise RefusalError(HTTPStatus.NOT_FOUND, "not_found", "There is no such refund.")

    def _act_by_itself(self, charge_id: str, action: str) -> None:
        """A step of a magic amount; none where somebody was quicker and it makes no sense any more."""
        charge = self.charge(charge_id)
        if action in BANK_ACTIONS and charge["status"] != "succeeded":
            return
        with suppress(RefusalError):
            self.act(charge, action)

    def _act_as_bank(self, charge: dict[str, Any], action: str, amount: int | None) -> None:
        if action == "hold-refunds":
            charge["holds_refunds"] = True
            self.store.save()
        elif action == "refund":
            self.refund(charge, amount or charge["captured"] - charge["refunded"], secrets.token_hex(8))
        elif action == "dispute-inquiry":
            charge["dispute"] = charge["dispute"] or "inquiry"
            self.announce(charge, "dispute.created")
        elif action == "dispute":
            fee = charge["dispute_fee"] or DISPUTE_FEE
            charge.update(dispute="open", disputed=amount or charge["captured"], dispute_fee=fee)
            self.announce(charge, "dispute.funds_withdrawn")
        else:
            won = action == "dispute-win"
            charge.update(dispute="won" if won else "lost", disputed=0 if won else charge["disputed"])
            self.announce(charge, "dispute.closed")

    def _sum(self, charge: dict[str, Any]) -> None:
        charge["refunded"] = sum(refund["amount"] for refund in charge["refunds"] if refund["status"] == "succeeded")

    def announce(self, charge: dict[str, Any], kind: str, *, times: int = 1, after_s: float = 0) -> None:
        """Save, then send the event; ``times`` > 1 sends the very same event again, as networks do."""
        self.store.save()
        event = {
            "id": f"evt_{secrets.token_hex(12)}",
            "type": kind,
            "created": int(time.time()),
            "data": {"charge": json.loads(json.dumps(charge))},
        }
        for _ in range(times):
            self.sender.send(event, after_s=after_s)


def make_app(
    *,
    webhook_url: str,
    webhook_secret: str,
    api_key: str,
    public_url: str,
    store: Path | None,
    magic_pause_s: float | None = None,
) -> Starlette:
    """The provider as an ASGI app. ``magic_pause_s``: magic amounts act by themselves after it; None: none is magic."""
    kept = JsonStore(store)
    sender = WebhookSender(webhook_url, webhook_secret, HEADER, kept)
    state = SandboxState(kept, sender, public_url, api_key, magic_pause_s)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        sender.start()
        state.magic.start()
        yield
        await state.magic.stop()
        await sender.stop()

    routes = [
        Route("/v1/charges", _create, methods=["POST"]),
        Route("/v1/charges", _find, methods=["GET"]),
        Route("/v1/charges/{id}", _get, methods=["GET"]),
        Route("/v1/charges/{id}/cancel", _cancel, methods=["POST"]),
        Route("/v1/charges/{id}/refunds", _refund, methods=["POST"]),
        Route("/v1/charges/{id}/{action}", _act, methods=["POST"]),
        Route("/v1/refunds/{id}/{status}", _move_refund, methods=["POST"]),
        Route("/v1/references/{reference}/{action}", _act_by_reference, methods=["POST"]),
        Route("/pay/{id}", _page, methods=["GET"]),
        Route("/pay/{id}/{action}", _act_on_page, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={RefusalError: _refused})
    app.state.sandbox = state
    return app


def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusalError):
        raise error
    return JSONResponse({"code": error.code, "message": str(error)}, error.status)


def _state(request: Request) -> SandboxState:
    state: SandboxState = request.app.state.sandbox
    return state


def _merchant(request: Request) -> SandboxState:
    state = _state(request)
    if not secrets.compare_digest(
        request.headers.get("authorization", "").encode(), f"Bearer {state.api_key}".encode()
    ):
        raise RefusalError(HTTPStatus.UNAUTHORIZED, "unauthorized", "The API key is missing or wrong.")
    return state


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RefusalError(HTTPStatus.BAD_REQUEST, "bad_json", "The body must be a JSON object.")
    return body


async def _create(request: Request) -> Response:
    state = _merchant(request)
    key = request.headers.get("idempotency-key") or secrets.token_hex(8)
    return JSONResponse(state.create(await _body(request), key))


async def _find(request: Request) -> Response:
    return JSONResponse(_merchant(request).by_reference(request.query_params.get("reference", "")))


async def _get(request: Request) -> Response:
    return JSONResponse(_merchant(request).charge(request.path_params["id"]))


async def _cancel(request: Request) -> Response:
    state = _merchant(request)
    charge = state.charge(request.path_params["id"])
    state.cancel(charge)
    return JSONResponse(charge)


async def _refund(request: Request) -> Response:
    state = _merchant(request)
    charge = state.charge(request.path_params["id"])
    key = request.headers.get("idempotency-key") or secrets.token_hex(8)
    return JSONResponse(state.refund(charge, (await _body(request)).get("amount"), key))


async def _move_refund(request: Request) -> Response:
    return JSONResponse(_state(request).move_refund(request.path_params["id"], request.path_params["status"]))


async def _act(request: Request) -> Response:
    state = _state(request)
    charge = state.charge(request.path_params["id"])
    state.act(charge, request.path_params["action"], _amount(request))
    return JSONResponse(charge)


async def _act_by_reference(request: Request) -> Response:
    state = _state(request)
    charge = state.by_reference(request.path_params["reference"])
    state.act(charge, request.path_params["action"], _amount(request))
    return JSONResponse(charge)


def _amount(request: Request) -> int | None:
    given = request.query_params.get("amount", "")
    return int(given) if given.isascii() and given.isdigit() else None


def _complete(charge: dict[str, Any]) -> None:
    """Fields of later releases, for charges that an earlier one stored."""
    charge.setdefault("refunds", [])
    charge.setdefault("holds_refunds", False)
    charge.setdefault("disputed", 0)
    charge.setdefault("dispute_fee", 0)
    charge.setdefault("dispute", None)


async def _page(request: Request) -> Response:
    charge = _state(request).charge(request.path_params["id"])
    amount = money_text(charge["amount"], charge["currency"])
    values = {"id": charge["id"], "amount": amount, "status": charge["status"], "what": charge["description"]}
    page = PAGE
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", html.escape(str(value)))
    return HTMLResponse(page)


async def _act_on_page(request: Request) -> Response:
    state = _state(request)
    charge = state.charge(request.path_params["id"])
    if charge["status"] not in {"succeeded", *DEAD}:
        state.act(charge, request.path_params["action"])
    return RedirectResponse(f"/pay/{charge['id']}", status_code=HTTPStatus.SEE_OTHER)
