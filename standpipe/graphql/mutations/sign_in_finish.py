"""signInFinish: exchange a one-time code for a session."""

from typing import Annotated

import strawberry

from standpipe.graphql.authentication import own_page_cookies
from standpipe.graphql.base import PhoneNumber
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import expected_failures, invalid
from standpipe.graphql.mutations.session_tokens import SessionTokens, hand_out
from standpipe.graphql.sessions import asker_of
from standpipe.households import sign_in
from standpipe.households.sessions import Granted, SessionKind, begin_session, read_label
from standpipe.platform.language import phrase

WRONG_CODE = phrase("The code is wrong or has expired. Ask for a new one.")


@strawberry.input(description="Exchange a one-time code for a session.")
class SignInFinishInput:
    """The number and the code that it received."""

    phone: PhoneNumber = strawberry.field(description="The number that the code was sent to.")
    code: str = strawberry.field(description="The code, as it stands in the text.")
    web: bool = strawberry.field(
        default=False, description="For pages of this origin: the session becomes cookies that scripts cannot read."
    )
    label: str = strawberry.field(
        default="", description='What the customer will know this sign-in by, such as "Amina\'s phone".'
    )


@strawberry.type(description="A session's tokens, or why there are none.")
class SignInFinishPayload(SessionTokens):
    """Errors as data."""


@strawberry.mutation(description="Exchanges the code for a session; a first sign-in opens the account.")
@expected_failures(SignInFinishPayload)
async def sign_in_finish(
    info: Ctx, input: Annotated[SignInFinishInput, strawberry.argument(description="Number and code.")]
) -> SignInFinishPayload | None:
    context, payload = info.context, SignInFinishPayload()
    cookies = own_page_cookies(context) if input.web else None
    granted = await _begin(context, input)
    if granted is None:
        return SignInFinishPayload(user_errors=[invalid(WRONG_CODE, context.language, "code", retryable=True)])
    hand_out(context, granted, payload, cookies)
    return payload


async def _begin(context: Context, wanted: SignInFinishInput) -> Granted | None:
    """A session for the right code; None for a wrong one, which counts as a try."""
    services, asker, label = context.services, asker_of(context, wanted.phone), read_label(wanted.label)
    async with services.sessions.begin() as conn:
        customer_id = await sign_in.finish(
            conn, asker, code=wanted.code, limits=services.code_limits, secret=services.signer.secret
        )
        if customer_id is None:
            return None
        kind = SessionKind.WEB if wanted.web else SessionKind.APP
        return await begin_session(conn, customer_id=customer_id, kind=kind, label=label, lifetimes=services.lifetimes)
