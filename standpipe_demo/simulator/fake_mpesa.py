"""A stand-in for M-Pesa's Daraja API, as far as Standpipe uses it, with a page that plays the payers' phones.

Daraja's own paths and JSON, unsigned callbacks sent once. What people do happens on the page, or by
``POST /_control/…``: ``stk/{id}/{action}`` with an action of ACTIONS, ``paybill?account=&amount=&phone=``,
``callbacks/{mode}``, ``withhold?n=``.
"""

import base64
import html
import json
import secrets
import string
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from standpipe_demo.simulator.callbacks import MODES, CallbackSender
from standpipe_demo.simulator.store import JsonStore

EAT = timezone(timedelta(hours=3))
SAME_AMOUNT_S = 120
VALIDATION_TIMEOUT_S = 8
PAGE = (Path(__file__).parent / "pages" / "mpesa.html").read_text()
# Action → (result code, words). "" is a success.
ACTIONS = {
    "approve": ("0", "The service request is processed successfully."),
    "approve_silent": ("0", "The service request is processed successfully."),
    "approve_twice": ("0", "The service request is processed successfully."),
    "approve_with_c2b": ("0", "The service request is processed successfully."),
    "cancel": ("1032", "Request cancelled by user"),
    "no_answer": ("1037", "DS timeout user cannot be reached"),
    "insufficient": ("1", "The balance is insufficient for the transaction."),
    "wrong_pin": ("2001", "The initiator information is invalid."),
}


class DarajaError(Exception):
    """An error as Daraja words it."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class MpesaState:
    """Pushes by CheckoutRequestID and money by transaction number. ``withhold``: answers that will be lost."""

    def __init__(self, store: JsonStore, sender: CallbackSender, shop: dict[str, str]) -> None:
        self.store, self.sender, self.shop = store, sender, shop
        self.pushes: dict[str, dict[str, Any]] = store.data.setdefault("pushes", {})
        self.money: dict[str, dict[str, Any]] = store.data.setdefault("money", {})
        self.urls: dict[str, str] = store.data.setdefault("urls", {})
        self.withhold = 0
        self.tokens: set[str] = set()

    def push(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ring a phone. Raises DarajaError for a request that Daraja would refuse."""
        self._check_password(body)
        amount, phone = str(body.get("Amount", "")), str(body.get("PhoneNumber", ""))
        if not amount.isdigit() or int(amount) < 1:
            raise DarajaError(HTTPStatus.BAD_REQUEST, "400.002.02", "Bad Request - Invalid Amount")
        if not phone.isdigit() or not phone.startswith("254"):
            raise DarajaError(HTTPStatus.BAD_REQUEST, "400.002.02", "Bad Request - Invalid PhoneNumber")
        checkout = f"ws_CO_{datetime.now(EAT):%d%m%Y%H%M%S}{secrets.randbelow(10**9):09}"
        self.pushes[checkout] = {
            "id": checkout,
            "merchant_request": f"{secrets.randbelow(10**5)}-{secrets.randbelow(10**8)}-1",
            "amount": int(amount),
            "phone": phone,
            "account": str(body.get("AccountReference", ""))[:12],
            "url": str(body.get("CallBackURL", "")),
            "code": None,
            "words": "",
            "receipt": None,
        }
        self.store.save()
        return self.pushes[checkout]

    def decide(self, push: dict[str, Any], action: str) -> None:
        """Act like the payer. A late approval after a refusal is possible; a second one is not."""
        if push["receipt"] is not None:
            return
        code, words = ACTIONS[action]
        if code == "0" and self._same_amount(push):
            code, words = "17", "Rule limited. Same amount to the same payee within two minutes."
        push.update(code=code, words=words)
        money = None
        if code == "0":
            money = self.receive(push["account"], push["amount"] * 100, push["phone"], via="push")
            push["receipt"] = money["id"]
        self.store.save()
        if action != "approve_silent":
            self.sender.send(push["url"], _callback(push), times=2 if action == "approve_twice" else 1)
        if action == "approve_with_c2b" and money is not None:
            self.confirm(money)

    def receive(self, account: str, cents: int, phone: str, *, via: str) -> dict[str, Any]:
        """Money on the paybill."""
        transaction = "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(10))
        self.money[transaction] = {
            "id": transaction,
            "account": account,
            "cents": cents,
            "phone": phone,
            "via": via,
            "at_s": time.time(),
            "status": "Completed",
        }
        self.store.save()
        return self.money[transaction]

    def confirm(self, money: dict[str, Any], *, times: int = 1, after_s: float = 0) -> None:
        """Tell the shop about paybill money."""
        if "ConfirmationURL" in self.urls:
            self.sender.send(self.urls["ConfirmationURL"], self.c2b(money), times=times, after_s=after_s)

    def c2b(self, money: dict[str, Any]) -> dict[str, Any]:
        """A C2B callback's body."""
        return {
            "TransactionType": "Pay Bill",
            "TransID": money["id"],
            "TransTime": f"{datetime.fromtimestamp(money['at_s'], EAT):%Y%m%d%H%M%S}",
            "TransAmount": _decimal(money["cents"]),
            "BusinessShortCode": self.shop["shortcode"],
            "BillRefNumber": money["account"],
            "InvoiceNumber": "",
            "OrgAccountBalance": "",
            "ThirdPartyTransID": "",
            "MSISDN": f"2547 ***** {money['phone'][-3:]}",
            "FirstName": "JANE",
        }

    def _same_amount(self, push: dict[str, Any]) -> bool:
        since = time.time() - SAME_AMOUNT_S
        return any(
            (money["phone"], money["cents"], money["via"]) == (push["phone"], push["amount"] * 100, "push")
            and money["at_s"] > since
            for money in self.money.values()
        )

    def _check_password(self, body: dict[str, Any]) -> None:
        words = f"{self.shop['shortcode']}{self.shop['passkey']}{body.get('Timestamp', '')}"
        if body.get("Password") != base64.b64encode(words.encode()).decode():
            raise DarajaError(HTTPStatus.INTERNAL_SERVER_ERROR, "500.001.1001", "Wrong credentials")


