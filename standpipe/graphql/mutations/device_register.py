"""deviceRegister: an app's installation can be pushed to."""

import strawberry

from standpipe.graphql.base import LanguageTag
from standpipe.graphql.context import Ctx
from standpipe.graphql.devices import DevicePlatform, device_of
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.mutations.device_payload import DevicePayload
from standpipe.notifications import devices


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


@strawberry.mutation(description="Adds an installation, or refreshes it.")
@expected_failures(DevicePayload)
async def device_register(info: Ctx, input: Input[DeviceRegisterInput]) -> DevicePayload | None:
    services = info.context.services
    customer_id = info.context.require_customer()
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
    async with services.sessions.begin() as conn:
        row = await devices.register(conn, customer_id=customer_id, order=order, now=services.clock.now())
    return DevicePayload(device=device_of(row, info.context.language))
