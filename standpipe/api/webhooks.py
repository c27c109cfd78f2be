"""Provider webhooks: raw bytes, a size cap, authenticate, store, commit, and only then 2xx.

An answer of 2xx is our word that the notice will not be lost, so anything that keeps us from storing it is a 5xx and
the provider sends it again.
"""

import time
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from standpipe.payments.inbox import receive
from standpipe.payments.rails.port import Rail, SignatureInvalidError, WebhookCall
from standpipe.platform.addresses import caller_address
from standpipe.platform.database import DATABASE_DOWN, Sessions, by_statement
from standpipe.platform.reconnect import once_more

MAX_BODY_BYTES = 256 * 1024
_log = structlog.get_logger(__name__)


async def webhook(request: Request) -> Response:
    """``/webhooks/{rail}`` and, for rails whose address holds a secret, ``/webhooks/{rail}/{tail}``.

    A provider that is not set up has no webhook: 404.
    """
    rails: Mapping[str, Rail] = request.app.state.rails
    sessions: Sessions = request.app.state.sessions
    rail = rails.get(request.path_params["rail"])
    if rail is None:
        return refusal(HTTPStatus.NOT_FOUND, "no such provider")
    try:
        call = await read_call(request)
        fresh = await once_more(lambda: _keep(sessions, rail, call), idempotent=True)
    except ClientDisconnect:
        return refusal(HTTPStatus.BAD_REQUEST, "the body ended early")
    except SignatureInvalidError as error:
        _log.warning("webhook refused", rail=rail.name, reason=str(error))
        return refusal(HTTPStatus.BAD_REQUEST, "the signature does not hold")
    except DATABASE_DOWN as error:
        _log.error("webhook not stored", rail=rail.name, error=type(error).__name__)
        return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "not stored; send it again")
    return JSONResponse({**rail.webhook_answer, "duplicate": not fresh})


async def _keep(sessions: Sessions, rail: Rail, call: WebhookCall) -> bool:
    """Idempotent by the provider's own id of the event."""
    async with by_statement(sessions) as session:
        return await receive(session, rail, call)


async def read_call(request: Request) -> WebhookCall:
    """A notice as it came in. Raises ClientDisconnect where its body ended early."""
    return WebhookCall(
        headers=request.headers,
        body=await request.body(),
        now_s=time.time(),
        tail=request.path_params.get("tail", ""),
        address=caller_address(request, request.app.state.trusted_proxies),
    )


def refusal(status: HTTPStatus, why: str) -> Response:
    """A no that tells a stranger nothing."""
    return JSONResponse({"error": why}, status)
