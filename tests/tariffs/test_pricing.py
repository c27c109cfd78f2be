"""Pricing: exact at every edge, the same however a volume is split, and honest in both directions."""

from decimal import Decimal
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.platform.errors import InvalidInputError
from standpipe.tariffs.pricing import (
    MAX_VOLUME_ML,
    Block,
    PriceTable,
    charge_minor,
    cost_minor,
    tiers,
    volume_for_ml,
)
from standpipe_demo.simulator.meter_model import price_minor

KL = 1_000_000
THREE = PriceTable((Block(10 * KL, Decimal(500)), Block(20 * KL, Decimal(1000)), Block(None, Decimal(2000))))

prices = st.decimals(min_value=0, max_value=100_000, places=3)
volumes = st.integers(0, 200 * KL)


@st.composite
def tables(draw: st.DrawFn) -> PriceTable:
    edges = sorted(draw(st.sets(st.integers(1, 100 * KL), max_size=4)))
    return PriceTable(tuple(Block(edge, draw(prices)) for edge in (*edges, None)))


def slow_cost(table: PriceTable, volume_ml: int) -> int:
    """Another way to the same number: fractions, block by block, rounded half up at the end."""
    total, lower = Fraction(0), 0
    for block in table.blocks:
        upper = volume_ml if block.up_to_ml is None else min(volume_ml, block.up_to_ml)
        if upper > lower:
            total += Fraction(block.price_minor_per_kl) * (upper - lower) / KL
            lower = upper
    return floor(total + Fraction(1, 2))


@pytest.mark.parametrize(
    ("volume_ml", "expected"),
    [(0, 0), (10 * KL, 5_000), (10 * KL - 1, 5_000), (20 * KL, 15_000), (25 * KL, 25_000), (10 * KL + 1_000, 5_001)],
)
def test_t1_exactly_at_a_blocks_edge(volume_ml: int, expected: int) -> None:
    """10 m³ cost 50 and 25 m³ cost 250, in hundredths."""
    assert cost_minor(THREE, volume_ml) == expected


@given(tables(), volumes)
def test_t1_any_table_agrees_with_the_slow_way_and_with_the_meter(table: PriceTable, volume_ml: int) -> None:
    blocks = tuple((block.up_to_ml, str(block.price_minor_per_kl)) for block in table.blocks)
    assert cost_minor(table, volume_ml) == slow_cost(table, volume_ml) == price_minor(blocks, volume_ml)


@given(tables(), st.lists(st.integers(0, 5 * KL), max_size=30))
def test_t2_a_split_never_changes_the_sum(table: PriceTable, parts: list[int]) -> None:
    used = total = 0
    for part in parts:
        total += charge_minor(table, used, part)
        used += part
    assert total == cost_minor(table, used)


def test_t2_a_thousand_parts_cost_what_one_costs() -> None:
    parts = sum(charge_minor(THREE, 25_000 * number, 25_000) for number in range(1_000))
    assert parts == cost_minor(THREE, 25 * KL) == 25_000


@given(tables(), volumes, volumes)
def test_tiers_sum_to_the_charge_and_the_volume(table: PriceTable, used_ml: int, volume_ml: int) -> None:
    parts = tiers(table, used_ml, volume_ml)
    assert sum(part.volume_ml for part in parts) == volume_ml
    assert sum(part.cost_minor for part in parts) == charge_minor(table, used_ml, volume_ml)


@given(tables(), volumes, st.integers(0, 10**9))
def test_t10_money_to_volume_and_back(table: PriceTable, used_ml: int, amount_minor: int) -> None:
    volume_ml = volume_for_ml(table, used_ml, amount_minor)
    assert charge_minor(table, used_ml, volume_ml) <= amount_minor
    if used_ml + volume_ml < MAX_VOLUME_ML:
        assert charge_minor(table, used_ml, volume_ml + 1) > amount_minor


def test_free_water_costs_nothing_and_money_reaches_beyond_it() -> None:
    lifeline = PriceTable((Block(2 * KL, Decimal(0)), Block(None, Decimal(5000))))
    assert cost_minor(lifeline, 2 * KL) == 0
    assert volume_for_ml(lifeline, 0, 5000) == 3 * KL + 99
    assert volume_for_ml(PriceTable((Block(None, Decimal(0)),)), 0, 1) == MAX_VOLUME_ML


@pytest.mark.parametrize(
    "blocks",
    [
        (),
        ((10, "1"),),
        ((None, "1"), (None, "2")),
        ((10, "1"), (5, "1"), (None, "1")),
        ((None, "-1"),),
        ((None, "NaN"),),
    ],
)
def test_tables_that_are_none_are_refused(blocks: tuple[tuple[int | None, str], ...]) -> None:
    with pytest.raises(InvalidInputError):
        PriceTable(tuple(Block(bound, Decimal(price)) for bound, price in blocks))


@pytest.mark.parametrize("volume_ml", [-1, MAX_VOLUME_ML + 1])
def test_volumes_out_of_all_bounds_are_refused(volume_ml: int) -> None:
    with pytest.raises(InvalidInputError):
        cost_minor(THREE, volume_ml)
