"""sessionRefresh: carry a session on."""

from typing import Annotated

import strawberry

from standpipe.graphql.authentication import own_page_cookies
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import expected_failures, invalid
from standpipe.graphql.mutations.session_tokens import SessionTokens, clear_cookies, hand_out, refresh_cookie
from standpipe.households.sessions import Granted, refresh_session
from standpipe.platform.language import phrase

ENDED = phrase("This sign-in has ended. Sign in again.")


@strawberry.input(description="Carry a session on.")
class SessionRefreshInput:
    """Apps name their token; a browser's comes with its cookie."""

    refresh_token: str | None = strawberry.field(
        default=None, description="The newest refresh token. Leave it out where the session is a cookie."
    )


@strawberry.type(description="The next tokens of a session. Any InputError means: sign in again.")
class SessionRefreshPayload(SessionTokens):
    """Errors as data."""


@strawberry.mutation(
    description="Carries a session on: gives the next access and refresh token. Needs no Authorization header. An "
    "answer that was lost may be asked for again with the same token."
)
@expected_failures(SessionRefreshPayload)
async def session_refresh(
    info: Ctx,
    input: Annotated[
        SessionRefreshInput | None, strawberry.argument(description="The token; for the web, nothing.")
    ] = None,
) -> SessionRefreshPayload | None:
    context, payload, cookies = info.context, SessionRefreshPayload(), None
    token = input.refresh_token if input else None
    if token is None and (token := refresh_cookie(context)) is not None:
        cookies = own_page_cookies(context)
    granted = await _refresh(context, token) if token else None
    if granted is None:
        clear_cookies(cookies)
        return SessionRefreshPayload(user_errors=[invalid(ENDED, context.language, "refreshToken")])
    hand_out(context, granted, payload, cookies)
    return payload


async def _refresh(context: Context, token: str) -> Granted | None:
    services = context.services
    async with services.sessions.begin() as conn:
        return await refresh_session(conn, token, lifetimes=services.lifetimes, secret=services.signer.secret)
