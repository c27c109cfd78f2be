"""A stand-in for Flutterwave's v3 API, as far as Standpipe uses it, with its hosted pay page.

What people do happens on the page, or by ``POST /_control/flutterwave/{tx_ref}/{action}`` with an action of ACTIONS,
``/_control/refunds/{id}/{completed|failed}``, ``/_control/settle``, ``/_control/webhooks/{mode}``,
``/_control/withhold?n=``.
"""

import html
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from standpipe_demo.simulator.callbacks import MODES, CallbackSender
from standpipe_demo.simulator.store import JsonStore

PAGE = (Path(__file__).parent / "pages" / "flutterwave.html").read_text()
ACTIONS = ("pay", "pay_silent", "pay_twice_events", "pay_again", "pay_part", "fail")
FEE_PERCENT = Decimal("1.4")


class FlutterwaveState:
    """Pages by our reference, attempts and refunds by number. ``withhold``: answers that will be lost."""

    def __init__(self, store: JsonStore, sender: CallbackSender, keys: dict[str, str]) -> None:
        self.store, self.sender, self.keys = store, sender, keys
        self.pages: dict[str, dict[str, Any]] = store.data.setdefault("pages", {})
        self.attempts: list[dict[str, Any]] = store.data.setdefault("attempts", [])
        self.refunds: list[dict[str, Any]] = store.data.setdefault("refunds", [])
        self.settlements: list[dict[str, Any]] = store.data.setdefault("settlements", [])
        self.numbers = itertools.count(1_000_000 + len(self.attempts) + len(self.refunds) + len(self.settlements))
        self.withhold = 0

    def act(self, tx_ref: str, action: str, amount: str | None = None) -> dict[str, Any]:
        """Act like the payer on the page."""
        page = self.pages[tx_ref]
        paid = [row for row in self.attempts if row["tx_ref"] == tx_ref and row["status"] == "successful"]
        if paid and action != "pay_again":
            return paid[-1]
        charged = amount if action == "pay_part" and amount else page["amount"]
        number = next(self.numbers)
        attempt = {
            "id": number,
            "tx_ref": tx_ref,
            "flw_ref": f"FLW-MOCK-{number}",
            "amount": json.loads(charged),
            "charged_amount": json.loads(charged),
            "app_fee": float(Decimal(charged) * FEE_PERCENT / 100),
            "currency": page["currency"],
            "status": "failed" if action == "fail" else "successful",
            "settled": False,
        }
        self.attempts.append(attempt)
        self.store.save()
        if action != "pay_silent":
            self.tell("charge.completed", attempt, times=2 if action == "pay_twice_events" else 1)
        return attempt

    def tell(self, kind: str, data: dict[str, Any], *, times: int = 1) -> None:
        """A webhook."""
        self.sender.send(self.keys["webhook_url"], {"event": kind, "data": data}, times=times)

    def settle(self) -> dict[str, Any]:
        """Send what has come in to the shop's bank."""
        rows = [row for row in self.attempts if row["status"] == "successful" and not row["settled"]]
        settlement = {
            "id": next(self.numbers),
            "currency": rows[0]["currency"] if rows else "KES",
            "processed_date": datetime.now(UTC).isoformat(timespec="seconds"),
            "transactions": [dict(row) for row in rows],
        }
        for row in rows:
            row["settled"] = True
        self.settlements.append(settlement)
        self.store.save()
        return settlement


