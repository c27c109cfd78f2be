"""alertsMarkRead: mark alerts as read, for the reader alone."""

import strawberry

from standpipe.graphql.alerts import own_alerts
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import UserError, expected_failures, user_error
from standpipe.graphql.meters import Alert, alert_of
from standpipe.graphql.mutations.common import Input
from standpipe.notifications.views import alerts_by_id, mark_read
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.language import phrase

MAX_MARKED = 100


@strawberry.input(description="Mark alerts as read, for the reader alone.")
class AlertsMarkReadInput:
    """The alerts to mark."""

    alert_ids: list[strawberry.ID] = strawberry.field(description=f"At most {MAX_MARKED}.")


@strawberry.type(description="The alerts that are read now. Ids that name none of the reader's give one NOT_FOUND.")
class AlertsPayload:
    """Errors as data."""

    alerts: list[Alert] = strawberry.field(default_factory=list, description="In the order of the ids that were given.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Why not all of them.")


@strawberry.mutation(description="Marks alerts as read; once more changes nothing.")
@expected_failures(AlertsPayload)
async def alerts_mark_read(info: Ctx, input: Input[AlertsMarkReadInput]) -> AlertsPayload | None:
    context = info.context
    context.require_customer()
    if len(input.alert_ids) > MAX_MARKED:
        raise InvalidInputError(phrase("At most {most} alerts at once.", most=MAX_MARKED), ("alertIds",))
    wanted = list(dict.fromkeys(str(alert_id) for alert_id in input.alert_ids))
    alerts = await _mark(context, wanted)
    # Those that are there are marked, whatever else was asked for.
    missing = [] if len(alerts) == len(wanted) else [user_error(NotFoundError("No such alert."), context.language)]
    return AlertsPayload(alerts=alerts, user_errors=missing)


async def _mark(context: Context, ids: list[str]) -> list[Alert]:
    customer_id, services = context.require_customer(), context.services
    own = [view.id for view in await own_alerts(context, ids)]
    async with services.sessions.begin() as conn:
        await mark_read(conn, customer_id, own, services.clock.now())
        found = await alerts_by_id(conn, customer_id, own)
    return [alert_of(found[alert_id]) for alert_id in own if alert_id in found]
