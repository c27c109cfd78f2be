"""signInStart: send a one-time code by text."""

from typing import Annotated

import strawberry

from standpipe.graphql.base import PhoneNumber
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.sessions import asker_of
from standpipe.households import sign_in
from standpipe.notifications.sms import SmsNotSentError, send_sms
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import in_language, phrase


@strawberry.input(description="Ask for a one-time code.")
class SignInStartInput:
    """The number to send a code to."""

    phone: PhoneNumber = strawberry.field(description="The customer's number, with its country code.")


@strawberry.type(description="Whether a code is on its way. The answer is the same for known and unknown numbers.")
class SignInStartPayload:
    """Errors as data."""

    sent: bool = strawberry.field(default=False, description="True where the text has been handed over.")
    user_errors: list[UserError] = strawberry.field(
        default_factory=list, description="RateLimited says when to come back."
    )


@strawberry.mutation(description="Sends a one-time code by text.")
@expected_failures(SignInStartPayload)
async def sign_in_start(
    info: Ctx, input: Annotated[SignInStartInput, strawberry.argument(description="Whose code.")]
) -> SignInStartPayload | None:
    services = info.context.services
    if services.sms_url is None:
        raise InvalidInputError(phrase("Sign-in by phone is not set up on this server."), ("phone",))
    asker = asker_of(info.context, input.phone)
    async with services.sessions.begin() as conn:
        code = await sign_in.start(conn, asker, limits=services.code_limits, secret=services.signer.secret)
    text = in_language(phrase("Your Standpipe code is {code}.", code=code), info.context.language)
    try:
        await send_sms(services.http, services.sms_url, phone=asker.phone, text=text)
    except SmsNotSentError as error:
        raise InvalidInputError(phrase("The text could not be sent. Please try again shortly."), ("phone",)) from error
    return SignInStartPayload(sent=True)
