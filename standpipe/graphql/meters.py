"""Meters as the app sees them: the three balances apart, the valve, the tariff, history and quotes."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import strawberry
from graphql import GraphQLError

from standpipe.customers.models import HouseholdRole
from standpipe.graphql.alerts import AlertConnection, load_alerts
from standpipe.graphql.base import Money, Node, PageInfo, Volume, litres, money, page_info, volume
from standpipe.graphql.context import Ctx, TopUpsRequest
from standpipe.graphql.members import HouseholdMember, load_members
from standpipe.graphql.quotes import QuoteBy, QuotePayload, quote_of
from standpipe.graphql.saving import AutoTopUp, load_auto_top_up
from standpipe.graphql.statements import Comparison, StatementPayload, load_comparison, load_statement
from standpipe.graphql.tariffs import Tariff, TierLine, tariff_of, tier_lines
from standpipe.graphql.top_ups import TopUpConnection, TopUpEdge, TopUpMethod, method_of, top_up_of
from standpipe.meters.models import WalletKind
from standpipe.meters.reports import ValveReason, ValveState
from standpipe.payments.rails.registry import methods_in
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import is_id
from standpipe.usage.emergency import emergency_offer_minor
from standpipe.usage.overview import MeterView
from standpipe.usage.series import BucketQuality, SeriesRequest, UsageInterval, check
from standpipe.usage.series import UsageBucket as BucketView

MAX_FIRST = 100

strawberry.enum(ValveState, name="ValveState", description="Where the valve stands.")
strawberry.enum(WalletKind, name="WalletKind", description="Whether the meter holds money or water that is paid for.")
strawberry.enum(ValveReason, name="ValveReason", description="Why, by the meter's word.")
strawberry.enum(UsageInterval, name="UsageInterval", description="The length of a bucket.")
strawberry.enum(BucketQuality, name="ReadingQuality", description="MISSING is not zero.")


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
    last_seen_at: datetime | None
    online: bool
    battery_percent: int | None

    @strawberry.field(
        description="When the meter should speak next, by its own habit of the last weeks; in the past where it is "
        "late, null while there is too little to tell."
    )
    async def expected_next_at(self, info: Ctx) -> datetime | None:
        usual = await info.context.rhythms.load(self.meter_id)
        return None if usual is None or self.last_seen_at is None else self.last_seen_at + usual


@strawberry.type(description="How long the credit lasts.")
class Forecast:
    """Days at high, usual and low use."""

    days_low: float
    days_likely: float
    days_high: float
    empty_on: date
    litres_left: Volume


@strawberry.type(description="ledger = onMeter (as last reported) + inFlight - usedSinceReport")
class Balance:
    """Three balances, shown apart."""

    ledger: Money = strawberry.field(description="What our books say.")
    on_meter: Money | None = strawberry.field(
        description="What the meter last said; null until it has spoken, and of a meter that holds volume."
    )
    on_meter_as_of: datetime | None = strawberry.field(description="When it said so.")
    in_flight: Money = strawberry.field(description="Credit on its way to the meter.")
    on_meter_volume: Volume | None = strawberry.field(
        description="What a meter that holds volume last said; null until it has spoken, and of one that holds money."
    )
    in_flight_volume: Volume | None = strawberry.field(
        description="Volume on its way to the meter; null of one that holds money."
    )
    arrears: Money = strawberry.field(
        description="Owed from before, or for credit whose payment was taken back; each top-up repays a share."
    )
    standing_due: Money = strawberry.field(
        description="Standing charges that have fallen due, whatever the valve does; the next top-up pays them."
    )
    emergency_credit: Money = strawberry.field(description="Emergency credit in use; the next top-up repays it first.")
    emergency_credit_available: Money = strawberry.field(
        description="What emergencyCreditActivate would give now; zero where it would refuse."
    )
    used_since_report: Money | None = strawberry.field(description="Booked use that the meter has not reported on.")
    lasts: Forecast | None = strawberry.field(description="Null while there are under 7 days of use.")


@strawberry.type(description="The meter's own valve.")
class Valve:
    """State, reason, and what is on its way."""

    state: ValveState
    reason: ValveReason
    changed_at: datetime | None
    pending: ValveState | None = strawberry.field(description="The position that a waiting command asks for.")


@strawberry.type(description="Use in [start, end).")
class UsageBucket:
    """Volume and cost through the tiers."""

    start: datetime
    end: datetime
    volume: Volume
    cost: Money
    tiers: list[TierLine]
    quality: BucketQuality


@strawberry.type(description="Column form for charts on slow networks: same order as buckets, null where MISSING.")
class CompactSeries:
    """Two columns."""

    start: datetime | None
    litres: list[Decimal | None]
    cost: list[Decimal | None]


@strawberry.type(description="A history of use.")
class UsageSeries:
    """Buckets of one length, oldest first; none in the future."""

    found: strawberry.Private[list[BucketView]]
    currency: strawberry.Private[str]
    interval: UsageInterval

    @strawberry.field
    def total(self, info: Ctx) -> Volume:
        return volume(sum(bucket.volume_ml for bucket in self.found), info.context.language)

    @strawberry.field
    def total_cost(self, info: Ctx) -> Money:
        return money(sum(bucket.cost_minor for bucket in self.found), self.currency, info.context.language)

    @strawberry.field
    def buckets(self, info: Ctx) -> list[UsageBucket]:
        language = info.context.language
        return [
            UsageBucket(
                start=bucket.start,
                end=bucket.end,
                volume=volume(bucket.volume_ml, language),
                cost=money(bucket.cost_minor, self.currency, language),
                tiers=tier_lines(bucket.tiers, self.currency, language),
                quality=bucket.quality,
            )
            for bucket in self.found
        ]

    @strawberry.field
    def compact(self, info: Ctx) -> CompactSeries:
        language = info.context.language
        told = [None if bucket.quality is BucketQuality.MISSING else bucket for bucket in self.found]
        return CompactSeries(
            start=self.found[0].start if self.found else None,
            litres=[litres(bucket.volume_ml) if bucket else None for bucket in told],
            cost=[money(bucket.cost_minor, self.currency, language).amount if bucket else None for bucket in told],
        )


@strawberry.type(description="A prepaid water meter.")
class Meter(Node):
    """What a household sees of its meter."""

    view: strawberry.Private[MeterView]

    @strawberry.field
    def serial(self) -> str:
        return self.view.serial

    @strawberry.field
    def label(self) -> str:
        return self.view.label

    @strawberry.field(description="IANA name; service days and billing periods follow it.")
    def time_zone(self) -> str:
        return self.view.time_zone

    @strawberry.field
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

    @strawberry.field
    def balance(self, info: Ctx) -> Balance:
        return balance_of(self.view, info.context.language)

    @strawberry.field
    def valve(self) -> Valve:
        view = self.view
        return Valve(
            state=ValveState(view.valve),
            reason=ValveReason(view.valve_reason),
            changed_at=view.valve_changed_at,
            pending=None if view.valve_pending is None else ValveState(view.valve_pending),
        )

    @strawberry.field
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
        self, info: Ctx, from_: Annotated[date, strawberry.argument(name="from")], to: date, interval: UsageInterval
    ) -> UsageSeries:
        view = self.view
        request = SeriesRequest(
            view.id, view.tariff_id, view.time_zone, from_, to, interval, view.first_day, view.contract
        )
        try:
            check(request)
        except InvalidInputError as error:
            raise GraphQLError(str(error), extensions={"code": "INVALID"}) from None
        since = max(from_, view.history_start)
        if since >= to:
            return UsageSeries(found=[], currency=view.currency, interval=interval)
        found = await info.context.usage.load(replace(request, from_day=since))
        return UsageSeries(found=found, currency=self.view.currency, interval=interval)

    @strawberry.field(description="A month's statement (any day of it): as it was closed, or as it stands so far.")
    async def statement(self, info: Ctx, month: date) -> StatementPayload:
        return await load_statement(info.context, self.view, month)

    @strawberry.field(description="This period against the last, and against similar households.")
    async def comparison(self, info: Ctx) -> Comparison:
        return await load_comparison(info.context, self.view)

    @strawberry.field(
        description="Price check against this period's use so far and what the meter owes; stores nothing. With a "
        "methodId, the fee of that way to pay is counted in."
    )
    def quote(self, info: Ctx, by: QuoteBy, method_id: strawberry.ID | None = None) -> QuotePayload:
        return quote_of(info.context, self.view, by, None if method_id is None else str(method_id))

    @strawberry.field(description="The standing order that tops this meter up by itself; null where there is none.")
    async def auto_top_up(self, info: Ctx) -> AutoTopUp | None:
        return await load_auto_top_up(info, self.view.id)

    @strawberry.field(description="Those who share the household, and those who are invited to.")
    async def members(self, info: Ctx) -> list[HouseholdMember]:
        return await load_members(info.context, self.view.id)

    @strawberry.field
    def top_up_methods(self, info: Ctx) -> list[TopUpMethod]:
        currency = self.view.currency
        return [
            method_of(method, currency, info.context.language)
            for _, method in methods_in(info.context.tools.rails, currency)
        ]

    @strawberry.field(description="Newest first; none from before the household moved in.")
    async def top_ups(self, info: Ctx, first: int = 20, after: str | None = None) -> TopUpConnection:
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


def balance_of(view: MeterView, language: str) -> Balance:
    """The three balances."""
    known = view.on_meter_minor is not None
    used_minor = (view.on_meter_minor or 0) + view.in_flight_minor - view.ledger_minor
    lasts, in_volume = view.lasts, view.wallet_kind is WalletKind.VOLUME
    return Balance(
        ledger=money(view.ledger_minor, view.currency, language),
        on_meter=money(view.on_meter_minor or 0, view.currency, language) if known else None,
        on_meter_as_of=view.on_meter_as_of,
        in_flight=money(view.in_flight_minor, view.currency, language),
        on_meter_volume=None if view.on_meter_ml is None else volume(view.on_meter_ml, language),
        in_flight_volume=volume(view.in_flight_ml, language) if in_volume else None,
        arrears=money(view.dues.debt_minor, view.currency, language),
        standing_due=money(view.dues.standing_minor, view.currency, language),
        emergency_credit=money(view.dues.emergency_minor, view.currency, language),
        emergency_credit_available=money(emergency_offer_minor(view), view.currency, language),
        used_since_report=money(used_minor, view.currency, language) if known else None,
        lasts=None
        if lasts is None
        else Forecast(
            days_low=round(lasts.days_low, 1),
            days_likely=round(lasts.days_likely, 1),
            days_high=round(lasts.days_high, 1),
            empty_on=lasts.empty_on,
            litres_left=volume(lasts.volume_left_ml, language),
        ),
    )


@strawberry.type(description="One meter and the reader's role in its household.")
class MeterEdge:
    """Cursor, node, role."""

    cursor: str
    node: Meter
    role: HouseholdRole


@strawberry.type(description="A page of meters.")
class MeterConnection:
    """Keyset page."""

    edges: list[MeterEdge]
    page_info: PageInfo

    @strawberry.field
    def nodes(self) -> list[Meter]:
        return [edge.node for edge in self.edges]
