"""The customer's own sign-in: a code by text, then a session: tokens in an app's keeping, or a browser's cookies."""

from datetime import datetime
from enum import Enum
from typing import Annotated

import strawberry
from starlette.responses import Response

from standpipe.customers import sign_in
from standpipe.customers.sessions import (
    EndReason,
    Granted,
    SessionKind,
    SessionView,
    begin_session,
    end_session,
    end_session_of_token,
    end_sessions,
    read_label,
    refresh_session,
    sessions_of,
)
from standpipe.customers.sign_in import Asker
from standpipe.graphql.base import PhoneNumber
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.cookies import WebCookies
from standpipe.graphql.errors import InputError, UserError, UserErrorCode, user_error
from standpipe.graphql.who import own_page_cookies
from standpipe.notifications.sms import SmsNotSentError, send_sms
from standpipe.platform.errors import InvalidInputError, NotFoundError, StandpipeError
from standpipe.platform.ids import is_id
from standpipe.platform.language import in_language, phrase

WRONG_CODE = phrase("The code is wrong or has expired. Ask for a new one.")
ENDED = "This sign-in has ended. Sign in again."


@strawberry.enum(name="SessionKind", description="Who keeps a session's tokens.")
class Keeper(Enum):
    """As ``SessionKind``, with words for the schema."""

    APP = strawberry.enum_value("APP", description="An app: tokens in its own keeping.")
    WEB = strawberry.enum_value("WEB", description="A browser: cookies that scripts cannot read.")


@strawberry.input(description="Ask for a one-time code.")
class SignInStartInput:
    """Where to send it."""

    phone: PhoneNumber = strawberry.field(description="The customer's number, with its country code.")


@strawberry.type(description="Whether a code is on its way. The answer is the same for known and unknown numbers.")
class SignInStartPayload:
    """Errors as data."""

    sent: bool = strawberry.field(description="True where the text has been handed over.")
    user_errors: list[UserError] = strawberry.field(description="RateLimited says when to come back.")


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


@strawberry.type
class SessionTokens:
    """What the payloads that hand out tokens have in common. A web session's are in its cookies, never here."""

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


@strawberry.type(description="A session's tokens, or why there are none.")
class SignInFinishPayload(SessionTokens):
    """Errors as data."""


@strawberry.input(description="Carry a session on.")
class SessionRefreshInput:
    """Apps name their token; a browser's comes with its cookie."""

    refresh_token: str | None = strawberry.field(
        default=None, description="The newest refresh token. Leave it out where the session is a cookie."
    )


@strawberry.type(description="The next tokens of a session. Any InputError means: sign in again.")
class SessionRefreshPayload(SessionTokens):
    """Errors as data."""


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

    signed_out: bool = strawberry.field(description="True where a session has ended, now or before.")
    user_errors: list[UserError] = strawberry.field(description="Why none has.")


@strawberry.type(description="How many sessions have ended.")
class SignOutEverywherePayload:
    """Errors as data."""

    ended: int = strawberry.field(description="Sessions that lived until now, this one among them.")
    user_errors: list[UserError] = strawberry.field(description="Why none has.")


@strawberry.type(description="A sign-in that lives.")
class Session:
    """As the customer sees it."""

    id: strawberry.ID = strawberry.field(description="For signOut.")
    kind: Keeper = strawberry.field(description="An app's or a browser's.")
    label: str = strawberry.field(description="As given at sign-in; may be empty.")
    created_at: datetime = strawberry.field(description="When it began.")
    last_used_at: datetime = strawberry.field(description="When it was last carried on, to some minutes.")
    current: bool = strawberry.field(description="Whether it is the session that asks.")


async def load_sessions(info: Ctx) -> list[Session]:
    """The viewer's sessions."""
    context = info.context
    async with context.tools.sessions() as session:
        views = await sessions_of(session, context.require_customer())
    return [_session(view, context.session_id) for view in views]


