"""Tariffs as the app sees them: the blocks, and where this meter stands in them."""

from datetime import date

import strawberry

from standpipe.billing.overview import MeterView
from standpipe.graphql.base import Money, Node, Volume, described_enum, money, price, volume
from standpipe.tariffs.periods import Segment
from standpipe.tariffs.pricing import TierUse, water_price
from standpipe.tariffs.terms import Basis, Per, StandingCharge

described_enum(
    Per,
    {
        Per.DAY: "For each day of the supply.",
        Per.MONTH: "For each calendar month.",
    },
    name="ChargePeriod",
    description="How often a fixed charge falls due.",
)


@strawberry.type(description="One block of a tariff: from is included, to is not.")
class Tier:
    """A price per kilolitre in a range of the period's volume."""

    index: int = strawberry.field(description="Its place in `tiers`, from 0.")
    from_: Volume = strawberry.field(name="from", description="Volume of the period at which it begins.")
    to: Volume | None = strawberry.field(
        description="Volume of the period at which the next tier begins; null of the last."
    )
    price_per_kilolitre: Money = strawberry.field(description="All that is paid per kilolitre: levies are in it.")
    water_price_per_kilolitre: Money = strawberry.field(description="The published price, without levies.")
    free: bool = strawberry.field(description="Within the free allowance, or at no price.")


@strawberry.type(description="A charge for the supply itself, whether or not water runs.")
class FixedCharge:
    """Before taxes."""

    code: str = strawberry.field(description="The tariff's own code, stable.")
    label: str = strawberry.field(description="As the tariff names it; not translated.")
    amount: Money = strawberry.field(description="For one day or month, as published, without levies.")
    per: Per = strawberry.field(description="What `amount` is for.")


@strawberry.type(description="An increasing block tariff.")
class Tariff(Node):
    """Prices, and where this meter stands in them."""

    name: str = strawberry.field(description="As the utility names it; not translated.")
    effective_from: date = strawberry.field(description="The first day of these prices, in the meter's time zone.")
    effective_to: date | None = strawberry.field(description="The last day of these prices; null while none follow.")
    tiers: list[Tier] = strawberry.field(description="As they hold for this meter: households, allowance, part period.")
    fixed_charges: list[FixedCharge] = strawberry.field(
        description="Standing charges as published; some may hold for certain groups of customers only."
    )
    used_this_period: Volume = strawberry.field(
        description="Water used in this billing period, since the household moved in."
    )
    bought_this_period: Volume | None = strawberry.field(
        description="What was bought in the period, which the tiers count; null where they count what was used."
    )
    current_tier: int = strawberry.field(description="The `index` of the tier that the next litre falls into.")
    to_next_tier: Volume | None = strawberry.field(description="What may still run at the present tier's price.")
    period_ends_on: date = strawberry.field(description="The last day of the billing period.")
    next: "Tariff | None" = strawberry.field(description="The version that is announced to follow.")


@strawberry.type(description="Part of a volume that falls into one tier.")
class TierLine:
    """Tier, volume, cost."""

    tier: int = strawberry.field(description="The place of the tier in the tariff of that time, from 0, as Tier.index.")
    volume: Volume = strawberry.field(description="The part of the volume that falls into this tier.")
    cost: Money = strawberry.field(description="What this part costs, levies and taxes within.")


def tier_lines(parts: tuple[TierUse, ...], currency: str, language: str) -> list[TierLine]:
    """Parts of a volume for their reader."""
    return [
        TierLine(
            tier=part.index, volume=volume(part.volume_ml, language), cost=money(part.cost_minor, currency, language)
        )
        for part in parts
    ]


def tariff_of(view: MeterView, segment: Segment, language: str) -> Tariff:
    """A tariff version as it holds for this meter in a segment of a period, with its place in it today."""
    tariff, blocks = segment.version, segment.table.blocks
    by_purchase = tariff.basis == Basis.PURCHASE
    used_ml = view.place.used_ml if segment is view.segment else 0
    bounds = [0, *(block.up_to_ml for block in blocks if block.up_to_ml is not None)]
    current = max(index for index, bound in enumerate(bounds) if bound <= used_ml)
    upper_ml = blocks[current].up_to_ml
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
                water_price_per_kilolitre=price(water_price(block), tariff.currency, language),
                free=block.free or block.price_minor_per_kl == 0,
            )
            for index, block in enumerate(blocks)
        ],
        fixed_charges=[_fixed(charge, tariff.currency, language) for charge in segment.terms.standing],
        used_this_period=volume(view.used_this_period_ml, language),
        bought_this_period=volume(view.bought_this_period_ml, language) if by_purchase else None,
        current_tier=current,
        to_next_tier=None if upper_ml is None else volume(upper_ml - used_ml, language),
        period_ends_on=date.fromordinal(view.period_end.toordinal() - 1),
        next=None,
    )


def _fixed(charge: StandingCharge, currency: str, language: str) -> FixedCharge:
    return FixedCharge(
        code=charge.code,
        label=charge.name,
        amount=price(charge.amount_minor, currency, language),
        per=charge.per,
    )
