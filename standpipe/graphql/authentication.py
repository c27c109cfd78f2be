"""Authentication: a token in the Authorization header (or ``connection_init``), or a browser's cookie, to an identity.

Kinds of tokens are tried by their look, in the order of ``WAYS``: a way to sign in is added there, and nowhere else.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from standpipe.graphql import firebase_sign_in, operator_sign_in
from standpipe.graphql.context import Context, Services
from standpipe.graphql.cookies import WebCookies
from standpipe.graphql.identity import Identity
from standpipe.households.sessions import is_signed_in
from standpipe.households.tokens import AccessToken
from standpipe.platform.database import DATABASE_DOWN, by_statement
from standpipe.platform.errors import ForbiddenError, NotAuthenticatedError, SignInUnavailableError, StandpipeError
from standpipe.platform.language import NOT_AVAILABLE, phrase
from standpipe.platform.notify import LIVE
from standpipe.platform.reconnect import once_more

LOOK_ANYWAY_S = 30.0
"""A notification may be lost with its connection; whether a session lives is asked at least this often."""
ENDING_S = 0.5
"""Time from the end of a sign-in to the close of its connection: subscriptions and a signOut's answer end first."""
SIGNED_OUT_CODE, EXPIRED_CODE = 4401, 4403
"""graphql-ws gives up at 4401; at 4403 it connects again, with a fresh token."""


class UnknownForNowError(StandpipeError):
    """The database that would know who asks does not answer."""

    def __str__(self) -> str:
        return NOT_AVAILABLE


REFUSALS = (NotAuthenticatedError, ForbiddenError, UnknownForNowError, SignInUnavailableError)
"""Errors for which a request is not answered at all."""


async def own_token(services: Services, token: str) -> Identity | None:
    """An access token of ours, whose session must still live; whatever else is left does not verify.

    Raises NotAuthenticatedError.
    """
    read = services.signer.read(token)
    if not await _is_signed_in(services, read):
        raise NotAuthenticatedError(phrase("This sign-in has ended. Sign in again."))
    return Identity(customer_id=read.customer_id, expires_at_s=read.expires_at_s, session_id=read.session_id)


WAYS: Sequence[Callable[[Services, str], Awaitable[Identity | None]]] = (
    operator_sign_in.identify,
    firebase_sign_in.identify,
    own_token,
)
"""Each looks at a token's form, and gives None for what is another's; our own tokens are what is left."""


async def authenticate_request(context: Context) -> None:
    """Find out who asks by HTTP. A header goes before a cookie, and must be good; a cookie that is not counts as none.

    Raises NotAuthenticatedError, ForbiddenError (a cookie from elsewhere), UnknownForNowError.
    """
    header = context.request.headers.get("authorization")
    if header is not None:
        await _sign_in(context, _bearer(header))
    else:
        await _sign_in_by_cookie(context)


async def authenticate_socket(context: Context) -> None:
    """Find out who opens a WebSocket: ``connection_init``'s ``authorization``, the handshake's header or its cookie.

    From here on the connection is closed when the session ends or the token expires. Raises what
    ``authenticate_request`` raises.
    Raises NotAuthenticatedError.
    """
    params = context.connection_params if isinstance(context.connection_params, dict) else {}
    header = params.get("authorization") or params.get("Authorization") or context.request.headers.get("authorization")
    if header is not None:
        await _sign_in(context, _bearer(str(header)))
    else:
        await _sign_in_by_cookie(context)
    if context.customer_id is None:
        # Operators have nothing to listen to, and each request of theirs is to find out whether they still may.
        raise NotAuthenticatedError(phrase("Sign in with connection_init, as a customer."))
    _close_in_time(context)


async def still_signed_in(context: Context) -> bool:
    """Tell whether the customer's session lives on: what goes on for long asks again and again."""
    if context.customer_id is None:
        return True
    return await _is_signed_in(context.services, AccessToken(context.customer_id, 0, context.session_id))


