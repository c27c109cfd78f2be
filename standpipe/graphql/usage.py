"""A meter's use as the app sees it: by hour, day or month, with its cost through the tiers."""

from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal

import strawberry
from graphql import GraphQLError

from standpipe.billing.overview import MeterView
from standpipe.billing.series import BucketQuality, SeriesRequest, UsageInterval, check
from standpipe.billing.series import UsageBucket as BucketView
from standpipe.graphql.base import Money, Volume, described_enum, litres, money, volume
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.tariffs import TierLine, tier_lines
from standpipe.platform.errors import InvalidInputError

described_enum(
    UsageInterval,
    {
        UsageInterval.HOUR: "An hour of elapsed time: a day has 23 or 25 of them where the clocks change.",
        UsageInterval.DAY: "A calendar day in the meter's time zone.",
        UsageInterval.MONTH: "A calendar month in the meter's time zone; the first and last only as far as asked for.",
    },
    name="UsageInterval",
    description="The length of a bucket.",
)
described_enum(
    BucketQuality,
    {
        BucketQuality.MEASURED: "Told by readings.",
        BucketQuality.ESTIMATED: "A share of what was measured over a gap in the readings.",
        BucketQuality.PARTIAL: "Only some days of the month are told, or asked for; this month so far, too.",
        BucketQuality.MISSING: "No reading tells of it (yet): show a gap, not zero.",
    },
    name="ReadingQuality",
    description="MISSING is not zero.",
)


@strawberry.type(description="Use in [start, end).")
class UsageBucket:
    """Volume and cost through the tiers."""

    start: datetime = strawberry.field(
        description="Included. Days and months begin at midnight in the meter's time zone."
    )
    end: datetime = strawberry.field(description="Not included.")
    volume: Volume = strawberry.field(description="Water used; zero says nothing where the quality is MISSING.")
    cost: Money = strawberry.field(
        description="Through the tiers, levies within; zero where water is paid for when it is bought."
    )
    tiers: list[TierLine] = strawberry.field(
        description="The cost by tier; empty where water is paid for when it is bought."
    )
    quality: BucketQuality = strawberry.field(description="How far volume and cost can be relied on.")


@strawberry.type(description="Column form for charts on slow networks: same order as buckets, null where MISSING.")
class CompactSeries:
    """Two columns."""

    start: datetime | None = strawberry.field(description="When the first bucket begins; null where there are none.")
    litres: list[Decimal | None] = strawberry.field(description="What each bucket used, in litres.")
    cost: list[Decimal | None] = strawberry.field(description="What each bucket cost, in the currency's major unit.")


@strawberry.type(description="A history of use.")
class UsageSeries:
    """Buckets of one length, oldest first; none in the future."""

    found: strawberry.Private[list[BucketView]]
    currency: strawberry.Private[str]
    interval: UsageInterval = strawberry.field(description="As asked for.")

    @strawberry.field(description="The sum of the buckets; those MISSING add nothing.")
    def total(self, info: Ctx) -> Volume:
        return volume(sum(bucket.volume_ml for bucket in self.found), info.context.language)

    @strawberry.field(description="The sum of the buckets' costs.")
    def total_cost(self, info: Ctx) -> Money:
        return money(sum(bucket.cost_minor for bucket in self.found), self.currency, info.context.language)

    @strawberry.field(description="Oldest first; none in the future.")
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

    @strawberry.field(description="The same in columns, some times smaller.")
    def compact(self, info: Ctx) -> CompactSeries:
        language = info.context.language
        told = [None if bucket.quality is BucketQuality.MISSING else bucket for bucket in self.found]
        return CompactSeries(
            start=self.found[0].start if self.found else None,
            litres=[litres(bucket.volume_ml) if bucket else None for bucket in told],
            cost=[money(bucket.cost_minor, self.currency, language).amount if bucket else None for bucket in told],
        )


async def load_usage(
    context: Context, view: MeterView, from_day: date, to_day: date, interval: UsageInterval
) -> UsageSeries:
    """A meter's history of use in [from_day, to_day), since its household moved in. Raises an INVALID error."""
    request = SeriesRequest(
        view.id, view.tariff_id, view.time_zone, from_day, to_day, interval, view.first_day, view.contract
    )
    try:
        check(request)
    except InvalidInputError as error:
        raise GraphQLError(error.text_in(context.language), extensions={"code": "INVALID"}) from None
    since = max(from_day, view.history_start)
    found = [] if since >= to_day else await context.usage.load(replace(request, from_day=since))
    return UsageSeries(found=found, currency=view.currency, interval=interval)
