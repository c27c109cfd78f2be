"""Devices as the app sees them: installations that can be pushed to."""

from datetime import datetime
from enum import Enum

import strawberry

from standpipe.graphql.base import Node
from standpipe.graphql.context import Context
from standpipe.notifications import devices
from standpipe.notifications.models import Device as DeviceRow
from standpipe.platform.ids import is_id
from standpipe.platform.language import to_translate, translate


@strawberry.enum(description="What the app runs on.")
class DevicePlatform(Enum):
    """Platforms."""

    ANDROID = strawberry.enum_value("ANDROID", description="An Android phone or tablet.")
    IOS = strawberry.enum_value("IOS", description="An iPhone or iPad.")
    WEB = strawberry.enum_value("WEB", description="A browser.")


_LABELS = {"ANDROID": "Android", "IOS": to_translate("iPhone or iPad"), "WEB": to_translate("Browser")}


@strawberry.type(description="An app installation.")
class Device(Node):
    """An app installation, for its owner."""

    platform: DevicePlatform = strawberry.field(description="What the app runs on.")
    label: str = strawberry.field(description="What the customer calls it; else what kind of device it is.")
    app_version: str = strawberry.field(description="As the app last said.")
    last_seen_at: datetime = strawberry.field(description="When it last registered.")
    push_healthy: bool = strawberry.field(
        description="Whether it has an address that pushes reach, as far as is known."
    )


async def load_devices(context: Context) -> list[Device]:
    """The customer's devices, those seen last first."""
    async with context.services.sessions() as conn:
        rows = await devices.devices_of(conn, context.require_customer())
    return [device_of(row, context.language) for row in rows]


async def load_device(context: Context, device_id: str) -> Device | None:
    """The device, if it is this customer's; None for every other id, existing or not."""
    if not is_id(device_id, "dev"):
        return None
    return next((device for device in await load_devices(context) if device.id == device_id), None)


def device_of(row: DeviceRow, language: str) -> Device:
    """A device for its owner."""
    return Device(
        id=strawberry.ID(row.id),
        platform=DevicePlatform[row.platform],
        label=row.label or translate(_LABELS[row.platform], language),
        app_version=row.app_version,
        last_seen_at=row.last_seen_at,
        push_healthy=row.healthy,
    )
