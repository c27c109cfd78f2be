"""The payload of mutations that register or forget an installation."""

import strawberry

from standpipe.graphql.devices import Device
from standpipe.graphql.errors import UserError


@strawberry.type(description="A device, or why there is none.")
class DevicePayload:
    """Errors as data."""

    device: Device | None = strawberry.field(default=None, description="As it is now, or was when it was removed.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Why there is none.")