@strawberry.type
class SignInMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="Sends a one-time code by text.")
    async def sign_in_start(
        self, info: Ctx, input: Annotated[SignInStartInput, strawberry.argument(description="Whose code.")]
    ) -> SignInStartPayload | None:
        try:
            await _send_code(info.context, input.phone)
        except StandpipeError as error:
            return SignInStartPayload(sent=False, user_errors=[user_error(error, info.context.language)])
        return SignInStartPayload(sent=True, user_errors=[])

    @strawberry.mutation(description="Exchanges the code for a session; a first sign-in opens the account.")
    async def sign_in_finish(
        self, info: Ctx, input: Annotated[SignInFinishInput, strawberry.argument(description="Number and code.")]
    ) -> SignInFinishPayload | None:
        context, payload = info.context, SignInFinishPayload()
        try:
            cookies = own_page_cookies(context) if input.web else None
            granted = await _begin(context, input)
        except StandpipeError as error:
            return SignInFinishPayload(user_errors=[user_error(error, context.language)])
        if granted is None:
            return SignInFinishPayload(user_errors=[_invalid(WRONG_CODE, "code", retryable=True)])
        _hand_out(context, granted, payload, cookies)
        return payload

    @strawberry.mutation(
        description="Carries a session on: gives the next access and refresh token. Needs no Authorization header. An "
        "answer that was lost may be asked for again with the same token."
    )
    async def session_refresh(
        self,
        info: Ctx,
        input: Annotated[
            SessionRefreshInput | None, strawberry.argument(description="The token; for the web, nothing.")
        ] = None,
    ) -> SessionRefreshPayload | None:
        context, payload, cookies = info.context, SessionRefreshPayload(), None
        token = input.refresh_token if input else None
        try:
            if token is None and (token := _refresh_cookie(context)) is not None:
                cookies = own_page_cookies(context)
        except StandpipeError as error:
            return SessionRefreshPayload(user_errors=[user_error(error, context.language)])
        granted = await _refresh(context, token) if token else None
        if granted is None:
            _clear(cookies)
            return SessionRefreshPayload(user_errors=[_invalid(ENDED, "refreshToken")])
        _hand_out(context, granted, payload, cookies)
        return payload

    @strawberry.mutation(
        description="Ends a session, with its tokens and its live connections: the one that asks, or the one named."
    )
    async def sign_out(
        self,
        info: Ctx,
        input: Annotated[
            SignOutInput | None, strawberry.argument(description="Without it, the session that asks.")
        ] = None,
    ) -> SignOutPayload | None:
        context = info.context
        try:
            cookies = own_page_cookies(context) if _refresh_cookie(context) is not None and input is None else None
            await _sign_out(context, input)
        except StandpipeError as error:
            return SignOutPayload(signed_out=False, user_errors=[user_error(error, context.language)])
        _clear(cookies)
        return SignOutPayload(signed_out=True, user_errors=[])

    @strawberry.mutation(description="Ends all of the viewer's sessions, this one too.")
    async def sign_out_everywhere(self, info: Ctx) -> SignOutEverywherePayload | None:
        context = info.context
        customer_id = context.require_customer()
        async with context.tools.sessions.begin() as session:
            ended = await end_sessions(session, customer_id, EndReason.SIGNED_OUT_EVERYWHERE)
        return SignOutEverywherePayload(ended=ended, user_errors=[])


async def _send_code(context: Context, phone_text: str) -> None:
    tools = context.tools
    if tools.sms_url is None:
        raise InvalidInputError("Sign-in by phone is not set up on this server.", ("phone",))
    asker = _asker(context, phone_text)
    async with tools.sessions.begin() as session:
        code = await sign_in.start(session, asker, limits=tools.code_limits, secret=tools.signer.secret)
    text = in_language(phrase("Your Standpipe code is {code}.", code=code), context.language)
    try:
        await send_sms(tools.http, tools.sms_url, phone=asker.phone, text=text)
    except SmsNotSentError as error:
        raise InvalidInputError("The text could not be sent. Please try again shortly.", ("phone",)) from error