class _TokenSender(CallbackSender):
    """Webhooks carry Flutterwave's static token."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    async def _post(self, url: str, body: dict[str, Any], after_s: float) -> None:
        await self.wait(after_s)
        async with httpx.AsyncClient(timeout=10, headers={"verif-hash": self._token}) as http:
            await self.deliver(http, url, body)


def make_app(*, secret_key: str, webhook_url: str, webhook_hash: str, public_url: str, store: Path | None) -> Starlette:
    """The stand-in as an ASGI app."""
    kept, sender = JsonStore(store), _TokenSender(webhook_hash)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await sender.stop()

    routes = [
        Route("/v3/payments", _pay, methods=["POST"]),
        Route("/v3/transactions", _transactions, methods=["GET"]),
        Route("/v3/transactions/{id}/refund", _refund, methods=["POST"]),
        Route("/v3/refunds", _refunds, methods=["GET"]),
        Route("/v3/refunds/{id}", _refund_now, methods=["GET"]),
        Route("/v3/settlements", _settlements, methods=["GET"]),
        Route("/v3/settlements/{id}", _settlement, methods=["GET"]),
        Route("/_control/flutterwave/{tx_ref}/{action}", _act, methods=["POST"]),
        Route("/_control/refunds/{id}/{status}", _move_refund, methods=["POST"]),
        Route("/_control/settle", _settle, methods=["POST"]),
        Route("/_control/webhooks/{mode}", _mode, methods=["POST"]),
        Route("/_control/withhold", _withhold, methods=["POST"]),
        Route("/pay/{tx_ref}", _page, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    keys = {"secret": secret_key, "webhook_url": webhook_url, "public_url": public_url}
    app.state.flutterwave = FlutterwaveState(kept, sender, keys)
    return app


def _state(request: Request) -> FlutterwaveState:
    state: FlutterwaveState = request.app.state.flutterwave
    return state


def _answer(request: Request, data: Any) -> Response:
    state = _state(request)
    if request.headers.get("authorization") != f"Bearer {state.keys['secret']}":
        return _error(HTTPStatus.UNAUTHORIZED, "Invalid authorization key")
    if state.withhold > 0:
        state.withhold -= 1
        return Response("upstream timed out", HTTPStatus.GATEWAY_TIMEOUT)
    return JSONResponse({"status": "success", "message": "ok", "data": data})


def _error(status: HTTPStatus, message: str) -> Response:
    return JSONResponse({"status": "error", "message": message, "data": None}, status)


async def _body(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await request.body())
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


async def _pay(request: Request) -> Response:
    state, body = _state(request), await _body(request)
    reference = str(body.get("tx_ref", ""))
    if not reference or not str(body.get("amount", "")).replace(".", "", 1).isdigit() or "customer" not in body:
        return _error(HTTPStatus.BAD_REQUEST, "tx_ref, amount and customer are required")
    state.pages[reference] = {
        "amount": str(body["amount"]),
        "currency": str(body.get("currency")),
        "redirect_url": str(body.get("redirect_url", "")),
    }
    state.store.save()
    return _answer(request, {"link": f"{state.keys['public_url']}/pay/{reference}"})


async def _transactions(request: Request) -> Response:
    wanted = request.query_params.get("tx_ref")
    return _answer(request, [row for row in _state(request).attempts if row["tx_ref"] == wanted])


async def _refund(request: Request) -> Response:
    state, body = _state(request), await _body(request)
    attempt = next((row for row in state.attempts if str(row["id"]) == request.path_params["id"]), None)
    wanted = Decimal(str(body.get("amount", "0")))
    given = sum(
        Decimal(str(row["amount_refunded"]))
        for row in state.refunds
        if attempt and row["tx_id"] == attempt["id"] and row["status"] != "failed"
    )
    if attempt is None or not 0 < wanted <= Decimal(str(attempt["amount"])) - given:
        return _error(HTTPStatus.BAD_REQUEST, "Refund amount is not valid")
    refund = {
        "id": next(state.numbers),
        "tx_id": attempt["id"],
        "currency": attempt["currency"],
        "amount_refunded": json.loads(str(wanted)),
        "comment": str(body.get("comments", "")),
        "status": "pending",
    }
    state.refunds.append(refund)
    state.store.save()
    return _answer(request, refund)


async def _refunds(request: Request) -> Response:
    first = request.query_params.get("page", "1") == "1"
    return _answer(request, list(reversed(_state(request).refunds)) if first else [])


async def _refund_now(request: Request) -> Response:
    found = next((row for row in _state(request).refunds if str(row["id"]) == request.path_params["id"]), None)
    return _answer(request, found) if found else _error(HTTPStatus.NOT_FOUND, "No refund was found for this id")


async def _settlements(request: Request) -> Response:
    first = request.query_params.get("page", "1") == "1"
    return _answer(request, [{"id": row["id"]} for row in _state(request).settlements] if first else [])


async def _settlement(request: Request) -> Response:
    found = next((row for row in _state(request).settlements if str(row["id"]) == request.path_params["id"]), None)
    return _answer(request, found) if found else _error(HTTPStatus.NOT_FOUND, "No settlement")


async def _act(request: Request) -> Response:
    state, reference, action = _state(request), request.path_params["tx_ref"], request.path_params["action"]
    if reference not in state.pages or action not in ACTIONS:
        return _error(HTTPStatus.NOT_FOUND, f"no such payment, or none of: {', '.join(ACTIONS)}")
    attempt = state.act(reference, action, request.query_params.get("amount"))
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(state.pages[reference]["redirect_url"] or f"/pay/{reference}", HTTPStatus.SEE_OTHER)
    return JSONResponse(attempt)


async def _move_refund(request: Request) -> Response:
    state = _state(request)
    found = next((row for row in state.refunds if str(row["id"]) == request.path_params["id"]), None)
    if found is None:
        return _error(HTTPStatus.NOT_FOUND, "No refund was found for this id")
    found["status"] = "failed" if request.path_params["status"] == "failed" else "completed"
    state.store.save()
    attempt = next(row for row in state.attempts if row["id"] == found["tx_id"])
    state.tell("refund.completed", {"id": found["id"], "status": found["status"], "tx_ref": attempt["tx_ref"]})
    return JSONResponse(found)


async def _settle(request: Request) -> Response:
    return JSONResponse(_state(request).settle())


async def _mode(request: Request) -> Response:
    mode = request.path_params["mode"]
    if mode not in MODES:
        return _error(HTTPStatus.NOT_FOUND, f"modes are: {', '.join(MODES)}")
    _state(request).sender.mode = mode
    return JSONResponse({"webhooks": mode})


async def _withhold(request: Request) -> Response:
    _state(request).withhold = int(request.query_params.get("n", "1"))
    return JSONResponse({"withhold": _state(request).withhold})


async def _page(request: Request) -> Response:
    state, reference = _state(request), request.path_params["tx_ref"]
    if reference not in state.pages:
        return _error(HTTPStatus.NOT_FOUND, "no such page")
    page = state.pages[reference]
    paid = any(row["tx_ref"] == reference and row["status"] == "successful" for row in state.attempts)
    values = {
        "id": reference,
        "amount": f"{page['currency']} {page['amount']}",
        "status": "paid" if paid else "waiting",
    }
    text = PAGE
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", html.escape(value))
    return HTMLResponse(text)
