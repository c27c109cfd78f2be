"""The viewer: a signed-in customer from their own side."""

from typing import Annotated

import strawberry

from standpipe.billing.overview import meters_of_customer
from standpipe.graphql.base import AFTER, FIRST, LanguageTag, Node, PhoneNumber, page_info
from standpipe.graphql.context import Ctx
from standpipe.graphql.devices import Device, load_devices
from standpipe.graphql.guard import pay_for_more
from standpipe.graphql.members import Invitation, load_invitations
from standpipe.graphql.meters import (
    Meter,
    MeterConnection,
    MeterEdge,
    check_cursor,
    check_first,
    load_meter,
    meter_of,
)
from standpipe.graphql.preferences import NotificationPreferences, load_preferences
from standpipe.graphql.saving import SavedCard, load_cards
from standpipe.graphql.sessions import Session, load_sessions
from standpipe.households.models import HouseholdRole
from standpipe.households.people import Person


@strawberry.type(description="Who is signed in.")
class Viewer(Node):
    """The customer, from their own side."""

    person: strawberry.Private[Person]

    @strawberry.field(description="The number that the viewer signs in by.")
    def phone(self) -> PhoneNumber:
        return PhoneNumber(self.person.phone)

    @strawberry.field(description="What alerts and texts speak; notificationPreferencesUpdate sets it.")
    def language(self) -> LanguageTag:
        return LanguageTag(self.person.language)

    @strawberry.field(description="The meters of all of the viewer's households.")
    async def meters(
        self,
        info: Ctx,
        first: Annotated[int, strawberry.argument(description=FIRST)] = 20,
        after: Annotated[str | None, strawberry.argument(description=AFTER)] = None,
    ) -> MeterConnection:
        services = info.context.services
        check_first(first)
        async with services.sessions() as conn:
            views = await meters_of_customer(
                conn,
                self.person.id,
                services.clock.now(),
                offline_after=services.offline_after,
                first=first,
                after=check_cursor(after, "mtr"),
            )
        page = views[:first]
        pay_for_more(info.context, len(page) - 1)
        for view in page:
            info.context.meters.prime(view.id, view)
        edges = [MeterEdge(cursor=view.id, node=meter_of(view), role=HouseholdRole(view.role)) for view in page]
        return MeterConnection(
            edges=edges,
            page_info=page_info([edge.cursor for edge in edges], more=len(views) > first, after=after),
        )

    @strawberry.field(description="Where the viewer is signed in, the last used first.")
    async def sessions(self, info: Ctx) -> list[Session]:
        return await load_sessions(info)

    @strawberry.field(description="Cards kept at the payment provider.")
    async def saved_cards(self, info: Ctx) -> list[SavedCard]:
        return await load_cards(info)

    @strawberry.field(description="Open invitations to the viewer's phone number.")
    async def invitations(self, info: Ctx) -> list[Invitation]:
        return await load_invitations(info, self.person.id)

    @strawberry.field(description="App installations that can be pushed to, those seen last first.")
    async def devices(self, info: Ctx) -> list[Device]:
        return await load_devices(info.context)

    @strawberry.field(description="What the viewer is told, when and how.")
    async def notification_preferences(self, info: Ctx) -> NotificationPreferences:
        return await load_preferences(info.context)

    @strawberry.field(description="Null for any id that is not one of the viewer's meters.")
    async def meter(
        self, info: Ctx, id: Annotated[strawberry.ID, strawberry.argument(description="As in Meter.id (mtr_…).")]
    ) -> Meter | None:
        return await load_meter(info.context, id)
