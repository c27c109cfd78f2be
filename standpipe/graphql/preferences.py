"""Notification preferences of a customer, for the app."""

from enum import Enum

import strawberry

from standpipe.graphql.base import LanguageTag
from standpipe.graphql.context import Context
from standpipe.notifications.preferences import Preferences, read_preferences


@strawberry.enum(description="A way to tell a customer.")
class NotifyChannel(Enum):
    """Channels of ``standpipe.notifications.models.NotifyChannel``."""

    PUSH = strawberry.enum_value("PUSH", description="To every device that is registered.")
    SMS = strawberry.enum_value("SMS", description="By text. Alerts do not go out so yet.")
    WHATSAPP = strawberry.enum_value("WHATSAPP", description="By WhatsApp. Alerts do not go out so yet.")
    EMAIL = strawberry.enum_value("EMAIL", description="By e-mail. Alerts do not go out so yet.")


@strawberry.type(description="What the customer is told, when and how.")
class NotificationPreferences:
    """The preferences in force."""

    language: LanguageTag = strawberry.field(
        description="The customer's own language. Pushes speak each device's, as it was registered."
    )
    days_left: list[int] = strawberry.field(
        description="Told when the credit lasts only so many days, and always when it is used up."
    )
    channels: list[NotifyChannel] = strawberry.field(description="Without PUSH nothing is pushed; alerts still list.")
    quiet_from: str | None = strawberry.field(
        description="A time of day (HH:MM) by the meter's clock. LOW_BALANCE and BATTERY wait for quietTo; nothing "
        "else does."
    )
    quiet_to: str | None = strawberry.field(
        description="A time of day (HH:MM) by the meter's clock; the hours may span midnight."
    )


async def load_preferences(context: Context) -> NotificationPreferences:
    """The signed-in customer's."""
    async with context.services.sessions() as conn:
        return preferences_of(await read_preferences(conn, context.require_customer()))


def preferences_of(found: Preferences) -> NotificationPreferences:
    """Preferences for whose they are."""
    return NotificationPreferences(
        language=LanguageTag(found.language),
        days_left=list(found.days_left),
        channels=[NotifyChannel[channel] for channel in found.channels],
        quiet_from=found.quiet_from,
        quiet_to=found.quiet_to,
    )
