"""Observation of a role: /metrics for Prometheus, /healthz, /readyz. On a port of its own, for nobody outside."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from standpipe.api.pages import health
from standpipe.engine.queue import Backlog
from standpipe.meters import commands
from standpipe.notifications import deliver
from standpipe.outbox import facts
from standpipe.payments import inbox
from standpipe.platform import metrics
from standpipe.platform.database import DATABASE_DOWN, Sessions, pool_use
from standpipe.platform.ready import OK, Readiness

KEEP_S = 10.0
TIMEOUT_S = 3.0
QUEUES: Mapping[str, Callable[..., Awaitable[Backlog]]] = {
    "inbox": inbox.backlog,
    "outbox": facts.backlog,
    "commands": commands.backlog,
    "deliveries": deliver.backlog,
}


class Depths:
    """Depths of the queues, counted when Prometheus asks, and at most every KEEP_S seconds."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._counted_s = -KEEP_S
        self._one_at_a_time = asyncio.Lock()

    async def count(self) -> None:
        """Bring the gauges up to date. Without a database they are gone: an old number would look like a true one."""
        async with self._one_at_a_time:
            if time.monotonic() - self._counted_s < KEEP_S:
                return
            self._counted_s = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT_S), self._sessions() as session:
                    found = {name: await backlog(session) for name, backlog in QUEUES.items()}
            except DATABASE_DOWN:
                found = {}
            metrics.QUEUE_DEPTH.clear()
            metrics.QUEUE_OLDEST_S.clear()
            for name, backlog in found.items():
                metrics.QUEUE_DEPTH.labels(name).set(backlog.count)
                metrics.QUEUE_OLDEST_S.labels(name).set(backlog.oldest_s)


def make_admin(sessions: Sessions, readiness: Readiness) -> Starlette:
    """The app of a role's admin port."""
    app = Starlette(
        routes=[
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/healthz", health, methods=["GET"]),
            Route("/readyz", ready, methods=["GET"]),
        ]
    )
    app.state.depths, app.state.readiness, app.state.sessions = Depths(sessions), readiness, sessions
    return app


async def ready(request: Request) -> Response:
    """``GET /readyz``: 200 where this role can do its work, else 503; the body names what fails."""
    checks = await request.app.state.readiness.checks()
    fine = all(check == OK for check in checks.values())
    status = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"status": "ready" if fine else "not ready", "checks": checks}, status)


async def _metrics(request: Request) -> Response:
    await request.app.state.depths.count()
    in_use, size = pool_use(request.app.state.sessions)
    metrics.POOL_IN_USE.set(in_use)
    metrics.POOL_SIZE.set(size)
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
