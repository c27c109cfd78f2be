"""A stand-in for the machine that guards vending keys: the protocol of docs/meters/keypad-tokens.md, from its side.

The same id is answered with the same tokens; under another order it is refused. ``withhold``: answers that will be
lost after the token was made.
"""

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from standpipe.platform.errors import InvalidInputError
from standpipe.sts import tokens
from standpipe.sts.amounts import to_field
from standpipe.sts.keys import DecoderKey, KeyTerms, derive

MAX_BODY = 4_000


@dataclass
class HsmState:
    """State of the module: vending keys by ``group:revision``, and what it has made, by request id."""

    vending_keys: dict[str, bytes]
    made: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    withhold: int = 0


def make_app(state: HsmState, *, api_key: str, also: Sequence[Route] = ()) -> Starlette:
    """The stand-in as an ASGI app, with other routes beside it."""

    async def issue(request: Request) -> Response:
        told = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(told.encode(), api_key.encode()):
            return JSONResponse({"error": "who are you?"}, HTTPStatus.FORBIDDEN)
        body = await request.body()
        try:
            order = json.loads(body[:MAX_BODY])
            made = _answer(state, order, body.decode())
        except (ValueError, KeyError, TypeError) as error:
            return JSONResponse({"error": f"not understood: {error}"}, HTTPStatus.BAD_REQUEST)
        except InvalidInputError as error:
            return JSONResponse({"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        if state.withhold:
            state.withhold -= 1
            return JSONResponse({"error": "lost"}, HTTPStatus.BAD_GATEWAY)
        return JSONResponse({"id": order["id"], "tokens": made})

    return Starlette(routes=[Route("/v1/tokens", issue, methods=["POST"]), *also])


def _answer(state: HsmState, order: dict[str, Any], body: str) -> list[str]:
    state.asked.append(order["id"])
    known = state.made.get(order["id"])
    if known is not None:
        if known[0] != body:
            raise InvalidInputError("this id was used for another token")
        return known[1]
    made = _make(state, order)
    state.made[order["id"]] = (body, made)
    return made


def _make(state: HsmState, order: dict[str, Any]) -> list[str]:
    key, purpose = _key(state, KeyTerms(**order["terms"])), order["purpose"]
    if purpose == "KEY_CHANGE":
        return [part.to_digits(key) for part in tokens.key_change(_key(state, KeyTerms(**order["new_terms"])))]
    # A random RND is as good as any: the id, not the digits, is what makes a request the same.
    tid, rnd = int(order["tid"]), secrets.randbelow(16)
    if purpose == "CREDIT":
        token = tokens.credit(tokens.Credit.WATER, tid=tid, rnd=rnd, amount_field=to_field(int(order["units"])))
    elif purpose == "CLEAR_CREDIT":
        token = tokens.clear_credit(tid=tid, rnd=rnd)
    elif purpose == "CLEAR_TAMPER":
        token = tokens.clear_tamper(tid=tid, rnd=rnd)
    else:
        raise InvalidInputError("no such purpose")
    return [token.to_digits(key)]


def _key(state: HsmState, terms: KeyTerms) -> DecoderKey:
    vending_key = state.vending_keys.get(f"{terms.supply_group}:{terms.key_revision}")
    if vending_key is None:
        raise InvalidInputError("there is no such vending key")
    return derive(vending_key, terms)
