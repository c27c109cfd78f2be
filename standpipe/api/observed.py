"""Around every request: an id for its log lines, its metrics, and the span that a trace begins with."""

import secrets
import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from standpipe.platform import metrics, tracing

HEADER = "X-Request-Id"
LATE = "/webhooks/"
"""A notice is part of the top-up's trace that it is about, which is known once it has been read."""
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """ASGI middleware. The id is ours alone: a stranger's could be made to look like another's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, watched."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if scope["type"] == "websocket":
                with metrics.WEBSOCKETS.track_inprogress():
                    await self._app(scope, receive, send)
            else:
                await self._http(scope, receive, send, request_id)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        began_s, status, first_byte_s = time.perf_counter(), 500, None
        path, method = scope["path"], scope["method"] if scope["method"] in METHODS else "OTHER"

        async def answer(message: Message) -> None:
            nonlocal status, first_byte_s
            if message["type"] == "http.response.start":
                status, first_byte_s = message["status"], time.perf_counter()
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            if path in UNTRACED:
                await self._app(scope, receive, answer)
                return
            with tracing.server_span(f"HTTP {method}", late=path.startswith(LATE)) as span, _under_way():
                try:
                    await self._app(scope, receive, answer)
                finally:
                    span.set_attribute("http.route", _route(scope))
                    span.set_attribute("http.response.status_code", status)
        finally:
            route = _route(scope)
            metrics.REQUESTS.labels(method, route, status).inc()
            # Of a stream, which may last for hours, the beginning.
            metrics.REQUEST_S.labels(route).observe((first_byte_s or time.perf_counter()) - began_s)


_under_way = metrics.REQUESTS_UNDER_WAY.track_inprogress


def _route(scope: Scope) -> str:
    """The route's pattern, never the path as it was asked for: that has no end of values, and may hold secrets."""
    return getattr(scope.get("route"), "path", "none")
