"""Block pricing. Pure and exact: ``Decimal`` and integers, no database, no clock, no float.

A period's cost is the sum over blocks of (volume in the block × price per kilolitre), rounded **once**, half up, on
the period's total. A charge for part of a period is the difference of two such totals, so splitting a volume in any
way never changes the sum. Blocks are half-open, ``[from, up_to)``: the first millilitre of a block is the one after
``from_ml`` has been used, so 10 m³ under "0–10 @ 5, 10–20 @ 10" costs exactly 50.

``carried_minor`` is what the period has cost outside of the table (under the prices before a change), not rounded.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal, localcontext
from typing import Any

from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase
from standpipe.platform.units import MAX_MINOR, ML_PER_KILOLITRE

MAX_VOLUME_ML = 10**15
PRECISION = 60
"""Digits kept in products: MAX_VOLUME_ML (16) times any sane price (20) fits with room, so nothing is ever rounded."""
WATER = "water"
_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Part:
    """Share of a price for one purpose (water, or a levy's code), in minor units per kilolitre."""

    code: str
    per_kl: Decimal


@dataclass(frozen=True, slots=True)
class Block:
    """Volume up to ``up_to_ml`` (exclusive; None for the last) at a price in minor units per kilolitre.

    ``parts`` say what the price holds (none: all of it is water) and sum to it. ``tier`` is the block's place in the
    published tariff, which an allowance may part in two; ``free``: within the allowance.
    """

    up_to_ml: int | None
    price_minor_per_kl: Decimal
    parts: tuple[Part, ...] = ()
    tier: int = 0
    free: bool = False


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Blocks as one meter is charged. Raises InvalidInputError where they do not rise or the last is not open-ended."""

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        bounds = [block.up_to_ml for block in self.blocks]
        if not bounds or bounds[-1] is not None or None in bounds[:-1]:
            raise InvalidInputError(phrase("The last block, and only it, is open-ended."))
        edges = [0, *(bound for bound in bounds if bound is not None)]
        if any(upper <= lower for lower, upper in itertools.pairwise(edges)):
            raise InvalidInputError(phrase("Blocks must rise."))
        if any(not block.price_minor_per_kl.is_finite() or block.price_minor_per_kl < 0 for block in self.blocks):
            raise InvalidInputError(phrase("A price must be a number that is not below zero."))


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a meter in its period: the prices of today, the volume used under them, what came before."""

    table: PriceTable
    used_ml: int = 0
    carried_minor: Decimal = _NOTHING


@dataclass(frozen=True, slots=True)
class TierUse:
    """Volume that falls into block ``index`` and its cost. ``cost_minor`` of a list sums to the list's total."""

    index: int
    volume_ml: int
    cost_minor: int


def table_of(blocks: Sequence[dict[str, Any]]) -> PriceTable:
    """The price table of a plain list: ``[{"up_to_ml": int | null, "price_minor_per_kl": "decimal"}]``."""
    return PriceTable(
        tuple(
            Block(block["up_to_ml"], Decimal(block["price_minor_per_kl"]), tier=index)
            for index, block in enumerate(blocks)
        )
    )


def water_price(block: Block) -> Decimal:
    """Return the share of a block's price that is for water itself, in minor units per kilolitre."""
    return next((part.per_kl for part in block.parts if part.code == WATER), block.price_minor_per_kl)


def cost_minor(table: PriceTable, volume_ml: int, carried_minor: Decimal = _NOTHING) -> int:
    """Cost in minor units of a period in which ``volume_ml`` was used; rounded once, half up."""
    return rounded(exact_minor(table, volume_ml) + carried_minor)


def charge_minor(table: PriceTable, used_ml: int, volume_ml: int, carried_minor: Decimal = _NOTHING) -> int:
    """Cost of ``volume_ml`` more when ``used_ml`` was used before it in the period."""
    return cost_minor(table, used_ml + volume_ml, carried_minor) - cost_minor(table, used_ml, carried_minor)


def tiers(table: PriceTable, used_ml: int, volume_ml: int, carried_minor: Decimal = _NOTHING) -> list[TierUse]:
    """Split a charge block by block; rounding falls where the running total rounds, so the parts sum exactly."""
    parts: list[TierUse] = []
    position_ml, end_ml = used_ml, used_ml + volume_ml
    for index, block in enumerate(table.blocks):
        stop_ml = end_ml if block.up_to_ml is None else min(end_ml, block.up_to_ml)
        if stop_ml > position_ml:
            part_ml = stop_ml - position_ml
            parts.append(TierUse(index, part_ml, charge_minor(table, position_ml, part_ml, carried_minor)))
            position_ml = stop_ml
    return parts


def volume_for_ml(table: PriceTable, used_ml: int, amount_minor: int, carried_minor: Decimal = _NOTHING) -> int:
    """The most volume that ``amount_minor`` buys after ``used_ml``: one millilitre more would cost more (T10).

    Free water beyond all paid blocks has no end; it is capped at MAX_VOLUME_ML.
    """
    _bounded(amount_minor, MAX_MINOR)
    with localcontext() as context:
        context.prec = PRECISION
        # Rounded half up, a total is still T while the exact cost is below T + 0.5.
        limit = Decimal(cost_minor(table, used_ml, carried_minor) + amount_minor) + Decimal("0.5") - carried_minor
        spent, lower_ml = Decimal(0), 0
        for block in table.blocks:
            upper_ml = MAX_VOLUME_ML if block.up_to_ml is None else block.up_to_ml
            block_cost = (upper_ml - lower_ml) * block.price_minor_per_kl / ML_PER_KILOLITRE
            if spent + block_cost >= limit:
                room = (limit - spent) * ML_PER_KILOLITRE / block.price_minor_per_kl
                volume_ml = lower_ml + int(room.to_integral_value(ROUND_FLOOR)) - used_ml
                if charge_minor(table, used_ml, volume_ml, carried_minor) > amount_minor:
                    volume_ml -= 1
                return volume_ml
            spent, lower_ml = spent + block_cost, upper_ml
    return MAX_VOLUME_ML - used_ml


def exact_minor(table: PriceTable, volume_ml: int) -> Decimal:
    """Cost before it is rounded."""
    _bounded(volume_ml, MAX_VOLUME_ML)
    with localcontext() as context:
        context.prec = PRECISION
        total, lower_ml = Decimal(0), 0
        for block in table.blocks:
            upper_ml = volume_ml if block.up_to_ml is None else min(volume_ml, block.up_to_ml)
            if upper_ml <= lower_ml:
                break
            total += (upper_ml - lower_ml) * block.price_minor_per_kl / ML_PER_KILOLITRE
            lower_ml = upper_ml
        return total


def rounded(exact: Decimal) -> int:
    """Minor units, half up: the one place where a price is rounded."""
    with localcontext() as context:
        context.prec = PRECISION
        return int(exact.to_integral_value(ROUND_HALF_UP))


def _bounded(value: int, limit: int) -> None:
    if not 0 <= value <= limit:
        raise InvalidInputError(phrase("The amount is outside the range that can be priced."))
