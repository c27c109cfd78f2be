"""The cash agents' door: JSON over HTTP with the agent's key. Amounts are decimal strings in the agent's currency."""

import json
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from standpipe.payments import agents
from standpipe.platform.database import Sessions
from standpipe.platform.errors import (
    IdempotencyMismatchError,
    InvalidInputError,
    MeterBlockedError,
    NotAuthenticatedError,
    NotFoundError,
    StandpipeError,
)
from standpipe.platform.language import language_of, phrase
from standpipe.platform.units import is_storable, money_text, to_major, to_minor

MAX_BODY_BYTES = 8 * 1024
MAX_TEXT = 128
_STATUS: dict[type[StandpipeError], tuple[HTTPStatus, str]] = {
    NotAuthenticatedError: (HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED"),
    NotFoundError: (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    MeterBlockedError: (HTTPStatus.CONFLICT, "METER_BLOCKED"),
    IdempotencyMismatchError: (HTTPStatus.CONFLICT, "IDEMPOTENCY_MISMATCH"),
    InvalidInputError: (HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID"),
}


def _door(answer: Callable[[Request, Sessions, str], Awaitable[dict[str, Any]]]) -> Callable[..., Awaitable[Response]]:
    """Errors at this door, in one place."""

    async def handle(request: Request) -> Response:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer" or not key:
                raise NotAuthenticatedError(phrase("Send the agent's key as a bearer token."))
            return JSONResponse(await answer(request, request.app.state.sessions, key.strip()))
        except StandpipeError as error:
            if type(error) not in _STATUS:
                raise
            language = language_of(request.headers.get("accept-language"))
            status, code = _STATUS[type(error)]
            return JSONResponse({"error": {"code": code, "message": error.text_in(language)}}, status)

    return handle


async def _me(_request: Request, sessions: Sessions, key: str) -> dict[str, Any]:
    async with sessions() as session:
        agent = await agents.authenticate_agent(session, key)
        view = await agents.view_agent(session, agent)
    return {"id": view.id, "name": view.name, "float": _money(view.float_minor, view.currency)}


async def _meter(request: Request, sessions: Sessions, key: str) -> dict[str, Any]:
    async with sessions() as session:
        agent = await agents.authenticate_agent(session, key)
        meter = await agents.find_meter(session, agent, request.path_params["number"])
    return {"serial": meter.serial, "currency": meter.currency}


async def _vend(request: Request, sessions: Sessions, key: str) -> dict[str, Any]:
    body = await _body(request)
    account, idempotency_key = _text(body, "meter"), _text(body, "idempotencyKey")
    async with sessions.begin() as session:
        agent = await agents.authenticate_agent(session, key)
        made = await agents.vend_for_cash(
            session,
            agent,
            key=idempotency_key,
            account=account,
            amount_minor=to_minor(_decimal(_text(body, "amount")), agent.currency),
            now=request.app.state.clock.now(),
        )
        currency = agent.currency
    return {
        "topUpId": made.top_up_id,
        "meter": made.meter_serial,
        "amount": _money(made.amount_minor, currency),
        "float": _money(made.float_minor, currency),
        "replayed": made.replayed,
    }


def _money(amount_minor: int, currency: str) -> dict[str, str]:
    display = money_text(amount_minor, currency)
    return {"amount": f"{to_major(amount_minor, currency):f}", "currency": currency, "display": display}


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InvalidInputError(phrase("The body must be a JSON object."))
    return body


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not is_storable(value):
        raise InvalidInputError(
            phrase("{name} must be a text of 1 to {most} characters.", name=name, most=MAX_TEXT), (name,)
        )
    return value


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise InvalidInputError(phrase('Write the amount as a decimal, such as "150.00".'), ("amount",)) from None


me = _door(_me)
"""``GET /agents/me``: who this is, and its float."""
meter = _door(_meter)
"""``GET /agents/meters/{number}``: whether there is such a meter, before cash changes hands."""
vend = _door(_vend)
"""``POST /agents/vends`` ``{"idempotencyKey", "meter", "amount"}``: vend for cash, once per key."""
