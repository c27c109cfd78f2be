"""Alerts as the app sees them: each member reads for themselves."""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import strawberry

from standpipe.graphql.base import Node, PageInfo, page_info
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.preferences import NotifyChannel
from standpipe.notifications.texts import Text, text_of
from standpipe.notifications.views import COUNTED_ALERTS, AlertsRequest, AlertView, alerts_by_id
from standpipe.platform.ids import is_id
from standpipe.usage.overview import MeterView

if TYPE_CHECKING:
    from standpipe.graphql.meters import Meter


@strawberry.enum(description="What an alert is about.")
class AlertKind(Enum):
    """Kinds, and one for those that this release does not know."""

    LOW_BALANCE = strawberry.enum_value("LOW_BALANCE", description="The credit lasts only so many days.")
    EMPTY = strawberry.enum_value("EMPTY", description="The credit is used up.")
    TOP_UP = strawberry.enum_value("TOP_UP", description="News of a payment or of credit.")
    LEAK = strawberry.enum_value("LEAK", description="The meter notices, or suspects, a leak.")
    TAMPER = strawberry.enum_value("TAMPER", description="The meter says that somebody laid hand on it.")
    BATTERY = strawberry.enum_value("BATTERY", description="The meter's battery runs low.")
    ACCESS = strawberry.enum_value("ACCESS", description="Who may see this water has changed.")
    OTHER = strawberry.enum_value(
        "OTHER", description="News that this server has no name for yet; title and body say what there is."
    )


@strawberry.enum(description="How far a delivery has come.")
class DeliveryStatus(Enum):
    """As ``standpipe.notifications.models`` has it."""

    QUEUED = strawberry.enum_value("QUEUED", description="It will go out; at once, or when quiet hours end.")
    SENT = strawberry.enum_value("SENT", description="The push service took it.")
    DELIVERED = strawberry.enum_value("DELIVERED", description="The device has it.")
    FAILED = strawberry.enum_value("FAILED", description="It could not be sent.")
    SUPPRESSED = strawberry.enum_value(
        "SUPPRESSED", description="No way to reach the customer, or no use: not wanted, or not so any more."
    )


@strawberry.type(description="One alert on its way to one of the reader's devices.")
class Delivery:
    """The reader's own."""

    channel: NotifyChannel = strawberry.field(description="How it goes out.")
    status: DeliveryStatus = strawberry.field(description="How far it has come.")
    at: datetime = strawberry.field(description="When that was last so.")


@strawberry.type(description="Something that a household was told about its meter.")
class Alert(Node):
    """As one member reads it."""

    view: strawberry.Private[AlertView]

    @strawberry.field(description="What it is about.")
    def kind(self) -> AlertKind:
        return AlertKind.__members__.get(self.view.kind, AlertKind.OTHER)

    @strawberry.field(description="In the language that the request asks for (Accept-Language).")
    def title(self, info: Ctx) -> str:
        return self._words(info).title

    @strawberry.field(description="In the language that the request asks for (Accept-Language).")
    def body(self, info: Ctx) -> str:
        return self._words(info).body

    @strawberry.field(description="When it became so.")
    def raised_at(self) -> datetime:
        return self.view.raised_at

    @strawberry.field(description="When it ceased to be so; null while it stands, and of news that only happened.")
    def cleared_at(self) -> datetime | None:
        return self.view.cleared_at

    @strawberry.field(description="When the reader marked it read; other members read for themselves.")
    def read_at(self) -> datetime | None:
        return self.view.read_at

    @strawberry.field(description="How it went out to the reader's own devices.")
    async def deliveries(self, info: Ctx) -> list[Delivery]:
        return [
            Delivery(channel=NotifyChannel[told.channel], status=DeliveryStatus[told.status], at=told.at)
            for told in await info.context.deliveries.load(self.view.id)
            # A channel or a status of a newer release is left out; it must not break the answer.
            if told.channel in NotifyChannel.__members__ and told.status in DeliveryStatus.__members__
        ]

    @strawberry.field(description="The meter that it is about.")
    async def meter(self, info: Ctx) -> Annotated["Meter", strawberry.lazy("standpipe.graphql.meters")]:
        view = await info.context.meters.load(self.view.meter_id)
        assert view is not None, "alerts come only out of meters that the customer has"  # noqa: S101 - for types.
        meter: Meter = info.context.meter_of(view)
        return meter

    def _words(self, info: Ctx) -> Text:
        return text_of(self.view.kind, self.view.params, info.context.language)


@strawberry.type(description="One alert and its place in the list.")
class AlertEdge:
    """Cursor and node."""

    cursor: str = strawberry.field(description="For `after`.")
    node: Alert = strawberry.field(description="The alert.")


@strawberry.type(description="A page of alerts, newest first.")
class AlertConnection:
    """Keyset page."""

    counted: strawberry.Private[tuple[str, datetime | None]]
    edges: list[AlertEdge] = strawberry.field(description="With a cursor each.")
    page_info: PageInfo = strawberry.field(description="Where the page lies.")

    @strawberry.field(description="The alerts alone.")
    def nodes(self) -> list[Alert]:
        return [edge.node for edge in self.edges]

    @strawberry.field(description=f"Of the meter's newest {COUNTED_ALERTS} alerts, how many the reader has not read.")
    async def unread_count(self, info: Ctx) -> int:
        return await info.context.unread_alerts.load(self.counted)


async def load_alerts(
    context: Context, meter: MeterView, *, first: int, after: str | None, unread_only: bool
) -> AlertConnection:
    """A page of a meter's alerts; none from before the household moved in."""
    views = await context.alert_pages.load(AlertsRequest(meter.id, first, after, meter.history_since, unread_only))
    edges = [AlertEdge(cursor=view.id, node=alert_of(view)) for view in views[:first]]
    return AlertConnection(
        counted=(meter.id, meter.history_since),
        edges=edges,
        page_info=page_info([edge.cursor for edge in edges], more=len(views) > first, after=after),
    )


async def load_alert(context: Context, alert_id: str) -> Alert | None:
    """The alert, if it is of this customer's present tenancy; None for every other id, existing or not."""
    views = await own_alerts(context, [alert_id])
    return alert_of(views[0]) if views else None


def alert_of(view: AlertView) -> Alert:
    """An alert for its reader."""
    return Alert(id=strawberry.ID(view.id), view=view)


def of_tenancy(views: Iterable[AlertView], meters: Iterable[MeterView | None]) -> list[AlertView]:
    """Those alerts that are of these meters, from since their household moved in."""
    known = {meter.id: meter for meter in meters if meter is not None}
    return [view for view in views if view.meter_id in known and _is_since(view, known[view.meter_id])]


def _is_since(view: AlertView, meter: MeterView) -> bool:
    return meter.history_since is None or view.raised_at >= meter.history_since


async def own_alerts(context: Context, ids: list[str]) -> list[AlertView]:
    """Those of these alerts that are of this customer's present tenancy, in the order of the ids."""
    customer_id, known = context.require_customer(), [alert_id for alert_id in ids if is_id(alert_id, "alr")]
    if not known:
        return []
    async with context.services.sessions() as session:
        found = await alerts_by_id(session, customer_id, known)
    meters = await context.meters.load_many({view.meter_id for view in found.values()})
    return of_tenancy([found[alert_id] for alert_id in known if alert_id in found], meters)
