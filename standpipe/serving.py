"""An ASGI app on a port, until cancelled."""

import asyncio
from contextlib import AbstractContextManager, nullcontext

import uvicorn
from starlette.types import ASGIApp

WS_MAX_BYTES = 64 * 1024
KEEP_ALIVE_S = 15
GRACE_S = 3


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's is a generator.
        """No handlers of its own: one process may host several servers, and handles its signals itself."""
        return nullcontext()


async def serve(app: ASGIApp, host: str, port: int) -> None:
    """Serve until cancelled, then end open connections within GRACE_S seconds."""
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            # Its lines go through our own log. Addresses hold secrets, so that requests are not logged at all.
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=WS_MAX_BYTES,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
            # uvicorn would believe X-Forwarded-For of whoever calls from the loopback; api/addresses.py decides that.
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
