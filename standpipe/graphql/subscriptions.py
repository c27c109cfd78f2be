"""Subscriptions over PostgreSQL's LISTEN/NOTIFY: any server process serves any subscriber.

The first event is the current state, so reconnecting never loses anything; each later one is the state read anew, so
a burst of changes costs a slow client one event. Each read checks again that the meter is the customer's, and a
subscription ends with the token that opened it, and with its session.
"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import strawberry
from graphql import GraphQLError

from standpipe.billing.overview import MeterView, meters_by_id
from standpipe.graphql.alert_live import AlertSubscription
from standpipe.graphql.authentication import live_keys
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.live import wait as _wait
from standpipe.graphql.meters import Meter, TopUp, meter_of, top_up_of
from standpipe.payments.views import TopUpView, top_ups_by_id
from standpipe.platform.ids import is_id
from standpipe.platform.language import in_language, phrase
from standpipe.platform.notify import LIVE


@strawberry.type(
    description="Where listening starts. The first event is how things stand, so reconnecting loses nothing."
)
class Subscription(AlertSubscription):
    """The start of every subscription."""

    @strawberry.subscription(description="The meter now, and again at each change.")
    async def meter_updated(
        self,
        info: Ctx,
        meter_id: Annotated[
            strawberry.ID, strawberry.argument(description="One of the viewer's meters; NOT_FOUND for any other.")
        ],
    ) -> AsyncGenerator[Meter, None]:
        context = info.context
        last: MeterView | None = None
        async with context.services.listener.subscribe(LIVE, *live_keys(context, str(meter_id))) as flag:
            while True:
                view = await _meter(context, str(meter_id))
                if view != last:
                    last = view
                    context.meters.prime(view.id, view, force=True)
                    yield meter_of(view)
                if not await _wait(context, flag):
                    return

    @strawberry.subscription(description="Ends by itself at a terminal status.")
    async def top_up_updated(
        self,
        info: Ctx,
        top_up_id: Annotated[
            strawberry.ID,
            strawberry.argument(description="A top-up of one of the viewer's meters; NOT_FOUND for any other."),
        ],
    ) -> AsyncGenerator[TopUp, None]:
        context = info.context
        view = await _top_up(context, str(top_up_id))
        last: TopUpView | None = None
        # Payment changes the top-up, delivery its meter: both are listened to.
        async with context.services.listener.subscribe(LIVE, *live_keys(context, view.id, view.meter_id)) as flag:
            while True:
                view = await _top_up(context, str(top_up_id))
                if view != last:
                    last = view
                    yield top_up_of(view)
                if view.terminal or not await _wait(context, flag):
                    return


async def _meter(context: Context, meter_id: str) -> MeterView:
    context.forget_loaded()
    services, customer_id = context.services, context.require_customer()
    found: dict[str, Any] = {}
    if is_id(meter_id, "mtr"):
        async with services.sessions() as conn:
            found = await meters_by_id(
                conn, customer_id, [meter_id], services.clock.now(), offline_after=services.offline_after
            )
    if meter_id not in found:
        raise GraphQLError(in_language(phrase("Not found."), context.language), extensions={"code": "NOT_FOUND"})
    view: MeterView = found[meter_id]
    return view


async def _top_up(context: Context, top_up_id: str) -> TopUpView:
    found: dict[str, TopUpView] = {}
    if is_id(top_up_id, "top"):
        context.require_customer()
        async with context.services.sessions() as conn:
            found = await top_ups_by_id(conn, [top_up_id])
    view = found.get(top_up_id)
    if view is None or not view.shown:
        raise GraphQLError(in_language(phrase("Not found."), context.language), extensions={"code": "NOT_FOUND"})
    since = (await _meter(context, view.meter_id)).history_since
    if since is not None and view.created_at < since:
        raise GraphQLError(in_language(phrase("Not found."), context.language), extensions={"code": "NOT_FOUND"})
    return view
