"""Alerts as the app sees them: each member reads for themselves."""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum

import strawberry

from standpipe.billing.overview import MeterView
from standpipe.graphql.base import Node
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.preferences import NotifyChannel
from standpipe.notifications.texts import Text, text_of
from standpipe.notifications.views import AlertView, alerts_by_id
from standpipe.platform.ids import is_id


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
    """States of ``standpipe.notifications.models.DeliveryStatus``."""

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


@strawberry.type
class AlertFields(Node):
    """An alert as one member reads it; ``graphql.meters`` adds the meter that it is about."""

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

    def _words(self, info: Ctx) -> Text:
        return text_of(self.view.kind, self.view.params, info.context.language)


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
    async with context.services.sessions() as conn:
        found = await alerts_by_id(conn, customer_id, known)
    meters = await context.meters.load_many({view.meter_id for view in found.values()})
    return of_tenancy([found[alert_id] for alert_id in known if alert_id in found], meters)