async def _begin(context: Context, wanted: SignInFinishInput) -> Granted | None:
    """A session for the right code; None for a wrong one, which counts as a try."""
    tools, asker, label = context.tools, _asker(context, wanted.phone), read_label(wanted.label)
    async with tools.sessions.begin() as session:
        customer_id = await sign_in.finish(
            session, asker, code=wanted.code, limits=tools.code_limits, secret=tools.signer.secret
        )
        if customer_id is None:
            return None
        kind = SessionKind.WEB if wanted.web else SessionKind.APP
        return await begin_session(session, customer_id=customer_id, kind=kind, label=label, lifetimes=tools.lifetimes)


async def _refresh(context: Context, token: str) -> Granted | None:
    tools = context.tools
    async with tools.sessions.begin() as session:
        return await refresh_session(session, token, lifetimes=tools.lifetimes, secret=tools.signer.secret)


async def _sign_out(context: Context, wanted: SignOutInput | None) -> None:
    """End the session named, or the one that asks. Raises NotFoundError, InvalidInputError where there is none."""
    token = (wanted.refresh_token or None) if wanted else None
    session_id = (wanted.session_id or None) if wanted else context.session_id
    if wanted is None and session_id is None:
        token = _refresh_cookie(context)
    async with context.tools.sessions.begin() as session:
        if token is not None:
            # Unknown or ended before: either way it works no more, and nobody learns which.
            await end_session_of_token(session, token)
        elif session_id is not None:
            customer_id = context.require_customer()
            if not is_id(session_id, "ses"):
                raise NotFoundError("No such session.")
            await end_session(session, customer_id=customer_id, session_id=str(session_id))
        else:
            raise InvalidInputError("This token belongs to no session of ours: forget it in the app.")


def _hand_out(
    context: Context, granted: Granted, payload: SessionTokens, cookies: tuple[WebCookies, Response] | None
) -> None:
    """The tokens of a session: in the payload, or in the cookies alone."""
    signer = context.tools.signer
    access = signer.issue(granted.customer_id, session_id=granted.session_id, replaces=granted.replaces)
    payload.session_id = strawberry.ID(granted.session_id)
    payload.expires_in_s, payload.refresh_expires_in_s = signer.ttl_s, granted.expires_in_s
    if cookies is None:
        payload.token, payload.refresh_token = access, granted.refresh_token
        return
    names, response = cookies
    names.put(response, names.access, access, signer.ttl_s)
    names.put(response, names.refresh, granted.refresh_token, granted.expires_in_s)


def _clear(cookies: tuple[WebCookies, Response] | None) -> None:
    if cookies is not None:
        names, response = cookies
        names.clear(response)


def _refresh_cookie(context: Context) -> str | None:
    """The refresh token that a browser brought, whether or not it may be used. A header goes before cookies."""
    request = context.request
    if request.scope["type"] != "http" or "authorization" in request.headers:
        return None
    token: str | None = request.cookies.get(WebCookies(context.tools.public_url).refresh)
    return token


def _asker(context: Context, phone: str) -> Asker:
    tools = context.tools
    return Asker(sign_in.normalise_phone(phone, tools.sms_countries), tools.caller(context.request))


def _session(view: SessionView, current_id: str | None) -> Session:
    return Session(
        id=strawberry.ID(view.id),
        kind=Keeper[view.kind.name],
        label=view.label,
        created_at=view.created_at,
        last_used_at=view.last_used_at,
        current=view.id == current_id,
    )


def _invalid(message: str, *field: str, retryable: bool = False) -> InputError:
    return InputError(code=UserErrorCode.INVALID, message=message, field=list(field) or None, retryable=retryable)