def make_app(*, shortcode: str, consumer_key: str, consumer_secret: str, passkey: str, store: Path | None) -> Starlette:
    """The stand-in as an ASGI app. It calls back to the addresses that it was given."""
    kept = JsonStore(store)
    sender = CallbackSender()
    shop = {"shortcode": shortcode, "key": consumer_key, "secret": consumer_secret, "passkey": passkey}

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await sender.stop()

    routes = [
        Route("/oauth/v1/generate", _token, methods=["GET"]),
        Route("/mpesa/stkpush/v1/processrequest", _stk, methods=["POST"]),
        Route("/mpesa/stkpushquery/v1/query", _stk_query, methods=["POST"]),
        Route("/mpesa/c2b/v2/registerurl", _register, methods=["POST"]),
        Route("/mpesa/transactionstatus/v1/query", _status, methods=["POST"]),
        Route("/mpesa/reversal/v1/request", _reverse, methods=["POST"]),
        Route("/pulltransactions/v1/query", _pull, methods=["POST"]),
        Route("/_control/stk/{id}/{action}", _decide, methods=["POST"]),
        Route("/_control/paybill", _paybill, methods=["POST"]),
        Route("/_control/callbacks/{mode}", _mode, methods=["POST"]),
        Route("/_control/withhold", _withhold, methods=["POST"]),
        Route("/", _page, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={DarajaError: _refused})
    app.state.mpesa = MpesaState(kept, sender, shop)
    return app


def _state(request: Request) -> MpesaState:
    state: MpesaState = request.app.state.mpesa
    return state


def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, DarajaError):
        raise error
    body = {"requestId": secrets.token_hex(6), "errorCode": error.code, "errorMessage": str(error)}
    return JSONResponse(body, error.status)


async def _merchant(request: Request) -> tuple[MpesaState, dict[str, Any]]:
    state = _state(request)
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token not in state.tokens:
        raise DarajaError(HTTPStatus.UNAUTHORIZED, "404.001.03", "Invalid Access Token")
    try:
        body = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise DarajaError(HTTPStatus.BAD_REQUEST, "400.002.05", "Invalid Request Payload")
    return state, body


def _answer(state: MpesaState, body: dict[str, Any]) -> Response:
    """The answer, unless it is one that gets lost on the way: what was asked for has happened all the same."""
    if state.withhold > 0:
        state.withhold -= 1
        return Response("<html>504 Gateway Time-out</html>", HTTPStatus.GATEWAY_TIMEOUT)
    return JSONResponse(body)


async def _token(request: Request) -> Response:
    state = _state(request)
    wanted = base64.b64encode(f"{state.shop['key']}:{state.shop['secret']}".encode()).decode()
    if request.headers.get("authorization") != f"Basic {wanted}":
        raise DarajaError(HTTPStatus.BAD_REQUEST, "400.008.01", "Invalid Authentication passed")
    token = secrets.token_urlsafe(21)
    state.tokens.add(token)
    return JSONResponse({"access_token": token, "expires_in": "3599"})


