"""M-Pesa's question before it takes a payer's money for our paybill: is there such a meter?

It must be answered within eight seconds. When we cannot tell in time the answer is yes: the money then comes with a
confirmation, and goes to its meter or to suspense. A no would turn away people who are out of water (P41).
"""

import asyncio
from http import HTTPStatus

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from standpipe.api.webhooks import read_call, refusal
from standpipe.payments.paybill import Verdict, validate
from standpipe.payments.rails.mpesa import NAME
from standpipe.payments.rails.mpesa_callbacks import VALIDATION_ANSWERS
from standpipe.payments.rails.mpesa_wire import CURRENCY, C2bRequest, read_c2b
from standpipe.payments.rails.port import Rail, SignatureInvalidError
from standpipe.platform.database import DATABASE_DOWN, Sessions
from standpipe.platform.reconnect import once_more

ANSWER_WITHIN_S = 4.0
_log = structlog.get_logger(__name__)


async def validation(request: Request) -> Response:
    """``POST /webhooks/mpesa/{secret}/c2b/validation``."""
    rail = request.app.state.rails.get(NAME)
    if rail is None:
        return refusal(HTTPStatus.NOT_FOUND, "no such provider")
    request.path_params["tail"] = f"{request.path_params['secret']}/c2b/validation"
    try:
        call = await read_call(request)
        rail.authenticate(call)
    except (ClientDisconnect, SignatureInvalidError) as error:
        _log.warning("validation refused", reason=str(error))
        return refusal(HTTPStatus.BAD_REQUEST, "the signature does not hold")
    asked = read_c2b(call.body)
    if asked is None:
        return JSONResponse(VALIDATION_ANSWERS[Verdict.UNKNOWN_ACCOUNT])
    sessions: Sessions = request.app.state.sessions
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            verdict = await once_more(lambda: _decide(sessions, rail, asked))
    except (TimeoutError, *DATABASE_DOWN):
        _log.error("validation not decided in time; accepted")
        verdict = Verdict.ACCEPT
    return JSONResponse(VALIDATION_ANSWERS[verdict])


async def _decide(sessions: Sessions, rail: Rail, asked: C2bRequest) -> Verdict:
    async with sessions() as session:
        return await validate(
            session, rail, account=asked.account_reference, amount_minor=asked.amount_minor, currency=CURRENCY
        )
