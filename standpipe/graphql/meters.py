"""Meters as the app sees them, and what points back to them: a meter has top-ups and alerts, each of which has a meter.

The three types close that circle here, in one module; all else of each stands in a module of its own.
"""

from datetime import date, datetime, timedelta
from typing import Annotated

import strawberry
from graphql import GraphQLError

from standpipe.billing.overview import MeterView
from standpipe.billing.series import UsageInterval
from standpipe.graphql.alerts import AlertFields, own_alerts
from standpipe.graphql.balances import Balance, balance_of
from standpipe.graphql.base import (
    AFTER,
    CURSOR,
    EDGES,
    FIRST,
    NODE,
    NODES,
    PAGE_INFO,
    Node,
    PageInfo,
    described_enum,
    page_info,
)
from standpipe.graphql.context import Context, Ctx, TopUpsRequest
from standpipe.graphql.members import HouseholdMember, load_members
from standpipe.graphql.quotes import QuoteBy, QuotePayload, quote_of
from standpipe.graphql.saving import AutoTopUp, load_auto_top_up
from standpipe.graphql.statements import Comparison, StatementPayload, load_comparison, load_statement
from standpipe.graphql.tariffs import Tariff, tariff_of
from standpipe.graphql.top_ups import TopUpFields, TopUpMethod, method_of
from standpipe.graphql.usage import UsageSeries, load_usage
from standpipe.households.models import HouseholdRole
from standpipe.meters.models import WalletKind
from standpipe.meters.reports import ValveReason, ValveState
from standpipe.notifications.views import COUNTED_ALERTS, AlertsRequest, AlertView
from standpipe.payments.rails.registry import methods_in
from standpipe.payments.views import TopUpView
from standpipe.platform.ids import is_id

MAX_FIRST = 100

described_enum(
    ValveState,
    {
        ValveState.OPEN: "Water runs.",
        ValveState.CLOSED: "No water.",
        ValveState.RESTRICTED: "A trickle.",
        ValveState.UNKNOWN: "The meter has not told.",
    },
    name="ValveState",
    description="Where the valve stands.",
)
described_enum(
    WalletKind,
    {
        WalletKind.MONEY: "Credit is money, and is taken as water runs.",
        WalletKind.VOLUME: "Water is paid for when it is bought; the meter holds its volume.",
    },
    name="WalletKind",
    description="Whether the meter holds money or water that is paid for.",
)
described_enum(
    ValveReason,
    {
        ValveReason.NORMAL: "Nothing is amiss.",
        ValveReason.NO_CREDIT: "The credit is used up.",
        ValveReason.TAMPER: "Somebody laid hand on the meter.",
        ValveReason.LEAK: "The meter notices a leak.",
        ValveReason.MAINTENANCE: "Work on the meter or the supply.",
        ValveReason.CUSTOMER: "The household wanted it.",
        ValveReason.UNKNOWN: "The meter has not told.",
    },
    name="ValveReason",
    description="Why, by the meter's word.",
)


def check_first(first: int) -> int:
    """A page's size. Raises an INVALID error outside 1 to MAX_FIRST."""
    if not 1 <= first <= MAX_FIRST:
        raise GraphQLError(f"`first` must lie between 1 and {MAX_FIRST}.", extensions={"code": "INVALID"})
    return first


def check_cursor(after: str | None, prefix: str) -> str | None:
    """A cursor that we gave out. Raises an INVALID error for any other."""
    if after is not None and not is_id(after, prefix):
        raise GraphQLError("This cursor is not one of ours.", extensions={"code": "INVALID"})
    return after


@strawberry.type(description="When the meter was heard, and whether that is as it should be.")
class Connectivity:
    """``online`` is about the meter's own rhythm, not about this second: it sleeps most of the day."""

    meter_id: strawberry.Private[str]
    last_seen_at: datetime | None = strawberry.field(
        description="When the meter was last heard; null until it has spoken."
    )
    online: bool = strawberry.field(
        description="Heard within the last 26 hours (a server may be set to others): a meter sleeps a lot."
    )
    battery_percent: int | None = strawberry.field(
        description="0 to 100, as last reported; null where the meter has not told it."
    )

    @strawberry.field(
        description="When the meter should speak next, by its own habit of the last weeks; in the past where it is "
        "late, null while there is too little to tell."
    )
    async def expected_next_at(self, info: Ctx) -> datetime | None:
        usual = await info.context.rhythms.load(self.meter_id)
        return None if usual is None or self.last_seen_at is None else self.last_seen_at + usual