async def _stk(request: Request) -> Response:
    state, body = await _merchant(request)
    push = state.push(body)
    words = "Success. Request accepted for processing"
    answer = {"MerchantRequestID": push["merchant_request"], "CheckoutRequestID": push["id"]}
    return _answer(state, answer | {"ResponseCode": "0", "ResponseDescription": words, "CustomerMessage": words})


async def _stk_query(request: Request) -> Response:
    state, body = await _merchant(request)
    push = state.pushes.get(str(body.get("CheckoutRequestID")))
    if push is None:
        raise DarajaError(HTTPStatus.BAD_REQUEST, "400.002.02", "Bad Request - Invalid CheckoutRequestID")
    if push["code"] is None:
        raise DarajaError(HTTPStatus.INTERNAL_SERVER_ERROR, "500.001.1001", "The transaction is being processed")
    answer = {
        "ResponseCode": "0",
        "ResponseDescription": "The service request has been accepted successfully",
        "MerchantRequestID": push["merchant_request"],
        "CheckoutRequestID": push["id"],
        "ResultCode": push["code"],
        "ResultDesc": push["words"],
    }
    return _answer(state, answer)


async def _register(request: Request) -> Response:
    state, body = await _merchant(request)
    state.urls.update({name: str(body.get(name, "")) for name in ("ConfirmationURL", "ValidationURL")})
    state.store.save()
    return _answer(state, {"OriginatorCoversationID": "1", "ResponseCode": "0", "ResponseDescription": "Success"})


async def _status(request: Request) -> Response:
    state, body = await _merchant(request)
    money = state.money.get(str(body.get("TransactionID")))
    url = str(body.get("ResultURL", ""))
    conversation = f"AG_{secrets.token_hex(10)}"
    if money is None:
        state.sender.send(url, _result(conversation, "2032", "The transaction does not exist", {}))
    else:
        found = {
            "DebitPartyName": f"{money['phone']} - JANE DOE",
            "CreditPartyName": f"{money.get('payee', state.shop['shortcode'])} - Water",
            "TransactionStatus": money["status"],
            "Amount": money["cents"] / 100,
            "ReceiptNo": money["id"],
            "FinalisedTime": int(f"{datetime.fromtimestamp(money['at_s'], EAT):%Y%m%d%H%M%S}"),
            "TransactionReason": None,
        }
        state.sender.send(url, _result(conversation, 0, "The service request is processed successfully.", found))
    return _answer(state, _taken(conversation))


async def _reverse(request: Request) -> Response:
    state, body = await _merchant(request)
    money, conversation = state.money.get(str(body.get("TransactionID"))), f"AG_{secrets.token_hex(10)}"
    url = str(body.get("ResultURL", ""))
    can = money is not None and money["status"] == "Completed" and not money.get("no_reversal")
    if money is not None and can:
        money["status"] = "Reversed"
        state.store.save()
        found = {"Amount": money["cents"] / 100, "OriginalTransactionID": money["id"]}
        state.sender.send(url, _result(conversation, "21", "The service request is processed", found, ok=True))
    else:
        state.sender.send(url, _result(conversation, "R000001", "The transaction has already been reversed.", {}))
    return _answer(state, _taken(conversation))


async def _pull(request: Request) -> Response:
    state, body = await _merchant(request)
    start, end = (
        datetime.fromisoformat(str(body.get(name))).replace(tzinfo=EAT).timestamp() for name in ("StartDate", "EndDate")
    )
    offset = int(body.get("OffSetValue", 0))
    found = sorted(
        (money for money in state.money.values() if int(start) <= money["at_s"] < end + 1), key=lambda m: m["at_s"]
    )
    rows = [
        {
            "transactionId": money["id"],
            "trxDate": f"{datetime.fromtimestamp(money['at_s'], UTC):%Y-%m-%dT%H:%M:%SZ}",
            "msisdn": f"2547*****{money['phone'][-3:]}",
            "sender": "MPESA",
            "transactiontype": "c2b-pay-bill-debit",
            "billreference": money["account"],
            "amount": _decimal(money["cents"]),
            "organizationname": "Water",
        }
        for money in found[offset : offset + 1000]
    ]
    return _answer(
        state, {"ResponseRefID": "1", "ResponseCode": "1000", "ResponseMessage": "Success", "Response": [rows]}
    )


