"""The HTTP server, put together: GraphQL, webhooks, pages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from standpipe.api import agents
from standpipe.api.admin import make_admin, ready
from standpipe.api.observed import Observed
from standpipe.api.pages import health, returned
from standpipe.api.paybill import validation
from standpipe.api.receipts import receipt_pdf
from standpipe.api.statements import statement_pdf
from standpipe.api.unavailable import or_unavailable
from standpipe.api.webhooks import MAX_BODY_BYTES, webhook
from standpipe.graphql.budget import Budgets
from standpipe.graphql.context import Services
from standpipe.graphql.documents import Documents
from standpipe.graphql.view import GraphQLView
from standpipe.households.sessions import Lifetime, Lifetimes
from standpipe.households.sign_in import CodeLimits
from standpipe.households.tokens import TokenSigner
from standpipe.platform.addresses import caller_address
from standpipe.platform.notify import LIVE, Listener
from standpipe.platform.ready import Readiness, older_revisions
from standpipe.platform.serving import serve
from standpipe.platform.settings import Settings, require
from standpipe.wiring import Database, close_rails, make_firebase, make_operator_keys, make_rails

GRAPHQL_MAX_BODY_BYTES = 64 * 1024
SMS_TIMEOUT_S = 5


def make_app(settings: Settings, database: Database) -> Starlette:
    """The ASGI app on an open database. Raises SettingsError where a setting that it needs is missing."""
    require(settings, "token_secret")
    firebase = make_firebase(settings.firebase)
    rails = make_rails(settings, database.sessions)
    listener = Listener(database.url, LIVE)
    http = httpx.AsyncClient(timeout=SMS_TIMEOUT_S)
    services = Services(
        sessions=database.sessions,
        rails=rails,
        clock=settings.clock,
        listener=listener,
        signer=make_signer(settings),
        http=http,
        offline_after=timedelta(hours=settings.offline_after_h),
        sms_url=settings.sms_url,
        sms_countries=settings.sms_countries,
        public_url=settings.public_url,
        budgets=Budgets(settings.cost_capacity, settings.cost_refill_per_s),
        documents=Documents(settings.documents_mode),
        introspection=settings.introspection if settings.introspection is not None else _has_ide(settings),
        caller=lambda connection: caller_address(connection, settings.trusted_networks),
        code_limits=CodeLimits(settings.sign_in_codes_per_address, settings.sms_daily_cap),
        lifetimes=_lifetimes(settings),
        min_app_versions={str(platform): version for platform, version in settings.min_app_versions.items()},
        firebase=firebase,
        operator_keys=make_operator_keys(settings),
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await listener.start()
        try:
            yield
        finally:
            await listener.stop()
            await http.aclose()
            await close_rails(rails)
            if firebase is not None:
                await firebase.close()

    app = Starlette(routes=_routes(settings, services), lifespan=lifespan, middleware=[Middleware(Observed)])
    app.state.readiness = Readiness(database.sessions, listener, older=older_revisions())
    app.state.sessions, app.state.rails, app.state.clock = database.sessions, rails, settings.clock
    app.state.receipt_secret = services.signer.secret
    app.state.trusted_proxies = settings.trusted_networks
    return app


@asynccontextmanager
async def observed(settings: Settings, database: Database, readiness: Readiness) -> AsyncIterator[None]:
    """The role's admin port, for as long as the context lasts; off where none is set."""
    if settings.metrics_port is None:
        yield
        return
    admin = make_admin(database.sessions, readiness)
    serving = asyncio.create_task(serve(admin, settings.metrics_host, settings.metrics_port))
    try:
        yield
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


def make_signer(settings: Settings) -> TokenSigner:
    """Issues and verifies access tokens. Raises SettingsError without a secret."""
    require(settings, "token_secret")
    secret = settings.token_secret.get_secret_value() if settings.token_secret else ""
    return TokenSigner(secret, settings.token_ttl_s)


def _has_ide(settings: Settings) -> bool:
    return settings.graphiql_dir is not None and settings.graphiql_dir.is_dir()


def _lifetimes(settings: Settings) -> Lifetimes:
    def days(idle: int, absolute: int) -> Lifetime:
        return Lifetime(timedelta(days=idle), timedelta(days=absolute))

    return Lifetimes(
        app=days(settings.session_idle_days, settings.session_max_days),
        web=days(settings.web_session_idle_days, settings.web_session_max_days),
    )


def _routes(settings: Settings, services: Services) -> list[BaseRoute]:
    ide = _has_ide(settings)
    view = GraphQLView(services, ide=ide)
    routes: list[BaseRoute] = [
        Route("/webhooks/mpesa/{secret}/c2b/validation", validation, methods=["POST"], max_body_size=MAX_BODY_BYTES),
        Route("/webhooks/{rail}/{tail:path}", webhook, methods=["POST", "PUT"], max_body_size=MAX_BODY_BYTES),
        Route("/webhooks/{rail}", webhook, methods=["POST", "PUT"], max_body_size=MAX_BODY_BYTES),
        Route("/agents/me", or_unavailable(agents.me), methods=["GET"]),
        Route("/agents/meters/{number}", or_unavailable(agents.meter), methods=["GET"]),
        Route("/agents/vends", or_unavailable(agents.vend), methods=["POST"], max_body_size=agents.MAX_BODY_BYTES),
        Route("/return/{top_up_id}", or_unavailable(returned), methods=["GET"]),
        Route("/receipts/{receipt_id}.pdf", or_unavailable(receipt_pdf), methods=["GET"]),
        Route("/statements/{meter_id}/{month}.pdf", or_unavailable(statement_pdf), methods=["GET"]),
        Route("/healthz", health, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        WebSocketRoute("/graphql", view),
        Route("/graphql", view, methods=["GET", "POST"], max_body_size=GRAPHQL_MAX_BODY_BYTES),
    ]
    if ide:
        routes.append(Mount("/graphiql", StaticFiles(directory=str(settings.graphiql_dir))))
    return routes
