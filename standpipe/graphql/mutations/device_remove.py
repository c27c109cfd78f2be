"""deviceRemove: an installation is forgotten."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.devices import device_of
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.mutations.device_payload import DevicePayload
from standpipe.notifications import devices
from standpipe.platform.errors import NotFoundError


@strawberry.input(description="Forget an installation.")
class DeviceRemoveInput:
    """The device to remove."""

    installation_id: strawberry.ID = strawberry.field(description="The app's own name for it.")


@strawberry.mutation(description="Forgets an installation; what still waits for it is not sent.")
@expected_failures(DevicePayload)
async def device_remove(info: Ctx, input: Input[DeviceRemoveInput]) -> DevicePayload | None:
    customer_id = info.context.require_customer()
    async with info.context.services.sessions.begin() as conn:
        row = await devices.remove(conn, customer_id=customer_id, installation_id=str(input.installation_id))
    if row is None:
        raise NotFoundError("No such device.")
    return DevicePayload(device=device_of(row, info.context.language))