@strawberry.type(description="The meter's own valve.")
class Valve:
    """State, reason, and what is on its way."""

    state: ValveState = strawberry.field(description="Where it stands, by the meter's last word.")
    reason: ValveReason = strawberry.field(description="Why it stands there, as far as the meter tells.")
    changed_at: datetime | None = strawberry.field(
        description="When a report first told of this state; null until the meter has spoken."
    )
    pending: ValveState | None = strawberry.field(description="The position that a waiting command asks for.")


@strawberry.type(description="A vend that the customer pays for.")
class TopUp(TopUpFields):
    """With its meter."""

    @strawberry.field(description="The meter that gets the credit.")
    async def meter(self, info: Ctx) -> "Meter":
        return await _owner(info.context, self.view.meter_id)


@strawberry.type(description="One top-up and its place in the list.")
class TopUpEdge:
    """Cursor and node."""

    cursor: str = strawberry.field(description=CURSOR)
    node: TopUp = strawberry.field(description=NODE)


@strawberry.type(description="A page of top-ups, newest first.")
class TopUpConnection:
    """Keyset page."""

    edges: list[TopUpEdge] = strawberry.field(description=EDGES)
    page_info: PageInfo = strawberry.field(description=PAGE_INFO)

    @strawberry.field(description=NODES)
    def nodes(self) -> list[TopUp]:
        return [edge.node for edge in self.edges]


@strawberry.type(description="Something that a household was told about its meter.")
class Alert(AlertFields):
    """With its meter."""

    @strawberry.field(description="The meter that it is about.")
    async def meter(self, info: Ctx) -> "Meter":
        return await _owner(info.context, self.view.meter_id)


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


@strawberry.type(description="A prepaid water meter.")
class Meter(Node):
    """A meter, for its household."""

    view: strawberry.Private[MeterView]

    @strawberry.field(description="The number on the meter.")
    def serial(self) -> str:
        return self.view.serial

    @strawberry.field(description="What the household calls it; its serial until somebody names it.")
    def label(self) -> str:
        return self.view.label

    @strawberry.field(description="IANA name; service days and billing periods follow it.")
    def time_zone(self) -> str:
        return self.view.time_zone

    @strawberry.field(description="When the meter was last heard, and its battery.")
    def connectivity(self) -> Connectivity:
        view = self.view
        return Connectivity(
            meter_id=view.id,
            last_seen_at=view.last_seen_at,
            online=view.online,
            battery_percent=view.battery_percent,
        )

    @strawberry.field(description="MONEY: it prices the water that runs. VOLUME: top-ups buy water in whole units.")
    def wallet_kind(self) -> WalletKind:
        return self.view.wallet_kind

    @strawberry.field(description="Credit by our books, on the meter and on its way, and what is owed.")
    def balance(self, info: Ctx) -> Balance:
        return balance_of(self.view, info.context.language)

    @strawberry.field(description="Where the valve stands by the meter's last word.")
    def valve(self) -> Valve:
        view = self.view
        return Valve(
            state=ValveState(view.valve),
            reason=ValveReason(view.valve_reason),
            changed_at=view.valve_changed_at,
            pending=None if view.valve_pending is None else ValveState(view.valve_pending),
        )

    @strawberry.field(description="Today's prices, and where this meter stands in them.")
    def tariff(self, info: Ctx) -> Tariff:
        view, language = self.view, info.context.language
        tariff = tariff_of(view, view.segment, language)
        if view.next_tariff is not None:
            follows = view.next_tariff.effective_from
            tariff.effective_to = follows - timedelta(days=1)
            tariff.next = tariff_of(view, view.contract.segment_on(follows), language)
        return tariff

    @strawberry.field(
        description="At most 1000 buckets; from is inclusive, to is exclusive. Those before the household moved in are "
        "left out."
    )
    async def usage(
        self,
        info: Ctx,
        from_: Annotated[
            date, strawberry.argument(name="from", description="The first day, in the meter's time zone.")
        ],
        to: Annotated[date, strawberry.argument(description="The day after the last one, in the meter's time zone.")],
        interval: Annotated[UsageInterval, strawberry.argument(description="How long each bucket is.")],
    ) -> UsageSeries:
        return await load_usage(info.context, self.view, from_, to, interval)

    @strawberry.field(description="A month's statement (any day of it): as it was closed, or as it stands so far.")
    async def statement(
        self,
        info: Ctx,
        month: Annotated[
            date,
            strawberry.argument(
                description="Any day of the month, from the household's first month to the present one."
            ),
        ],
    ) -> StatementPayload:
        return await load_statement(info.context, self.view, month)

    @strawberry.field(description="This period against the last, and against similar households.")
    async def comparison(self, info: Ctx) -> Comparison:
        return await load_comparison(info.context, self.view)

    @strawberry.field(
        description="Price check against this period's use so far and what the meter owes; stores nothing. With a "
        "methodId, the fee of that way to pay is counted in."
    )
    def quote(
        self,
        info: Ctx,
        by: Annotated[QuoteBy, strawberry.argument(description="The money to pay, or the water to get.")],
        method_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(
                description="One of topUpMethods: its fee and limits count. Without it, no fee is reckoned."
            ),
        ] = None,
    ) -> QuotePayload:
        return quote_of(info.context, self.view, by, None if method_id is None else str(method_id))

    @strawberry.field(description="The standing order that tops this meter up by itself; null where there is none.")
    async def auto_top_up(self, info: Ctx) -> AutoTopUp | None:
        return await load_auto_top_up(info, self.view.id)

    @strawberry.field(description="Those who share the household, and those who are invited to.")
    async def members(self, info: Ctx) -> list[HouseholdMember]:
        return await load_members(info.context, self.view.id)

    @strawberry.field(description="Ways to pay that this server offers in the meter's currency.")
    def top_up_methods(self, info: Ctx) -> list[TopUpMethod]:
        currency = self.view.currency
        return [
            method_of(method, currency, info.context.language)
            for _, method in methods_in(info.context.services.rails, currency)
        ]

    @strawberry.field(description="Newest first; none from before the household moved in.")
    async def top_ups(
        self,
        info: Ctx,
        first: Annotated[int, strawberry.argument(description=FIRST)] = 20,
        after: Annotated[str | None, strawberry.argument(description=AFTER)] = None,
    ) -> TopUpConnection:
        request = TopUpsRequest(self.view.id, check_first(first), check_cursor(after, "top"), self.view.history_since)
        ids = await info.context.top_up_pages.load(request)
        views = await info.context.top_ups.load_many(ids[:first])
        edges = [TopUpEdge(cursor=view.id, node=top_up_of(view)) for view in views]
        return TopUpConnection(
            edges=edges,
            page_info=page_info([edge.cursor for edge in edges], more=len(ids) > first, after=after),
        )

    @strawberry.field(description="Newest first; none from before the household moved in.")
    async def alerts(
        self,
        info: Ctx,
        first: Annotated[int, strawberry.argument(description="1 to 100.")] = 20,
        after: Annotated[str | None, strawberry.argument(description="The cursor of the last alert seen.")] = None,
        unread_only: Annotated[
            bool, strawberry.argument(description="Only those that the reader has not read.")
        ] = False,
    ) -> AlertConnection:
        check_first(first)
        check_cursor(after, "alr")
        return await load_alerts(info.context, self.view, first=first, after=after, unread_only=unread_only)


