"""Mutations. Payloads are nullable and carry expected failures as data."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import strawberry

from standpipe.customers import sign_in
from standpipe.errors import InvalidInputError, NotAuthenticatedError, NotFoundError, StandpipeError
from standpipe.graphql.base import LanguageTag, MoneyInput, Node, PhoneNumber, Url
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import InputError, UserError, UserErrorCode, user_error
from standpipe.graphql.money_mutations import MoneyMutation, TopUpPayload
from standpipe.graphql.operators import OperatorMutation
from standpipe.graphql.quotes import agreed_of, quote_error
from standpipe.graphql.top_ups import top_up_of
from standpipe.ids import is_id
from standpipe.notifications import devices
from standpipe.notifications.models import Device as DeviceRow
from standpipe.notifications.sms import SmsNotSentError, send_sms
from standpipe.payments import top_ups
from standpipe.payments.top_ups import TopUpOrder
from standpipe.units import is_storable, to_minor

MAX_URL = 2_048


@strawberry.input(description="Ask for a one-time code.")
class SignInStartInput:
    """Where to send it."""

    phone: PhoneNumber


@strawberry.type(description="Whether a code is on its way. The answer is the same for known and unknown numbers.")
class SignInStartPayload:
    """Errors as data."""

    sent: bool
    user_errors: list[UserError]


@strawberry.input(description="Exchange a one-time code for a token.")
class SignInFinishInput:
    """The number and the code that it received."""

    phone: PhoneNumber
    code: str


@strawberry.type(description="A token for the Authorization header, or why there is none.")
class SignInFinishPayload:
    """Errors as data."""

    token: str | None
    expires_in_s: int | None
    user_errors: list[UserError]


@strawberry.input(
    description="idempotencyKey: a UUID made when the screen opens; same key and input replays the first answer."
)
class TopUpStartInput:
    """What to pay for which meter, and how."""

    idempotency_key: strawberry.ID
    meter_id: strawberry.ID
    pay: MoneyInput
    method_id: strawberry.ID
    phone: PhoneNumber | None = strawberry.field(
        default=None, description="Who pays, where the method rings a phone; without it, the customer's own number."
    )
    return_url: Url | None = None
    quote_id: strawberry.ID | None = strawberry.field(
        default=None, description="A quote for this amount and method: the top-up gives exactly it, or QUOTE_CHANGED."
    )


@strawberry.input(description="Stop a top-up that was not paid.")
class TopUpCancelInput:
    """Which."""

    top_up_id: strawberry.ID


@strawberry.enum(description="What the app runs on.")
class DevicePlatform(StrEnum):
    """Platforms."""

    ANDROID = "ANDROID"
    IOS = "IOS"
    WEB = "WEB"


@strawberry.input(one_of=True, description="Where to push to.")
class PushAddress:
    """Exactly one: the Firebase installation id, or the older registration token."""

    fcm_fid: str | None = strawberry.UNSET
    fcm_token: str | None = strawberry.UNSET


@strawberry.input(description="Register the app's installation for pushes; again refreshes it.")
class DeviceRegisterInput:
    """An installation."""

    installation_id: strawberry.ID
    platform: DevicePlatform
    push: PushAddress
    app_version: str
    language: LanguageTag
    time_zone: str


@strawberry.input(description="Forget an installation.")
class DeviceRemoveInput:
    """Which."""

    installation_id: strawberry.ID


@strawberry.type(description="An app installation.")
class Device(Node):
    """What is known of it."""

    platform: DevicePlatform
    last_seen_at: datetime
    push_healthy: bool


@strawberry.type(description="A device, or why there is none.")
class DevicePayload:
    """Errors as data."""

    device: Device | None
    user_errors: list[UserError]


@strawberry.type
class Mutation(MoneyMutation, OperatorMutation):
    """Where changing starts."""

    @strawberry.mutation(description="Development sign-in: sends a one-time code by text.")
    async def sign_in_start(self, info: Ctx, input: SignInStartInput) -> SignInStartPayload | None:
        try:
            await _send_code(info, input.phone)
        except StandpipeError as error:
            return SignInStartPayload(sent=False, user_errors=[user_error(error, info.context.language)])
        return SignInStartPayload(sent=True, user_errors=[])

    @strawberry.mutation(description="Exchanges the code for a short-lived token.")
    async def sign_in_finish(self, info: Ctx, input: SignInFinishInput) -> SignInFinishPayload | None:
        tools = info.context.tools
        try:
            phone = sign_in.normalise_phone(input.phone, tools.sms_countries)
            async with tools.sessions.begin() as session:
                customer_id = await sign_in.finish(session, phone=phone, code=input.code, secret=tools.signer.secret)
        except (InvalidInputError, NotAuthenticatedError):
            customer_id = None
        if customer_id is None:
            message = "The code is wrong or has expired. Ask for a new one."
            wrong = InputError(code=UserErrorCode.INVALID, message=message, field=["code"], retryable=True)
            return SignInFinishPayload(token=None, expires_in_s=None, user_errors=[wrong])
        token = tools.signer.issue(customer_id)
        return SignInFinishPayload(token=token, expires_in_s=tools.signer.ttl_s, user_errors=[])

    @strawberry.mutation(description="Begins a top-up; follow nextAction to pay.")
    async def top_up_start(self, info: Ctx, input: TopUpStartInput) -> TopUpPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            top_up_id, replayed = await top_ups.start(
                context.tools.sessions,
                context.tools.providers,
                context.tools.clock,
                customer_id=customer_id,
                idempotency_key=str(input.idempotency_key),
                order=(order := _order(input)),
                agree=lambda: _agreed(context, order),
            )
        except StandpipeError as error:
            return TopUpPayload(top_up=None, replayed=False, user_errors=[quote_error(error, context.language)])
        return await _payload(info, top_up_id, replayed=replayed)

    @strawberry.mutation(description="Stops a top-up that was not paid; one paid meanwhile is settled instead.")
    async def top_up_cancel(self, info: Ctx, input: TopUpCancelInput) -> TopUpPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            if not is_id(input.top_up_id, "top"):
                raise NotFoundError("No such top-up.")
            await top_ups.cancel(
                context.tools.sessions,
                context.tools.providers,
                context.tools.clock,
                customer_id=customer_id,
                top_up_id=str(input.top_up_id),
            )
        except StandpipeError as error:
            return TopUpPayload(top_up=None, replayed=False, user_errors=[user_error(error, context.language)])
        return await _payload(info, str(input.top_up_id), replayed=False)

    @strawberry.mutation
    async def device_register(self, info: Ctx, input: DeviceRegisterInput) -> DevicePayload | None:
        context = info.context
        customer_id = context.require_customer()
        order = devices.DeviceOrder(
            installation_id=str(input.installation_id),
            platform=input.platform.value,
            fcm_token=input.push.fcm_token or None,
            fcm_fid=input.push.fcm_fid or None,
            language=input.language,
            time_zone=input.time_zone,
            app_version=input.app_version,
        )
        try:
            async with context.tools.sessions.begin() as session:
                row = await devices.register(
                    session, customer_id=customer_id, order=order, now=context.tools.clock.now()
                )
        except StandpipeError as error:
            return DevicePayload(device=None, user_errors=[user_error(error, context.language)])
        return DevicePayload(device=_device(row), user_errors=[])

    @strawberry.mutation
    async def device_remove(self, info: Ctx, input: DeviceRemoveInput) -> DevicePayload | None:
        context = info.context
        customer_id = context.require_customer()
        async with context.tools.sessions.begin() as session:
            row = await devices.remove(session, customer_id=customer_id, installation_id=str(input.installation_id))
        if row is None:
            missing = user_error(NotFoundError("No such device."), context.language)
            return DevicePayload(device=None, user_errors=[missing])
        return DevicePayload(device=_device(row), user_errors=[])


async def _send_code(info: Ctx, phone_text: str) -> None:
    tools = info.context.tools
    if tools.sms_url is None:
        raise InvalidInputError("Sign-in by phone is not set up on this server.", ("phone",))
    phone = sign_in.normalise_phone(phone_text, tools.sms_countries)
    async with tools.sessions.begin() as session:
        code = await sign_in.start(session, phone=phone, secret=tools.signer.secret)
    try:
        await send_sms(tools.http, tools.sms_url, phone=phone, text=f"Your Standpipe code is {code}.")
    except SmsNotSentError as error:
        raise InvalidInputError("The text could not be sent. Please try again shortly.", ("phone",)) from error


def _order(wanted: TopUpStartInput) -> TopUpOrder:
    if wanted.return_url is not None and not _web_address(wanted.return_url):
        raise InvalidInputError("The return address must be an http(s) or app address.", ("returnUrl",))
    if not is_id(wanted.meter_id, "mtr"):
        raise NotFoundError("No such meter.")
    return TopUpOrder(
        meter_id=str(wanted.meter_id),
        pay_minor=to_minor(wanted.pay.amount, wanted.pay.currency),
        currency=wanted.pay.currency,
        method_id=str(wanted.method_id),
        return_url=wanted.return_url,
        phone=None if wanted.phone is None else sign_in.normalise_phone(wanted.phone, []),
        quote_id=None if wanted.quote_id is None else str(wanted.quote_id),
    )


async def _agreed(context: Context, order: TopUpOrder) -> Mapping[str, int] | None:
    """What the customer was quoted for this order, if it was ordered by a quote."""
    if order.quote_id is None:
        return None
    view = await context.meters.load(order.meter_id)
    if view is None:
        raise NotFoundError("No such meter.")
    return agreed_of(context, view, order.pay_minor, order.method_id, order.quote_id)


def _web_address(url: str) -> bool:
    scheme, _, rest = url.partition("://")
    return (
        len(url) <= MAX_URL and bool(rest) and scheme.replace("-", "").replace(".", "").isalnum() and is_storable(url)
    )


async def _payload(info: Ctx, top_up_id: str, *, replayed: bool) -> TopUpPayload:
    view = await info.context.top_ups.load(top_up_id)
    return TopUpPayload(top_up=top_up_of(view), replayed=replayed, user_errors=[])


def _device(row: DeviceRow) -> Device:
    return Device(
        id=strawberry.ID(row.id),
        platform=DevicePlatform(row.platform),
        last_seen_at=row.last_seen_at,
        push_healthy=row.healthy,
    )
