"""Terms of a tariff, and the price table that follows from them for one meter. Pure.

All that depends on volume alone (blocks, allowance, levies, discounts) folds into one table of blocks whose prices
hold everything the customer pays per kilolitre; each price keeps the parts it is made of, so that a bill can say what
went where. Standing charges depend on days, and stand apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, localcontext
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from standpipe.tariffs.pricing import PRECISION, WATER, Block, Part, PriceTable

_HUNDRED = Decimal(100)


class Basis(StrEnum):
    """Bases of the blocks: the period's consumption (MONEY wallets) or its purchases (VOLUME wallets)."""

    CONSUMPTION = "CONSUMPTION"
    PURCHASE = "PURCHASE"


class Proration(StrEnum):
    """Treatments of blocks, allowance and monthly charges where terms hold for a part of a period only.

    DAYS: they shrink to the part of the period's days. NONE: they stand in full; over a change of prices the volume so
    far keeps its place in the blocks, and a new tenancy begins at their bottom.
    """

    DAYS = "DAYS"
    NONE = "NONE"


class Per(StrEnum):
    """Spans by which a standing charge accrues."""

    DAY = "DAY"
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True)
class Season:
    """Blocks that hold from a day of the year until the next season begins."""

    name: str
    month: int
    day: int
    table: PriceTable


@dataclass(frozen=True, slots=True)
class Allowance:
    """Free volume at the bottom of the blocks. ``groups``: who has it (none: everybody)."""

    volume_ml: int
    per_household: bool = False
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StandingCharge:
    """Owed for the supply itself, whether or not water runs; ``amount_minor`` per day or month."""

    code: str
    name: str
    amount_minor: Decimal
    per: Per
    per_household: bool = False
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Levy:
    """A tax, levy or (``discount``) reduction: percent of what stands before it, or an amount per kilolitre.

    ``of``: the codes it is reckoned on ("water", a standing charge's, an earlier levy's). ``tiers``: only these blocks
    (none: all). ``groups``: only who is in one of them (none: everybody).
    """

    code: str
    name: str
    percent: Decimal | None = None
    per_kl_minor: Decimal | None = None
    of: frozenset[str] = frozenset({WATER})
    tiers: frozenset[int] = frozenset()
    groups: frozenset[str] = frozenset()
    discount: bool = False


@dataclass(frozen=True, eq=False)
class Terms:
    """A tariff version. Compared by identity: a published version never changes, so one object stands for it."""

    seasons: tuple[Season, ...]
    blocks_per_household: bool = False
    allowance: Allowance | None = None
    standing: tuple[StandingCharge, ...] = ()
    levies: tuple[Levy, ...] = ()
    proration: Proration = Proration.DAYS
    unit_ml: int = 1

    def season_on(self, day: date) -> Season:
        """The season that a day falls into; before the year's first, the last of the year before holds."""
        begun = [season for season in self.seasons if (season.month, season.day) <= (day.month, day.day)]
        return (begun or list(self.seasons))[-1]


def plain_terms(table: PriceTable) -> Terms:
    """Terms that hold nothing but blocks."""
    return Terms((Season("all year", 1, 1, table),), proration=Proration.NONE)


@lru_cache(maxsize=4096)
def meter_table(terms: Terms, season: Season, households: int, groups: frozenset[str], share: Fraction) -> PriceTable:
    """The table by which a meter with these households and groups is charged in ``share`` of a period."""
    scale = share * (households if terms.blocks_per_household else 1)
    edges = [None if block.up_to_ml is None else _scaled(block.up_to_ml, scale) for block in season.table.blocks]
    free_ml = _allowance_ml(terms.allowance, households, groups, share)
    blocks: list[Block] = []
    lower_ml = 0
    for tier, (edge_ml, block) in enumerate(zip(edges, season.table.blocks, strict=True)):
        for upper_ml, free in _parted(lower_ml, edge_ml, free_ml):
            blocks.append(_block(terms, groups, tier, upper_ml, Decimal(0) if free else block.price_minor_per_kl, free))
        lower_ml = lower_ml if edge_ml is None else max(edge_ml, lower_ml)
    return PriceTable(tuple(blocks))


def stacked(
    levies: Sequence[Levy], base: Sequence[Part], groups: frozenset[str], tier: int | None = None, *, free: bool = False
) -> tuple[Part, ...]:
    """A price with its levies upon it, in the order of the tariff; amounts per kilolitre, or (``tier`` None) whole."""
    parts = list(base)
    for levy in levies:
        if levy.groups and not levy.groups & groups:
            continue
        if levy.tiers and tier not in levy.tiers:
            continue
        amount = _levied(levy, parts, water=tier is not None and not free)
        if amount:
            parts.append(Part(levy.code, amount))
    return tuple(parts)


def _levied(levy: Levy, parts: Sequence[Part], *, water: bool) -> Decimal:
    sign = -1 if levy.discount else 1
    if levy.percent is None:
        return sign * (levy.per_kl_minor or Decimal(0)) if water else Decimal(0)
    with localcontext() as context:
        context.prec = PRECISION
        base = sum((part.per_kl for part in parts if part.code in levy.of), Decimal(0))
        return sign * base * levy.percent / _HUNDRED


def _block(terms: Terms, groups: frozenset[str], tier: int, upper_ml: int | None, price: Decimal, free: bool) -> Block:
    parts = stacked(terms.levies, (Part(WATER, price),), groups, tier, free=free)
    with localcontext() as context:
        context.prec = PRECISION
        total = sum((part.per_kl for part in parts), Decimal(0))
    return Block(upper_ml, total, parts, tier, free)


def _parted(lower_ml: int, upper_ml: int | None, free_ml: int) -> list[tuple[int | None, bool]]:
    """A block's range cut where the allowance ends inside it; ranges that shrank to nothing fall out."""
    if upper_ml is not None and upper_ml <= lower_ml:
        return []
    if free_ml <= lower_ml:
        return [(upper_ml, False)]
    if upper_ml is not None and upper_ml <= free_ml:
        return [(upper_ml, True)]
    return [(free_ml, True), (upper_ml, False)]


def _allowance_ml(allowance: Allowance | None, households: int, groups: frozenset[str], share: Fraction) -> int:
    if allowance is None or (allowance.groups and not allowance.groups & groups):
        return 0
    return _scaled(allowance.volume_ml, share * (households if allowance.per_household else 1))


def _scaled(volume_ml: int, scale: Fraction) -> int:
    """Whole millilitres, half up."""
    return (2 * volume_ml * scale.numerator + scale.denominator) // (2 * scale.denominator)


def standing_parts(terms: Terms, charge: StandingCharge, households: int, groups: frozenset[str]) -> tuple[Part, ...]:
    """One day's or month's standing charge with its levies; nothing for who is not in its groups."""
    if charge.groups and not charge.groups & groups:
        return ()
    amount = charge.amount_minor * (households if charge.per_household else 1)
    return stacked(terms.levies, (Part(charge.code, amount),), groups)
