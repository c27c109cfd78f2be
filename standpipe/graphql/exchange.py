"""GraphQL over HTTP (specification of September 2026): media types, status codes, and what a cache may keep.

``application/graphql-response+json`` says by its status what became of a request: 200, 294 where some fields failed,
4xx where nothing ran. ``application/json`` is answered with 200 for every well-formed request, as apps from before the
specification expect. Pure.
"""

import hashlib
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

JSON = "application/json"
RESPONSE = "application/graphql-response+json"
EVENTS = "text/event-stream"
PARTIAL_SUCCESS = 294
_STATUS = {"UNAUTHENTICATED": HTTPStatus.UNAUTHORIZED, "FORBIDDEN": HTTPStatus.FORBIDDEN,
           "RATE_LIMITED": HTTPStatus.TOO_MANY_REQUESTS, "TIMEOUT": HTTPStatus.GATEWAY_TIMEOUT}  # fmt: skip


@dataclass
class Exchange:
    """Memory of a request until its answer is written.

    ``by_id``: a trusted document asked for by GET, whose answer may be kept. ``ran``: the operation was executed.
    """

    media: str = JSON
    by_id: bool = False
    ran: bool = True
    signed_in: bool = False
    known_etag: str | None = None


def negotiate(accept: str | None) -> str | None:
    """The media type of the answer; None where the client takes none of ours (406).

    Without a header it is the new type, as the specification has it. For ``*/*``, where the choice is ours, it is
    ``application/json``: so ask HTTP libraries that know nothing of GraphQL, whose users look for the body at 200.
    """
    if accept is None or not accept.strip():
        return RESPONSE
    wishes: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept.split(",")):
        media, *parameters = [piece.strip().lower() for piece in part.split(";")]
        quality = next((_quality(one[2:]) for one in parameters if one.startswith("q=")), 1.0)
        ours = {RESPONSE: RESPONSE, JSON: JSON, EVENTS: EVENTS, "application/*": JSON, "*/*": JSON}.get(media)
        if ours is not None and quality > 0:
            wishes.append((-quality, place, ours))
    return min(wishes)[2] if wishes else None


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def answer(exchange: Exchange, body: dict[str, Any]) -> Response:
    """The response to a well-formed request."""
    status = _status(exchange, body)
    response = Response(
        json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(errors="replace"),
        status,
        media_type=f"{exchange.media}; charset=utf-8",
    )
    response.headers["Vary"] = "Accept, Accept-Language, Authorization, Cookie"
    wait_s = next((e["extensions"].get("retryAfterS") for e in body.get("errors", ()) if "extensions" in e), None)
    if wait_s is not None:
        response.headers["Retry-After"] = str(wait_s)
    if exchange.by_id and exchange.ran and exchange.signed_in and "errors" not in body:
        return _cacheable(exchange, body, response)
    response.headers["Cache-Control"] = "no-store"
    return response


def _status(exchange: Exchange, body: dict[str, Any]) -> int:
    if exchange.media == JSON:
        return HTTPStatus.OK
    if exchange.ran:
        return PARTIAL_SUCCESS if "errors" in body else HTTPStatus.OK
    code = body["errors"][0].get("extensions", {}).get("code", "")
    return _STATUS.get(code, HTTPStatus.BAD_REQUEST)


def _cacheable(exchange: Exchange, body: dict[str, Any], response: Response) -> Response:
    """A customer's own answer is kept by their phone alone, which asks each time; an unchanged one costs no bytes."""
    digest = hashlib.sha256(json.dumps(body.get("data"), sort_keys=True).encode()).hexdigest()[:32]
    etag = f'W/"{digest}"'
    response.headers["ETag"] = etag
    response.headers["Cache-Control"] = "private, no-cache"
    if exchange.known_etag is not None and etag in [one.strip() for one in exchange.known_etag.split(",")]:
        kept = {name: response.headers[name] for name in ("ETag", "Cache-Control", "Vary")}
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)
    return response


def refusal(status: int, message: str, code: str = "BAD_REQUEST", headers: dict[str, str] | None = None) -> Response:
    """Answer an ill-formed request in the form of a GraphQL response."""
    body = {"errors": [{"message": message, "extensions": {"code": code}}]}
    return JSONResponse(body, status, headers={"Cache-Control": "no-store"} | (headers or {}))
