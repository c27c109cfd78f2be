"""An ASGI app on a port, until cancelled."""

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from standpipe.platform.errors import SettingsError

WS_MAX_BYTES = 64 * 1024
KEEP_ALIVE_S = 15
GRACE_S = 3
HEADERS_TIMEOUT_S = 15.0
"""Seconds that a client may take for the headers of a request, from the first byte or from connecting."""
BODY_TIMEOUT_S = 30.0
"""Seconds that it may take for the body, all of it."""


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's is a generator.
        """No handlers of its own: one process may host several servers, and handles its signals itself."""
        return nullcontext()


class _Http(H11Protocol):
    """HTTP/1.1 that does not wait for ever for a request to come in (uvicorn waits only between requests)."""

    headers_timeout_s = HEADERS_TIMEOUT_S
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection on which nothing is asked is closed."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes that make no request yet do not give a client more time."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._rest()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """The connection is another protocol's from here on."""
        self._rest()
        super().handle_websocket_upgrade(event)

    def _watch(self) -> None:
        cycle: Any = self.cycle  # None until the first request, whatever its type says.
        asked = cycle is not None and not cycle.response_complete
        # After an upgrade the bytes are another protocol's.
        if asked or self.transport.is_closing() or self.transport.get_protocol() is not self:
            self._rest()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.headers_timeout_s, self._give_up)

    def _rest(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        self.transport.close()


class _Bodies:
    """Ends requests whose body does not arrive in time with 408."""

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self.app, self.timeout_s = app, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        due_s, complete = loop.time() + self.timeout_s, False

        async def patient() -> Message:
            nonlocal complete
            if complete:  # What comes now is the client's leaving, however late.
                return await receive()
            try:
                async with asyncio.timeout_at(due_s):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, patient, send)


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    headers_timeout_s: float = HEADERS_TIMEOUT_S,
    body_timeout_s: float = BODY_TIMEOUT_S,
) -> None:
    """Serve until cancelled, then end open connections within GRACE_S seconds."""
    protocol = type("Http", (_Http,), {"headers_timeout_s": headers_timeout_s})
    server = _Server(
        uvicorn.Config(
            _Bodies(app, body_timeout_s),
            host=host,
            port=port,
            log_level="warning",
            # Its lines go through our own log. Addresses hold secrets, so that requests are not logged at all.
            log_config=None,
            access_log=False,
            lifespan="on",
            http=protocol,
            ws="websockets-sansio",
            ws_max_size=WS_MAX_BYTES,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
            # uvicorn would believe X-Forwarded-For of whoever calls from loopback; standpipe/addresses.py decides.
            proxy_headers=False,
        )
    )
    running = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.should_exit = True
        await running
        raise


def require_free_tcp(host: str, port: int, setting: str) -> None:
    """Raises SettingsError naming ``setting`` where somebody listens on the port already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind(probe, host, port, setting)


def bind(probe: socket.socket, host: str, port: int, setting: str) -> None:
    """Bind a probe to a port. Raises SettingsError naming ``setting`` where it is taken."""
    try:
        probe.bind((host, port))
    except OSError as error:
        raise SettingsError(f"Port {port} cannot be used ({error.strerror}): set {setting} to a free one.") from None
