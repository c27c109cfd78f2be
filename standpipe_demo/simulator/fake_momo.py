"""A stand-in for MTN MoMo's API: Collections' request to pay and Disbursements' refund, with a page of ringing phones.

What people do happens on the page, or by ``POST /_control/momo/{uuid or externalId}/{action}`` with an action of
ACTIONS, ``/_control/refunds/{uuid}/{succeed|fail}``, ``/_control/callbacks/{mode}``, ``/_control/withhold?n=``.
"""

import html
import json
import secrets
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from standpipe_demo.simulator.callbacks import MODES, CallbackSender
from standpipe_demo.simulator.store import JsonStore

PAGE = (Path(__file__).parent / "pages" / "momo.html").read_text()
# Action → (status, reason).
ACTIONS = {
    "approve": ("SUCCESSFUL", None),
    "approve_silent": ("SUCCESSFUL", None),
    "approve_twice": ("SUCCESSFUL", None),
    "reject": ("FAILED", "APPROVAL_REJECTED"),
    "expire": ("FAILED", "EXPIRED"),
    "insufficient": ("FAILED", "NOT_ENOUGH_FUNDS"),
    "stumble": ("FAILED", "INTERNAL_PROCESSING_ERROR"),
}


class MomoState:
    """Requests to pay and refunds by their UUID. ``withhold``: answers that will be lost."""

    def __init__(self, store: JsonStore, sender: CallbackSender, keys: dict[str, str]) -> None:
        self.store, self.sender, self.keys = store, sender, keys
        self.payments: dict[str, dict[str, Any]] = store.data.setdefault("payments", {})
        self.refunds: dict[str, dict[str, Any]] = store.data.setdefault("refunds", {})
        self.tokens: set[str] = set()
        self.withhold = 0

    def decide(self, payment: dict[str, Any], action: str) -> None:
        """Act like the payer; a late approval after a refusal is possible."""
        if payment["status"] == "SUCCESSFUL":
            return
        status, reason = ACTIONS[action]
        payment.update(status=status, reason=reason)
        if status == "SUCCESSFUL":
            payment["financialTransactionId"] = str(secrets.randbelow(10**10))
        self.store.save()
        if action != "approve_silent" and payment["callback"]:
            self.sender.send(payment["callback"], shown(payment), times=2 if action == "approve_twice" else 1)


