"""``alertRaised``: alerts as they come, over all of the customer's meters."""

import time
from collections.abc import AsyncGenerator

import strawberry

from standpipe.billing.overview import meters_by_id
from standpipe.graphql.alerts import of_tenancy
from standpipe.graphql.authentication import live_keys
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.live import wait
from standpipe.graphql.meters import Alert, alert_of
from standpipe.notifications.views import AlertView, newest_waiting, raised_after
from standpipe.platform.ids import first_id_at
from standpipe.platform.notify import LIVE

OVERLAP_S = 300
"""An alert's id is made before its transaction commits: ids of so many seconds are looked at again."""
AT_ONCE = 50


@strawberry.type
class AlertSubscription:
    """Part of Subscription."""

    @strawberry.subscription(
        description="First the newest alert that still stands and was not read, if there is one (Meter.alerts has the "
        "others); then each alert as it is raised, of all the viewer's meters."
    )
    async def alert_raised(self, info: Ctx) -> AsyncGenerator[Alert, None]:
        context = info.context
        customer_id = context.require_customer()
        floor, seen = _floor(), set[str]()
        async with context.services.listener.subscribe(LIVE, *live_keys(context, customer_id)) as flag:
            await _fresh(context, customer_id, floor, seen)
            waiting = await _waiting(context, customer_id)
            if waiting is not None:
                seen.add(waiting.id)
                yield alert_of(waiting)
            while True:
                for view in await _fresh(context, customer_id, floor, seen):
                    yield alert_of(view)
                floor = _floor()
                seen = {alert_id for alert_id in seen if alert_id > floor}
                if not await wait(context, flag):
                    return


def _floor() -> str:
    return first_id_at("alr", time.time() - OVERLAP_S)


async def _waiting(context: Context, customer_id: str) -> AlertView | None:
    async with context.services.sessions() as conn:
        views = await newest_waiting(conn, customer_id)
    return max(await _checked(context, customer_id, views), key=lambda view: view.id, default=None)


async def _fresh(context: Context, customer_id: str, floor: str, seen: set[str]) -> list[AlertView]:
    """Up to AT_ONCE alerts at a time until there is none that was not ``seen``, and adds them there."""
    fresh: list[AlertView] = []
    while True:
        async with context.services.sessions() as conn:
            views = await raised_after(conn, customer_id, floor, seen=seen, limit=AT_ONCE)
        seen |= {view.id for view in views}
        fresh += await _checked(context, customer_id, views)
        if len(views) < AT_ONCE:
            return fresh


async def _checked(context: Context, customer_id: str, views: list[AlertView]) -> list[AlertView]:
    """Those of meters that are the customer's now, from since they moved in; the connection's cache is made anew."""
    ids = sorted({view.meter_id for view in views})
    if not ids:
        return []
    services = context.services
    async with services.sessions() as conn:
        found = await meters_by_id(conn, customer_id, ids, services.clock.now(), offline_after=services.offline_after)
    for meter_id, meter in found.items():
        context.meters.prime(meter_id, meter, force=True)
    return of_tenancy(views, found.values())
