"""A session's tokens on their way out: in a payload for apps, in cookies for browsers."""

import strawberry
from starlette.responses import Response

from standpipe.graphql.context import Context
from standpipe.graphql.cookies import WebCookies
from standpipe.graphql.errors import UserError
from standpipe.households.sessions import Granted


@strawberry.type
class SessionTokens:
    """Fields that all payloads share which hand out tokens. A web session's are in its cookies, never here."""

    token: str | None = strawberry.field(default=None, description="For the Authorization header; null for the web.")
    expires_in_s: int | None = strawberry.field(default=None, description="Seconds until the access token ends.")
    refresh_token: str | None = strawberry.field(
        default=None, description="For sessionRefresh, once: each refresh gives the next. Null for the web."
    )
    refresh_expires_in_s: int | None = strawberry.field(
        default=None, description="Seconds after which the session ends if it is not used."
    )
    session_id: strawberry.ID | None = strawberry.field(default=None, description="The session, as in viewer.sessions.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Why there are no tokens.")


def hand_out(
    context: Context, granted: Granted, payload: SessionTokens, cookies: tuple[WebCookies, Response] | None
) -> None:
    """Put a session's tokens into the payload, or into the cookies alone."""
    signer = context.services.signer
    access = signer.issue(granted.customer_id, session_id=granted.session_id, replaces=granted.replaces)
    payload.session_id = strawberry.ID(granted.session_id)
    payload.expires_in_s, payload.refresh_expires_in_s = signer.ttl_s, granted.expires_in_s
    if cookies is None:
        payload.token, payload.refresh_token = access, granted.refresh_token
        return
    names, response = cookies
    names.put(response, names.access, access, signer.ttl_s)
    names.put(response, names.refresh, granted.refresh_token, granted.expires_in_s)


def clear_cookies(cookies: tuple[WebCookies, Response] | None) -> None:
    """Take a browser's session cookies away; nothing where there are none."""
    if cookies is not None:
        names, response = cookies
        names.clear(response)


def refresh_cookie(context: Context) -> str | None:
    """The refresh token that a browser brought, whether or not it may be used. A header goes before cookies."""
    request = context.request
    if request.scope["type"] != "http" or "authorization" in request.headers:
        return None
    token: str | None = request.cookies.get(WebCookies(context.services.public_url).refresh)
    return token