def make_app(*, subscription_key: str, api_user: str, api_key: str, store: Path | None) -> Starlette:
    """The stand-in as an ASGI app; both products take the same keys."""
    kept, sender = JsonStore(store), CallbackSender(method="PUT")

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await sender.stop()

    routes = [
        Route("/{product}/token/", _token, methods=["POST"]),
        Route("/collection/v1_0/requesttopay", _request_to_pay, methods=["POST"]),
        Route("/collection/v1_0/requesttopay/{id}", _payment, methods=["GET"]),
        Route("/disbursement/v1_0/refund", _refund, methods=["POST"]),
        Route("/disbursement/v1_0/refund/{id}", _refund_now, methods=["GET"]),
        Route("/_control/momo/{id}/{action}", _decide, methods=["POST"]),
        Route("/_control/refunds/{id}/{action}", _move_refund, methods=["POST"]),
        Route("/_control/callbacks/{mode}", _mode, methods=["POST"]),
        Route("/_control/withhold", _withhold, methods=["POST"]),
        Route("/", _page, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    keys = {"subscription": subscription_key, "user": api_user, "key": api_key}
    app.state.momo = MomoState(kept, sender, keys)
    return app


def shown(payment: dict[str, Any]) -> dict[str, Any]:
    """A payment or refund as MoMo shows it."""
    body = {key: value for key, value in payment.items() if key not in {"id", "callback"} and value is not None}
    if payment.get("reason"):
        body["reason"] = {"code": payment["reason"], "message": payment["reason"].capitalize().replace("_", " ")}
    return body


def _state(request: Request) -> MomoState:
    state: MomoState = request.app.state.momo
    return state


def _error(status: HTTPStatus, code: str) -> Response:
    return JSONResponse({"code": code, "message": code.capitalize().replace("_", " ")}, status)


def _answer(state: MomoState, body: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    if state.withhold > 0:
        state.withhold -= 1
        return Response("upstream timed out", HTTPStatus.GATEWAY_TIMEOUT)
    return JSONResponse(body, status) if body is not None else Response(status_code=status)


def _is_merchant(request: Request) -> bool:
    state = _state(request)
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    return token in state.tokens and request.headers.get("ocp-apim-subscription-key") == state.keys["subscription"]


async def _token(request: Request) -> Response:
    basic = request.headers.get("authorization", "")
    state = _state(request)
    wanted = f"{state.keys['user']}:{state.keys['key']}"
    if _decoded(basic.removeprefix("Basic ")) != wanted:
        return _error(HTTPStatus.UNAUTHORIZED, "invalid_client")
    token = secrets.token_urlsafe(30)
    state.tokens.add(token)
    return JSONResponse({"access_token": token, "token_type": "access_token", "expires_in": 3600})


async def _request_to_pay(request: Request) -> Response:
    state = _state(request)
    if not _is_merchant(request):
        return _error(HTTPStatus.UNAUTHORIZED, "access_denied")
    wanted, body = request.headers.get("x-reference-id", ""), await _body(request)
    if wanted in state.payments:
        return _answer(
            state, {"code": "RESOURCE_ALREADY_EXIST", "message": "Duplicated reference id."}, HTTPStatus.CONFLICT
        )
    amount = str(body.get("amount", ""))
    if not amount.replace(".", "", 1).isdigit() or not isinstance(body.get("payer"), dict):
        return _error(HTTPStatus.BAD_REQUEST, "BAD_REQUEST")
    state.payments[wanted] = {
        "id": wanted,
        "amount": amount,
        "currency": str(body.get("currency")),
        "externalId": str(body.get("externalId")),
        "payer": body["payer"],
        "payerMessage": str(body.get("payerMessage", "")),
        "payeeNote": str(body.get("payeeNote", "")),
        "status": "PENDING",
        "reason": None,
        "financialTransactionId": None,
        "callback": request.headers.get("x-callback-url"),
    }
    state.store.save()
    return _answer(state, None, HTTPStatus.ACCEPTED)


async def _payment(request: Request) -> Response:
    state = _state(request)
    if not _is_merchant(request):
        return _error(HTTPStatus.UNAUTHORIZED, "access_denied")
    payment = state.payments.get(request.path_params["id"])
    return _error(HTTPStatus.NOT_FOUND, "RESOURCE_NOT_FOUND") if payment is None else _answer(state, shown(payment))


async def _refund(request: Request) -> Response:
    state = _state(request)
    if not _is_merchant(request):
        return _error(HTTPStatus.UNAUTHORIZED, "access_denied")
    wanted, body = request.headers.get("x-reference-id", ""), await _body(request)
    if wanted in state.refunds:
        return _error(HTTPStatus.CONFLICT, "RESOURCE_ALREADY_EXIST")
    payment = state.payments.get(str(body.get("referenceIdToRefund")))
    if payment is None or payment["status"] != "SUCCESSFUL":
        return _error(HTTPStatus.NOT_FOUND, "RESOURCE_NOT_FOUND")
    state.refunds[wanted] = {
        "id": wanted,
        "amount": str(body.get("amount")),
        "currency": payment["currency"],
        "externalId": str(body.get("externalId")),
        "status": "PENDING",
        "reason": None,
    }
    state.store.save()
    return _answer(state, None, HTTPStatus.ACCEPTED)


async def _refund_now(request: Request) -> Response:
    state = _state(request)
    if not _is_merchant(request):
        return _error(HTTPStatus.UNAUTHORIZED, "access_denied")
    refund = state.refunds.get(request.path_params["id"])
    return _error(HTTPStatus.NOT_FOUND, "RESOURCE_NOT_FOUND") if refund is None else _answer(state, shown(refund))


async def _decide(request: Request) -> Response:
    state, wanted, action = _state(request), request.path_params["id"], request.path_params["action"]
    payment = next((one for one in state.payments.values() if wanted in {one["id"], one["externalId"]}), None)
    if payment is None or action not in ACTIONS:
        return JSONResponse({"error": f"no such payment, or none of: {', '.join(ACTIONS)}"}, HTTPStatus.NOT_FOUND)
    state.decide(payment, action)
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    return JSONResponse(shown(payment))


async def _move_refund(request: Request) -> Response:
    state = _state(request)
    refund, action = state.refunds.get(request.path_params["id"]), request.path_params["action"]
    if refund is None or action not in {"succeed", "fail"}:
        return _error(HTTPStatus.NOT_FOUND, "RESOURCE_NOT_FOUND")
    done = action == "succeed"
    refund.update(status="SUCCESSFUL" if done else "FAILED", reason=None if done else "PAYEE_NOT_FOUND")
    state.store.save()
    return JSONResponse(shown(refund))


async def _mode(request: Request) -> Response:
    mode = request.path_params["mode"]
    if mode not in MODES:
        return JSONResponse({"error": f"modes are: {', '.join(MODES)}"}, HTTPStatus.NOT_FOUND)
    _state(request).sender.mode = mode
    return JSONResponse({"callbacks": mode})


async def _withhold(request: Request) -> Response:
    _state(request).withhold = int(request.query_params.get("n", "1"))
    return JSONResponse({"withhold": _state(request).withhold})


async def _page(request: Request) -> Response:
    rows = []
    for payment in reversed(list(_state(request).payments.values())):
        buttons = "".join(
            f'<button formaction="/_control/momo/{html.escape(payment["id"])}/{action}">{label}</button>'
            for action, label in (("approve", "Approve"), ("reject", "Refuse"), ("expire", "Let it run out"),
                                  ("insufficient", "Not enough money"), ("approve_silent", "Approve, tell nobody"))
        )  # fmt: skip
        paid = payment["status"] == "SUCCESSFUL"
        rows.append(
            f"<li><b>{html.escape(payment['currency'])} {html.escape(payment['amount'])}</b> on "
            f"+{html.escape(str(payment['payer'].get('partyId')))}<br><small>{html.escape(payment['status'])}</small>"
            f'<form method="post">{"" if paid else buttons}</form></li>'
        )
    return HTMLResponse(PAGE.replace("{{payments}}", "".join(rows) or "<li>No phone is ringing.</li>"))


async def _body(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await request.body())
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _decoded(text: str) -> str:
    try:
        return b64decode(text).decode()
    except ValueError:
        return ""