def meter_of(view: MeterView) -> Meter:
    """A meter for its reader."""
    return Meter(id=strawberry.ID(view.id), view=view)


async def load_meter(context: Context, meter_id: str) -> Meter | None:
    """The meter, if it is this customer's; None for every other id, existing or not."""
    if not is_id(meter_id, "mtr"):
        return None
    view = await context.meters.load(meter_id)
    return None if view is None else meter_of(view)


async def reload_meter(context: Context, meter_id: str) -> Meter | None:
    """The meter as it is after a change, whatever this request has read of it before; None for other people's."""
    context.forget_meters()
    view = await context.meters.load(meter_id)
    return None if view is None else meter_of(view)


@strawberry.type(description="One meter and the reader's role in its household.")
class MeterEdge:
    """Cursor, node, role."""

    cursor: str = strawberry.field(description=CURSOR)
    node: Meter = strawberry.field(description=NODE)
    role: HouseholdRole = strawberry.field(description="What the viewer may do with this meter.")


@strawberry.type(description="A page of meters.")
class MeterConnection:
    """Keyset page."""

    edges: list[MeterEdge] = strawberry.field(description=EDGES)
    page_info: PageInfo = strawberry.field(description=PAGE_INFO)

    @strawberry.field(description=NODES)
    def nodes(self) -> list[Meter]:
        return [edge.node for edge in self.edges]


def top_up_of(view: TopUpView) -> TopUp:
    """A top-up for its reader."""
    return TopUp(id=strawberry.ID(view.id), view=view)


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


async def _owner(context: Context, meter_id: str) -> Meter:
    """The meter of a top-up or an alert, which come only out of meters that the customer has."""
    view = await context.meters.load(meter_id)
    assert view is not None, "top-ups and alerts come only out of the customer's own meters"  # noqa: S101 - for types.
    return meter_of(view)