def live_keys(context: Context, *ids: str) -> list[str]:
    """Return the LIVE keys of a subscription to ``ids``: these, and the end of its session and its customer's too."""
    return [*ids, *(key for key in (context.session_id, context.customer_id) if key and key not in ids)]


def refusal(error: StandpipeError, language: str) -> Response:
    """The answer to who may not ask at all; told at once, so that an app knows to sign in again."""
    match error:
        case NotAuthenticatedError():
            status, code, headers = HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", {"WWW-Authenticate": "Bearer"}
        case ForbiddenError():
            status, code, headers = HTTPStatus.FORBIDDEN, "FORBIDDEN", {}
        case SignInUnavailableError():
            status, code, headers = HTTPStatus.SERVICE_UNAVAILABLE, "SIGN_IN_UNAVAILABLE", {"Retry-After": "5"}
        case _:
            status, code, headers = HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", {"Retry-After": "5"}
    extensions = {"code": code} | ({"retryable": True} if "Retry-After" in headers else {})
    body = {"errors": [{"message": error.text_in(language), "extensions": extensions}]}
    return JSONResponse(body, status, headers)


def own_page_cookies(context: Context) -> tuple[WebCookies, Response]:
    """The cookies, and the answer to set them on. Raises ForbiddenError where a request may not have them."""
    cookies, connection = WebCookies(context.services.public_url), context.request
    cookies.check_own_page(connection)
    if not isinstance(context.response, Response):
        raise ForbiddenError(phrase("Cookies are set over HTTP, not over a WebSocket."))
    return cookies, context.response


async def _sign_in(context: Context, token: str) -> None:
    for identify in WAYS:
        try:
            found = await once_more(partial(identify, context.services, token))
        except DATABASE_DOWN as error:
            raise UnknownForNowError from error
        if found is not None:
            found.put_into(context)
            return


async def _sign_in_by_cookie(context: Context) -> None:
    connection: HTTPConnection = context.request
    cookies = WebCookies(context.services.public_url)
    token = connection.cookies.get(cookies.access)
    if not token or _is_navigation(connection):
        return
    cookies.check_own_page(connection)
    # A page cannot take away a cookie that scripts cannot read: one that has ended must not lock it out of signing in.
    with suppress(NotAuthenticatedError):
        await _sign_in(context, token)


def _is_navigation(connection: HTTPConnection) -> bool:
    """Tell whether a person opens an address in a browser: no header is sent then, and the page needs no customer."""
    return connection.scope["type"] == "http" and connection.headers.get("sec-fetch-mode") == "navigate"


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticatedError(phrase("Use the Bearer scheme."))
    return token.strip()


async def _is_signed_in(services: Services, token: AccessToken) -> bool:
    async def ask() -> bool:
        async with by_statement(services.sessions) as conn:
            return await is_signed_in(conn, token)

    try:
        # All that it may write is that the answer with this token arrived: the same twice.
        return await once_more(ask, idempotent=True)
    except DATABASE_DOWN as error:
        raise UnknownForNowError from error


def _close_in_time(context: Context) -> None:
    """Close this connection when its sign-in ends; the watch ends with the connection's own task."""
    connection = asyncio.current_task()
    watch = asyncio.create_task(_watch(context))

    def stop(_done: Any) -> None:
        watch.cancel()

    if connection is not None:
        connection.add_done_callback(stop)


async def _watch(context: Context) -> None:
    socket: WebSocket = context.response
    keys = live_keys(context)
    async with context.services.listener.subscribe(LIVE, *keys) as flag:
        while True:
            left_s = LOOK_ANYWAY_S if context.expires_at_s is None else context.expires_at_s - time.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(left_s, 0), LOOK_ANYWAY_S)):
                    await flag.wait()
            flag.clear()
            if left_s <= 0:
                await _close(socket, EXPIRED_CODE, "The access token has expired.")
                return
            with suppress(UnknownForNowError):
                if not await still_signed_in(context):
                    await _close(socket, SIGNED_OUT_CODE, "Signed out.")
                    return


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    await asyncio.sleep(ENDING_S)
    # It may be closed already, by the client or by an error of its own.
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.close(code, reason)
