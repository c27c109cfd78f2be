"""GraphQL over HTTP, server-sent events and WebSocket, and the offline IDE."""

import asyncio
import html
import json
import re
import uuid
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cross_web import AsyncHTTPRequestAdapter, HTTPException, StarletteRequestAdapter
from graphql import GraphQLError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLRequestData
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from standpipe.graphql.authentication import REFUSALS, authenticate_request, authenticate_socket
from standpipe.graphql.authentication import refusal as unanswered
from standpipe.graphql.context import Context, Services
from standpipe.graphql.documents import DocumentError
from standpipe.graphql.errors import UNAVAILABLE
from standpipe.graphql.exchange import EVENTS, JSON, Exchange, answer, negotiate, refusal
from standpipe.graphql.schema import schema
from standpipe.graphql.sockets import Socket
from standpipe.platform.ids import is_id
from standpipe.platform.language import in_language, language_of, phrase
from standpipe.platform.reconnect import attempt

MUTATION_BY_GET = "Send mutations by POST."
INIT_TIMEOUT = timedelta(seconds=5)
MAX_SUBSCRIPTIONS = 20
EXECUTION_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 20.0
"""A client that takes nothing for so long is dropped: what it has not read must not pile up here."""
_IDE_PAGE = (Path(__file__).parent / "graphiql.html").read_text()
_IDE_QUERIES = (Path(__file__).parent / "graphiql.graphql").read_text()
_EXCHANGE = "standpipe.exchange"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Adapter(StarletteRequestAdapter):
    """Strawberry's view of a request, which does not forget whose it is."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.scope = request.scope


class GraphQLView(GraphQL[Context, None]):
    """One endpoint. A bad token is told at once (401), so that an app knows to sign in again."""

    graphql_transport_ws_handler_class = Socket
    request_adapter_class = _Adapter

    def __init__(self, services: Services, *, ide: bool) -> None:
        super().__init__(
            schema,
            graphql_ide="graphiql" if ide else None,
            allow_queries_via_get=True,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL],
            connection_init_wait_timeout=INIT_TIMEOUT,
            max_subscriptions_per_connection=MAX_SUBSCRIPTIONS,
        )
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say in GraphQL's form why there is no answer."""
        send = _impatient(send)
        try:
            if scope["type"] != "http":
                await super().__call__(scope, receive, send)
                return
            await (await self._answer(Request(scope, receive)))(scope, receive, send)
        except TimeoutError:
            # The client has stopped reading; the server closes a connection whose answer ends like this.
            return

    async def _answer(self, request: Request) -> Response:
        media = negotiate(request.headers.get("accept"))
        ide = "text/html" in request.headers.get("accept", "") and request.method == "GET"
        if request.method not in ("GET", "POST"):
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Use GET or POST.", headers={"Allow": "GET, POST"})
        if media is None and not ide:
            return refusal(HTTPStatus.NOT_ACCEPTABLE, "Accept application/graphql-response+json or application/json.")
        return await self._exchange(request, media or JSON)

    async def _exchange(self, request: Request, media: str) -> Response:
        exchange = Exchange(media=media, known_etag=request.headers.get("if-none-match"))
        request.scope[_EXCHANGE] = exchange
        try:
            return await self.run(request)
        except REFUSALS as error:
            return unanswered(error, language_of(request.headers.get("accept-language")))
        except DocumentError as error:
            if error.code == "BAD_REQUEST":
                return refusal(HTTPStatus.BAD_REQUEST, str(error))
            exchange.ran = False
            return answer(exchange, {"errors": [{"message": str(error), "extensions": {"code": error.code}}]})
        except HTTPException as error:
            headers = {"Allow": "POST"} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else None
            return refusal(error.status_code, error.reason, headers=headers)

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        """The context of a request; a WebSocket signs in with its first message instead of a header."""
        context = Context(self.services, None, request=request, response=response)
        context.address = self.services.caller(request)
        context.language = language_of(request.headers.get("accept-language"))
        if isinstance(request, Request):
            await authenticate_request(context)
        if (exchange := request.scope.get(_EXCHANGE)) is not None:
            exchange.signed_in = not context.stranger
        return context

    async def on_ws_connect(self, context: Context) -> Any:
        """``connection_init`` with ``{"authorization": "Bearer …"}``. Raises ConnectionRejectionError."""
        try:
            await authenticate_socket(context)
        except REFUSALS as error:
            raise ConnectionRejectionError({"code": "UNAUTHENTICATED"}) from error
        return await super().on_ws_connect(context)

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        """The parameters of a request, its document found by its id where it has one. Raises HTTPException."""
        if request.method == "GET":
            data = self.parse_query_params(request.query_params)
        else:
            if (request.content_type or "").partition(";")[0].strip().lower() != JSON:
                raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send application/json.")
            data = self.parse_json(await request.get_body())
        if not isinstance(data, dict):
            raise HTTPException(HTTPStatus.BAD_REQUEST, "Send one request, as a JSON object.")
        for name, kind in (("query", str), ("operationName", str), ("variables", dict), ("extensions", dict)):
            if not isinstance(data.get(name), kind | None):
                what = "a string" if kind is str else "an object"
                raise HTTPException(HTTPStatus.BAD_REQUEST, f"`{name}` must be {what} or null.")
        text, by_id = await self.services.documents.text(self.services.sessions, data)
        if not text:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "Send a `query` or a `documentId`.")
        exchange: Exchange = request.scope[_EXCHANGE]  # type: ignore[attr-defined]
        exchange.by_id = by_id and request.method == "GET"
        return GraphQLRequestData(
            query=text,
            variables=data.get("variables"),
            # GET has no null: an empty name is none.
            operation_name=data.get("operationName") or None,
            extensions=data.get("extensions"),
            protocol="sse" if exchange.media == EVENTS else "http",
        )

    async def execute_single(
        self,
        request: Request,  # noqa: ARG002 - the signature is Strawberry's.
        request_adapter: AsyncHTTPRequestAdapter,
        sub_response: Response,  # noqa: ARG002
        context: Context,
        root_value: None,  # noqa: ARG002
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        """Run a query or a mutation, for so long at most. Raises HTTPException where the method does not fit."""
        allowed = {OperationType.QUERY} | ({OperationType.MUTATION} if request_adapter.method == "POST" else set())
        try:
            async with asyncio.timeout(EXECUTION_TIMEOUT_S):
                with attempt() as first:
                    result = await self._execute(context, request_data, allowed)
                if not first.may_have_committed and _is_unavailable(result):
                    context.forget_loaded()
                    result = await self._execute(context, request_data, allowed)
                return result
        except TimeoutError:
            # Whatever was under way is as after a crash: nothing is lost, and asking again is safe.
            late = phrase("This took too long. Please try again.")
            error = GraphQLError(in_language(late, context.language), extensions={"code": "TIMEOUT"})
            return PreExecutionError(data=None, errors=[error])
        except CannotGetOperationTypeError as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, error.as_http_error_reason()) from error
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.MUTATION:
                raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, MUTATION_BY_GET) from error
            message = "Subscribe over a WebSocket, or with `Accept: text/event-stream`."
            raise HTTPException(HTTPStatus.BAD_REQUEST, message) from error

    async def _execute(
        self, context: Context, request_data: GraphQLRequestData, allowed: set[OperationType]
    ) -> ExecutionResult:
        return await self.schema.execute(
            request_data.query,
            variable_values=request_data.variables,
            context_value=context,
            operation_name=request_data.operation_name,
            allowed_operation_types=allowed,
        )

    async def process_result(self, request: Request, result: ExecutionResult) -> Any:
        """The body of an answer; one whose operation never ran has no ``data``."""
        body: dict[str, Any] = {"data": result.data}
        if result.errors:
            body = {"errors": [error.formatted for error in result.errors]} | body
        if result.extensions:
            body["extensions"] = result.extensions
        exchange: Exchange = request.scope[_EXCHANGE]
        # Variables that do not fit are found only by execution; no field was begun where no error has a path.
        unfit = result.data is None and bool(result.errors) and all(error.path is None for error in result.errors or ())
        exchange.ran = not isinstance(result, PreExecutionError) and not unfit
        if not exchange.ran:
            del body["data"]
        return body

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        """Make the response on which resolvers put headers and cookies; it knows the exchange that it belongs to."""
        response = await super().get_sub_response(request)
        response.exchange = request.scope[_EXCHANGE]  # type: ignore[attr-defined]
        return response

    def create_response(self, response_data: Any, sub_response: Response) -> Response:
        """The answer by its media type, with what resolvers added."""
        response = answer(sub_response.exchange, response_data)  # type: ignore[attr-defined]
        response.headers.raw.extend(sub_response.headers.raw)
        return response

    def should_render_graphql_ide(self, request: Any) -> bool:
        """A browser's address bar asks for HTML, and names no document."""
        asked = {"query", "documentId", "extensions"} & set(request.query_params)
        return request.method == "GET" and not asked and "text/html" in request.headers.get("accept", "")

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
            if _SURROGATE.search(data if isinstance(data, str) else data.decode()):
                # Half a surrogate pair is no text: nothing can store it, and no answer can repeat it.
                json.dumps(value, ensure_ascii=False).encode()
        except (RecursionError, ValueError) as error:
            raise json.JSONDecodeError("not usable JSON", "", 0) from error
        if not isinstance(value, dict | list):
            raise json.JSONDecodeError("not an object", "", 0)
        return value


def _is_unavailable(result: ExecutionResult) -> bool:
    return any((error.extensions or {}).get("code") == UNAVAILABLE for error in result.errors or ())


def _impatient(send: Send) -> Send:
    async def sent(message: Message) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await send(message)

    return sent
