"""Tariffs as the app sees them: the blocks, and where this meter stands in them."""

from datetime import date

import strawberry

from standpipe.graphql.base import Money, Node, Volume, money, price, volume
from standpipe.tariffs.catalogue import TariffInForce
from standpipe.tariffs.pricing import TierUse
from standpipe.usage.overview import MeterView


@strawberry.type(description="One block of a tariff: from is included, to is not.")
class Tier:
    """A price per kilolitre in a range of the period's volume."""

    index: int
    from_: Volume = strawberry.field(name="from")
    to: Volume | None
    price_per_kilolitre: Money
    free: bool


@strawberry.type(description="An increasing block tariff.")
class Tariff(Node):
    """Prices, and where this meter stands in them."""

    name: str
    effective_from: date
    effective_to: date | None = strawberry.field(description="The last day of these prices; null while none follow.")
    tiers: list[Tier]
    used_this_period: Volume
    current_tier: int
    to_next_tier: Volume | None = strawberry.field(description="What may still run at the present tier's price.")
    period_ends_on: date = strawberry.field(description="The last day of the billing period.")
    next: "Tariff | None" = strawberry.field(description="The version that is announced to follow.")


@strawberry.type(description="Part of a volume that falls into one tier.")
class TierLine:
    """Tier, volume, cost."""

    tier: int
    volume: Volume
    cost: Money


def tier_lines(parts: tuple[TierUse, ...], currency: str, language: str) -> list[TierLine]:
    """Parts of a volume for their reader."""
    return [
        TierLine(
            tier=part.index, volume=volume(part.volume_ml, language), cost=money(part.cost_minor, currency, language)
        )
        for part in parts
    ]


def tariff_of(view: MeterView, tariff: TariffInForce, language: str) -> Tariff:
    """A tariff version, with this meter's place in it."""
    bounds = [0, *(block.up_to_ml for block in tariff.table.blocks if block.up_to_ml is not None)]
    current = max(index for index, bound in enumerate(bounds) if bound <= view.used_this_period_ml)
    upper_ml = tariff.table.blocks[current].up_to_ml
    return Tariff(
        id=strawberry.ID(tariff.version_id),
        name=tariff.name,
        effective_from=tariff.effective_from,
        effective_to=None,
        tiers=[
            Tier(
                index=index,
                from_=volume(bounds[index], language),
                to=None if block.up_to_ml is None else volume(block.up_to_ml, language),
                price_per_kilolitre=price(block.price_minor_per_kl, tariff.currency, language),
                free=block.price_minor_per_kl == 0,
            )
            for index, block in enumerate(tariff.table.blocks)
        ],
        used_this_period=volume(view.used_this_period_ml, language),
        current_tier=current,
        to_next_tier=None if upper_ml is None else volume(upper_ml - view.used_this_period_ml, language),
        period_ends_on=date.fromordinal(view.period_end.toordinal() - 1),
        next=None,
    )
