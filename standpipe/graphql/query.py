"""Queries."""

from typing import Annotated

import strawberry

from standpipe.graphql.app_config import AppConfig, app_config
from standpipe.graphql.base import Node
from standpipe.graphql.context import Ctx
from standpipe.graphql.devices import load_device
from standpipe.graphql.guests import GuestQuery
from standpipe.graphql.members import load_member
from standpipe.graphql.meters import (
    TopUp,
    load_alert,
    load_meter,
    top_up_of,
)
from standpipe.graphql.operators import Operator, operator_of
from standpipe.graphql.viewer import Viewer
from standpipe.households.people import read_person
from standpipe.payments.top_ups import refresh, require_top_up
from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import is_id


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
    """The start of every query."""

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
        found = await load_meter(info.context, id) or await load_top_up(info, id) or await load_member(info.context, id)
        return found or await load_alert(info.context, id) or await load_device(info.context, id)

    @strawberry.field(description="What an app needs to know before anybody has signed in.")
    def app_config(self) -> AppConfig | None:
        return app_config()
