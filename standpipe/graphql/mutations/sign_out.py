"""signOut: end one session."""

from typing import Annotated

import strawberry

from standpipe.graphql.authentication import own_page_cookies
from standpipe.graphql.base import known_id
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.mutations.session_tokens import clear_cookies, refresh_cookie
from standpipe.households.sessions import end_session, end_session_of_token
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase


@strawberry.input(one_of=True, description="Which session to end, where it is not the one that asks.")
class SignOutInput:
    """Exactly one."""

    refresh_token: str | None = strawberry.field(
        default=strawberry.UNSET, description="The session of this token: for an app whose access token has expired."
    )
    session_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Another of viewer.sessions."
    )


@strawberry.type(description="Whether a session has ended.")
class SignOutPayload:
    """Errors as data."""

    signed_out: bool = strawberry.field(default=False, description="True where a session has ended, now or before.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Why none has.")


@strawberry.mutation(
    description="Ends a session, with its tokens and its live connections: the one that asks, or the one named."
)
@expected_failures(SignOutPayload)
async def sign_out(
    info: Ctx,
    input: Annotated[SignOutInput | None, strawberry.argument(description="Without it, the session that asks.")] = None,
) -> SignOutPayload | None:
    context = info.context
    cookies = own_page_cookies(context) if refresh_cookie(context) is not None and input is None else None
    await _sign_out(context, input)
    clear_cookies(cookies)
    return SignOutPayload(signed_out=True)


async def _sign_out(context: Context, wanted: SignOutInput | None) -> None:
    """End the session named, or the one that asks. Raises NotFoundError, InvalidInputError where there is none."""
    token = (wanted.refresh_token or None) if wanted else None
    session_id = (wanted.session_id or None) if wanted else context.session_id
    if wanted is None and session_id is None:
        token = refresh_cookie(context)
    async with context.services.sessions.begin() as conn:
        if token is not None:
            # Unknown or ended before: either way it works no more, and nobody learns which.
            await end_session_of_token(conn, token)
        elif session_id is not None:
            customer_id = context.require_customer()
            known = known_id(session_id, "ses", "No such session.")
            await end_session(conn, customer_id=customer_id, session_id=known)
        else:
            raise InvalidInputError(phrase("This token belongs to no session of ours: forget it in the app."))
