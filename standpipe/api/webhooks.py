"""Webhooks: raw bytes in; authenticated, stored and committed; only then 2xx.

An answer of 2xx is our word that the notice will not be lost, so anything that keeps us from storing it is a 5xx and
the provider sends it again.
"""

import time
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from standpipe.db.engine import DATABASE_DOWN, Sessions
from standpipe.payments.inbox import receive
from standpipe.payments.provider import Provider, SignatureInvalidError

MAX_BODY_BYTES = 256 * 1024
_log = structlog.get_logger(__name__)


async def webhook(request: Request) -> Response:
    """``POST /webhooks/{provider}``. A provider that is not set up has no webhook: 404."""
    providers: Mapping[str, Provider] = request.app.state.providers
    sessions: Sessions = request.app.state.sessions
    provider = providers.get(request.path_params["provider"])
    if provider is None:
        return _answer(HTTPStatus.NOT_FOUND, "no such provider")
    try:
        body = await request.body()
    except ClientDisconnect:
        return _answer(HTTPStatus.BAD_REQUEST, "the body ended early")
    try:
        async with sessions.begin() as session:
            fresh = await receive(session, provider, headers=request.headers, body=body, now_s=time.time())
    except SignatureInvalidError as error:
        _log.warning("webhook refused", provider=provider.name, reason=str(error))
        return _answer(HTTPStatus.BAD_REQUEST, "the signature does not hold")
    except DATABASE_DOWN as error:
        _log.error("webhook not stored", provider=provider.name, error=type(error).__name__)
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE, "not stored; send it again")
    return JSONResponse({"received": True, "duplicate": not fresh})


def _answer(status: HTTPStatus, why: str) -> Response:
    return JSONResponse({"error": why}, status)
