"""What a customer wants to be told, as the app sees it and changes it."""

from enum import Enum

import strawberry

from standpipe.graphql.base import LanguageTag
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import UserError, user_error
from standpipe.notifications.preferences import (
    MAX_DAYS,
    MAX_THRESHOLDS,
    Preferences,
    PreferencesChange,
    change_preferences,
    read_preferences,
)
from standpipe.platform.errors import StandpipeError


@strawberry.enum(description="A way to tell a customer.")
class NotifyChannel(Enum):
    """As ``standpipe.notifications.models`` has it."""

    PUSH = strawberry.enum_value("PUSH", description="To every device that is registered.")
    SMS = strawberry.enum_value("SMS", description="By text. Alerts do not go out so yet.")
    WHATSAPP = strawberry.enum_value("WHATSAPP", description="By WhatsApp. Alerts do not go out so yet.")
    EMAIL = strawberry.enum_value("EMAIL", description="By e-mail. Alerts do not go out so yet.")


@strawberry.type(description="What the customer is told, when and how.")
class NotificationPreferences:
    """As they stand."""

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


@strawberry.input(description="What is to change; a field that is left out leaves what is.")
class NotificationPreferencesInput:
    """Any of them."""

    language: LanguageTag | None = strawberry.field(default=None, description="Null leaves what is.")
    days_left: list[int] | None = strawberry.field(
        default=None,
        description=f"At most {MAX_THRESHOLDS}, each once, of 1 to {MAX_DAYS} days. Null leaves what is.",
    )
    channels: list[NotifyChannel] | None = strawberry.field(
        default=None, description="PUSH, or none. Null leaves what is."
    )
    quiet_from: str | None = strawberry.field(
        default=strawberry.UNSET, description="A time of day (HH:MM); null ends the quiet hours."
    )
    quiet_to: str | None = strawberry.field(
        default=strawberry.UNSET, description="A time of day (HH:MM); null ends the quiet hours."
    )


@strawberry.type(description="The preferences as they are now, or why they were not changed.")
class NotificationPreferencesPayload:
    """Errors as data."""

    preferences: NotificationPreferences | None = strawberry.field(description="Null where nothing was changed.")
    user_errors: list[UserError] = strawberry.field(description="Why not.")


@strawberry.type
class PreferencesMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="Changes what the customer is told; all of it, or nothing where a part is wrong.")
    async def notification_preferences_update(
        self, info: Ctx, input: NotificationPreferencesInput
    ) -> NotificationPreferencesPayload | None:
        context = info.context
        customer_id = context.require_customer()
        given = {"quietFrom": input.quiet_from, "quietTo": input.quiet_to}
        change = PreferencesChange(
            language=input.language,
            days_left=input.days_left,
            channels=None if input.channels is None else [channel.name for channel in input.channels],
            quiet={name: text for name, text in given.items() if text is not strawberry.UNSET},
        )
        try:
            async with context.tools.sessions.begin() as session:
                found = await change_preferences(session, customer_id=customer_id, change=change)
        except StandpipeError as error:
            return NotificationPreferencesPayload(preferences=None, user_errors=[user_error(error, context.language)])
        return NotificationPreferencesPayload(preferences=_preferences(found), user_errors=[])


async def load_preferences(context: Context) -> NotificationPreferences:
    """The signed-in customer's."""
    async with context.tools.sessions() as session:
        return _preferences(await read_preferences(session, context.require_customer()))


def _preferences(found: Preferences) -> NotificationPreferences:
    return NotificationPreferences(
        language=LanguageTag(found.language),
        days_left=list(found.days_left),
        channels=[NotifyChannel[channel] for channel in found.channels],
        quiet_from=found.quiet_from,
        quiet_to=found.quiet_to,
    )