async def _decide(request: Request) -> Response:
    state, wanted = _state(request), request.path_params["id"]
    action = request.path_params["action"]
    push = next((push for push in state.pushes.values() if wanted in {push["id"], push["account"]}), None)
    if push is None or action not in ACTIONS:
        return JSONResponse({"error": f"no such push, or none of: {', '.join(ACTIONS)}"}, HTTPStatus.NOT_FOUND)
    state.decide(push, action)
    return _shown(request, push)


async def _paybill(request: Request) -> Response:
    """Somebody pays the paybill by hand: M-Pesa asks the shop first, then confirms."""
    state = _state(request)
    form = dict(request.query_params) or dict(parse_qsl((await request.body()).decode()))
    try:
        cents = round(float(str(form.get("amount", ""))) * 100)
    except ValueError:
        return JSONResponse({"error": "an amount like 150 is needed"}, HTTPStatus.UNPROCESSABLE_ENTITY)
    draft: dict[str, Any] = {
        "id": "",
        "account": str(form.get("account", "")),
        "cents": cents,
        "phone": str(form.get("phone", "")),
    }
    if "ValidationURL" in state.urls:
        asked = state.c2b(draft | {"id": secrets.token_hex(5).upper(), "at_s": time.time()})
        said = await state.sender.ask(state.urls["ValidationURL"], asked, VALIDATION_TIMEOUT_S)
        if said is not None and str(said.get("ResultCode")) != "0":
            return _shown(request, {"accepted": False, "code": said.get("ResultCode")})
    money = state.receive(draft["account"], cents, str(form.get("phone") or "254700000099"), via="paybill")
    mode = str(form.get("mode", "normal"))
    if mode != "lost":
        state.confirm(money, times=2 if mode == "double" else 1, after_s=5 if mode == "late" else 0)
    return _shown(request, {"accepted": True, "transaction": money["id"]})


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
    state = _state(request)
    rows = []
    for push in reversed(list(state.pushes.values())):
        buttons = "".join(
            f'<button formaction="/_control/stk/{html.escape(push["id"])}/{action}?page=1">{label}</button>'
            for action, label in (("approve", "PIN is right"), ("cancel", "Cancel"), ("no_answer", "No answer"),
                                  ("insufficient", "Not enough money"), ("approve_silent", "Pay, tell nobody"))
        )  # fmt: skip
        said = html.escape(push["words"]) or "ringing"
        rows.append(
            f"<li><b>KES {push['amount']}</b> for {html.escape(push['account'])} on +{html.escape(push['phone'])}"
            f'<br><small>{said}</small><form method="post">{"" if push["receipt"] else buttons}</form></li>'
        )
    return HTMLResponse(PAGE.replace("{{pushes}}", "".join(rows) or "<li>No phone is ringing.</li>"))


def _shown(request: Request, body: dict[str, Any]) -> Response:
    asks_for_page = "text/html" in request.headers.get("accept", "")
    return RedirectResponse("/", HTTPStatus.SEE_OTHER) if asks_for_page else JSONResponse(body)


def _callback(push: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "MerchantRequestID": push["merchant_request"],
        "CheckoutRequestID": push["id"],
        "ResultCode": int(push["code"]),
        "ResultDesc": push["words"],
    }
    if push["receipt"]:
        items = [
            {"Name": "Amount", "Value": float(push["amount"])},
            {"Name": "MpesaReceiptNumber", "Value": push["receipt"]},
            {"Name": "Balance"},
            {"Name": "TransactionDate", "Value": int(f"{datetime.now(EAT):%Y%m%d%H%M%S}")},
            {"Name": "PhoneNumber", "Value": int(push["phone"])},
        ]
        body["CallbackMetadata"] = {"Item": items}
    return {"Body": {"stkCallback": body}}


def _taken(conversation: str) -> dict[str, Any]:
    return {
        "OriginatorConversationID": secrets.token_hex(8),
        "ConversationID": conversation,
        "ResponseCode": "0",
        "ResponseDescription": "Accept the service request successfully.",
    }


def _result(
    conversation: str, code: str | int, words: str, parameters: dict[str, Any], *, ok: bool = False
) -> dict[str, Any]:
    items = [{"Key": key} if value is None else {"Key": key, "Value": value} for key, value in parameters.items()]
    return {
        "Result": {
            "ResultType": 0,
            "ResultCode": 0 if ok else code,
            "ResultDesc": words,
            "OriginatorConversationID": secrets.token_hex(8),
            "ConversationID": conversation,
            "TransactionID": "0000000000",
            "ResultParameters": {"ResultParameter": items},
        }
    }


def _decimal(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
