"""GraphQL over HTTP and WebSocket, and the offline IDE."""

import html
import json
import uuid
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

from standpipe.errors import NotAuthenticatedError, SignInUnavailableError
from standpipe.graphql import firebase_sign_in, operator_sign_in
from standpipe.graphql.context import Context, Tools
from standpipe.graphql.meters import meter_of
from standpipe.graphql.schema import schema
from standpipe.ids import is_id

INIT_TIMEOUT = timedelta(seconds=5)
MAX_SUBSCRIPTIONS = 20
_IDE_PAGE = (Path(__file__).parent / "graphiql.html").read_text()
_IDE_QUERIES = (Path(__file__).parent / "graphiql.graphql").read_text()


class GraphQLView(GraphQL[Context, None]):
    """One endpoint. A bad token is told at once (401), so that an app knows to sign in again."""

    def __init__(self, tools: Tools, *, ide: bool) -> None:
        super().__init__(
            schema,
            graphql_ide="graphiql" if ide else None,
            allow_queries_via_get=True,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
            connection_init_wait_timeout=INIT_TIMEOUT,
            max_subscriptions_per_connection=MAX_SUBSCRIPTIONS,
        )
        self._tools = tools

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; a token that does not verify ends it here."""
        try:
            await super().__call__(scope, receive, send)
        except NotAuthenticatedError as error:
            body = {"errors": [{"message": str(error), "extensions": {"code": "UNAUTHENTICATED"}}]}
            headers = {"WWW-Authenticate": "Bearer"}
            await JSONResponse(body, HTTPStatus.UNAUTHORIZED, headers)(scope, receive, send)
        except SignInUnavailableError as error:
            extensions = {"code": "SIGN_IN_UNAVAILABLE", "retryable": True}
            body = {"errors": [{"message": str(error), "extensions": extensions}]}
            headers = {"Retry-After": "5"}
            await JSONResponse(body, HTTPStatus.SERVICE_UNAVAILABLE, headers)(scope, receive, send)

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        """The context of a request; a WebSocket signs in with its first message instead of a header."""
        context = Context(self._tools, None, meter_of, request=request, response=response)
        header = request.headers.get("authorization")
        if header is not None:
            await self._sign_in(context, header)
        context.language = _language(request.headers.get("accept-language"))
        return context

    async def on_ws_connect(self, context: Context) -> Any:
        """``connection_init`` with ``{"authorization": "Bearer …"}``. Raises ConnectionRejectionError."""
        params = context.connection_params
        header = params.get("authorization") or params.get("Authorization") if isinstance(params, dict) else None
        try:
            if not isinstance(header, str):
                raise NotAuthenticatedError("Sign in with connection_init.")  # noqa: TRY301 - one way out for both.
            await self._sign_in(context, header)
        except NotAuthenticatedError as error:
            raise ConnectionRejectionError({"code": "UNAUTHENTICATED"}) from error
        except SignInUnavailableError as error:
            raise ConnectionRejectionError({"code": "SIGN_IN_UNAVAILABLE"}) from error
        return await super().on_ws_connect(context)

    async def render_graphql_ide(self, request: Request) -> Response:
        """GraphiQL from files of our own, pre-filled for the meter that the address names."""
        meter_id = request.query_params.get("meter", "")
        queries = _IDE_QUERIES.replace("KEY", str(uuid.uuid4()))
        if is_id(meter_id, "mtr"):
            queries = queries.replace("mtr_", meter_id)
        config = {"token": request.query_params.get("token", ""), "query": queries}
        return HTMLResponse(_IDE_PAGE.replace("{{config}}", html.escape(json.dumps(config))))

    def decode_json(self, data: str | bytes) -> object:
        """JSON that is an object (or a batch, which is refused later). All else is a 400, never a 500 (G1)."""
        try:
            value = json.loads(data)
        except (RecursionError, UnicodeDecodeError) as error:
            raise json.JSONDecodeError("not usable JSON", "", 0) from error
        if not isinstance(value, dict | list):
            raise json.JSONDecodeError("not an object", "", 0)
        return value

    async def _sign_in(self, context: Context, header: str) -> None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticatedError("Use the Bearer scheme.")
        for identify in (operator_sign_in.identify, firebase_sign_in.identify):
            identity = await identify(self._tools, token.strip())
            if identity is not None:
                identity.put_into(context)
                return
        context.customer_id, context.expires_at_s = self._tools.signer.verify_with_expiry(token.strip())


def _language(header: str | None) -> str:
    """The first language that a client names; formatting falls back to English for one that is not known."""
    first = (header or "en").split(",")[0].split(";")[0].strip()
    return first if first.replace("-", "").isalnum() and first.isascii() else "en"
