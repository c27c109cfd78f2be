"""Plain HTTP doors while the database is away: tried once more where that cannot do a thing twice, else 503."""

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from http import HTTPStatus

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from standpipe.platform.database import DATABASE_DOWN
from standpipe.platform.language import NOT_AVAILABLE, in_language, language_of
from standpipe.platform.reconnect import is_lost, once_more

RETRY_AFTER_S = 5
Endpoint = Callable[[Request], Awaitable[Response]]
_log = structlog.get_logger(__name__)


def or_unavailable(endpoint: Endpoint) -> Endpoint:
    """The endpoint, which answers 503 with Retry-After where the database does not answer."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await once_more(partial(endpoint, request))
        except DATABASE_DOWN as error:
            if not is_lost(error):
                raise
            _log.error("request not answered", error=type(error).__name__)
            language = language_of(request.headers.get("accept-language"))
            return JSONResponse(
                {"error": {"code": "UNAVAILABLE", "message": in_language(NOT_AVAILABLE, language)}},
                HTTPStatus.SERVICE_UNAVAILABLE,
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )

    return answer
