"""notificationPreferencesUpdate: change what a customer is told, when and how."""

import strawberry

from standpipe.graphql.base import LanguageTag
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.preferences import NotificationPreferences, NotifyChannel, preferences_of
from standpipe.notifications.preferences import MAX_DAYS, MAX_THRESHOLDS, PreferencesChange, change_preferences


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

    preferences: NotificationPreferences | None = strawberry.field(
        default=None, description="Null where nothing was changed."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Why not.")


@strawberry.mutation(description="Changes what the customer is told; all of it, or nothing where a part is wrong.")
@expected_failures(NotificationPreferencesPayload)
async def notification_preferences_update(
    info: Ctx, input: Input[NotificationPreferencesInput]
) -> NotificationPreferencesPayload | None:
    customer_id = info.context.require_customer()
    given = {"quietFrom": input.quiet_from, "quietTo": input.quiet_to}
    change = PreferencesChange(
        language=input.language,
        days_left=input.days_left,
        channels=None if input.channels is None else [channel.name for channel in input.channels],
        quiet={name: text for name, text in given.items() if text is not strawberry.UNSET},
    )
    async with info.context.services.sessions.begin() as conn:
        found = await change_preferences(conn, customer_id=customer_id, change=change)
    return NotificationPreferencesPayload(preferences=preferences_of(found))
