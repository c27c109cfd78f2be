"""Devices as the app sees them: installations that can be pushed to."""

from datetime import datetime
from enum import Enum

import strawberry

from standpipe.graphql.base import LanguageTag, Node
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import UserError, user_error
from standpipe.notifications import devices
from standpipe.notifications.models import Device as DeviceRow
from standpipe.platform.errors import NotFoundError, StandpipeError
from standpipe.platform.ids import is_id


@strawberry.enum(description="What the app runs on.")
class DevicePlatform(Enum):
    """Platforms."""

    ANDROID = strawberry.enum_value("ANDROID", description="An Android phone or tablet.")
    IOS = strawberry.enum_value("IOS", description="An iPhone or iPad.")
    WEB = strawberry.enum_value("WEB", description="A browser.")


_LABELS = {"ANDROID": "Android", "IOS": "iPhone or iPad", "WEB": "Browser"}


@strawberry.input(one_of=True, description="Where to push to.")
class PushAddress:
    """Exactly one: the Firebase installation id, or the older registration token."""

    fcm_fid: str | None = strawberry.field(default=strawberry.UNSET, description="Firebase installation id.")
    fcm_token: str | None = strawberry.field(default=strawberry.UNSET, description="FCM registration token.")


@strawberry.input(description="Register the app's installation for pushes; again refreshes it.")
class DeviceRegisterInput:
    """An installation."""

    installation_id: strawberry.ID = strawberry.field(description="The app's own name for this installation.")
    platform: DevicePlatform = strawberry.field(description="What the app runs on.")
    push: PushAddress = strawberry.field(description="Where to push to.")
    app_version: str = strawberry.field(description="The app's version.")
    language: LanguageTag = strawberry.field(description="What pushes to this device speak.")
    time_zone: str = strawberry.field(description="The device's, by its IANA name.")
    label: str | None = strawberry.field(
        default=None, description="What the customer calls it, such as the phone's model. Without it, what it was."
    )


@strawberry.input(description="Forget an installation.")
class DeviceRemoveInput:
    """Which."""

    installation_id: strawberry.ID = strawberry.field(description="The app's own name for it.")


@strawberry.type(description="An app installation.")
class Device(Node):
    """What is known of it."""

    platform: DevicePlatform = strawberry.field(description="What the app runs on.")
    label: str = strawberry.field(description="What the customer calls it; else what kind of device it is.")
    app_version: str = strawberry.field(description="As the app last said.")
    last_seen_at: datetime = strawberry.field(description="When it last registered.")
    push_healthy: bool = strawberry.field(
        description="Whether it has an address that pushes reach, as far as is known."
    )


@strawberry.type(description="A device, or why there is none.")
class DevicePayload:
    """Errors as data."""

    device: Device | None = strawberry.field(description="As it is now, or was when it was removed.")
    user_errors: list[UserError] = strawberry.field(description="Why there is none.")


@strawberry.type
class DeviceMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="Adds an installation, or refreshes it.")
    async def device_register(self, info: Ctx, input: DeviceRegisterInput) -> DevicePayload | None:
        context = info.context
        customer_id = context.require_customer()
        order = devices.DeviceOrder(
            installation_id=str(input.installation_id),
            platform=input.platform.name,
            fcm_token=input.push.fcm_token or None,
            fcm_fid=input.push.fcm_fid or None,
            language=input.language,
            time_zone=input.time_zone,
            app_version=input.app_version,
            label=input.label or "",
        )
        try:
            async with context.tools.sessions.begin() as session:
                row = await devices.register(
                    session, customer_id=customer_id, order=order, now=context.tools.clock.now()
                )
        except StandpipeError as error:
            return DevicePayload(device=None, user_errors=[user_error(error, context.language)])
        return DevicePayload(device=_device(row), user_errors=[])

    @strawberry.mutation(description="Forgets an installation; what still waits for it is not sent.")
    async def device_remove(self, info: Ctx, input: DeviceRemoveInput) -> DevicePayload | None:
        context = info.context
        customer_id = context.require_customer()
        async with context.tools.sessions.begin() as session:
            row = await devices.remove(session, customer_id=customer_id, installation_id=str(input.installation_id))
        if row is None:
            missing = user_error(NotFoundError("No such device."), context.language)
            return DevicePayload(device=None, user_errors=[missing])
        return DevicePayload(device=_device(row), user_errors=[])


async def load_devices(context: Context) -> list[Device]:
    """The customer's devices, those seen last first."""
    async with context.tools.sessions() as session:
        rows = await devices.devices_of(session, context.require_customer())
    return [_device(row) for row in rows]


async def load_device(context: Context, device_id: str) -> Device | None:
    """The device, if it is this customer's; None for every other id, existing or not."""
    if not is_id(device_id, "dev"):
        return None
    return next((device for device in await load_devices(context) if device.id == device_id), None)


def _device(row: DeviceRow) -> Device:
    return Device(
        id=strawberry.ID(row.id),
        platform=DevicePlatform[row.platform],
        label=row.label or _LABELS[row.platform],
        app_version=row.app_version,
        last_seen_at=row.last_seen_at,
        push_healthy=row.healthy,
    )
