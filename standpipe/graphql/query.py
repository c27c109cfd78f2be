"""Queries."""

from typing import Annotated

import strawberry

from standpipe.customers.models import HouseholdRole
from standpipe.customers.people import Person, read_person
from standpipe.graphql.app_config import AppConfig, app_config
from standpipe.graphql.base import AFTER, FIRST, LanguageTag, Node, PhoneNumber, page_info
from standpipe.graphql.context import Ctx
from standpipe.graphql.devices import Device, load_device, load_devices
from standpipe.graphql.guard import pay_for_more
from standpipe.graphql.guests import GuestQuery
from standpipe.graphql.members import Invitation, load_invitations, load_member
from standpipe.graphql.meters import (
    Meter,
    MeterConnection,
    MeterEdge,
    TopUp,
    check_cursor,
    check_first,
    load_alert,
    meter_of,
    top_up_of,
)
from standpipe.graphql.operators import Operator, operator_of
from standpipe.graphql.preferences import NotificationPreferences, load_preferences
from standpipe.graphql.saving import SavedCard, load_cards
from standpipe.graphql.sessions import Session, load_sessions
from standpipe.payments.top_ups import refresh, require_top_up
from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import is_id
from standpipe.usage.overview import meters_of_customer


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
        return await load_meter(info, id)


async def load_meter(info: Ctx, meter_id: str) -> Meter | None:
    """The meter, if it is this customer's; None for every other id, existing or not."""
    if not is_id(meter_id, "mtr"):
        return None
    view = await info.context.meters.load(meter_id)
    return None if view is None else meter_of(view)


async def load_top_up(info: Ctx, top_up_id: str) -> TopUp | None:
    """The top-up, if its meter is this customer's; asks the provider when it still waits for the payment."""
    context = info.context
    if not is_id(top_up_id, "top"):
        return None
    customer_id = context.require_customer()
    try:
        async with context.services.sessions() as conn:
            found = await require_top_up(conn, customer_id=customer_id, top_up_id=top_up_id)
    except NotFoundError:
        return None
    view = await context.meters.load(found.meter_id)
    if view is None or (view.history_since is not None and found.created_at < view.history_since):
        return None
    await refresh(context.services.sessions, context.services.rails, context.services.clock, top_up_id)
    return top_up_of(await context.top_ups.load(top_up_id))


@strawberry.type(description="Where reading starts.")
class Query(GuestQuery):
    """Where reading starts."""

    @strawberry.field(description="Null when signed out.")
    async def viewer(self, info: Ctx) -> Viewer | None:
        if info.context.customer_id is None:
            return None
        async with info.context.services.sessions() as conn:
            person = await read_person(conn, info.context.customer_id)
        return None if person is None else Viewer(id=strawberry.ID(person.id), person=person)

    @strawberry.field(description="The operator who is signed in; null for everybody else.")
    async def operator(self, info: Ctx) -> Operator | None:
        return operator_of(info.context.operator)

    @strawberry.field(description="Anything of the viewer's by its id; null for every other id.")
    async def node(
        self,
        info: Ctx,
        id: Annotated[
            strawberry.ID,
            strawberry.argument(description="Of a meter, a top-up, a member or invitation, an alert or a device."),
        ],
    ) -> Node | None:
        if info.context.customer_id is None:
            return None
        found = await load_meter(info, id) or await load_top_up(info, id) or await load_member(info.context, id)
        return found or await load_alert(info.context, id) or await load_device(info.context, id)

    @strawberry.field(description="What an app needs to know before anybody has signed in.")
    def app_config(self) -> AppConfig | None:
        return app_config()
