"""Volume bought ahead: whole units, priced by the running total of the period's purchases."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standpipe.tariffs.files import TariffFileError, read_tariff
from standpipe.tariffs.periods import UTILITY, LineKind, Segment
from standpipe.tariffs.pricing import Block, Place, PriceTable
from standpipe.tariffs.purchases import buy, cost_of_units_minor, place_after, units_for_ml, whole_units_ml
from standpipe.tariffs.terms import Allowance, Levy, Proration, Season, Terms
from tests.support.tariffs import segments

MONTH = date(2026, 4, 1)
UNIT_ML = 100_000
VAT = Levy("vat", "VAT", percent=Decimal(16))
FUND = Levy("fund", "Water fund", per_kl_minor=Decimal(37))


def terms(*prices: tuple[int | None, str], allowance_ml: int = 0, unit_ml: int = UNIT_ML, **more: object) -> Terms:
    blocks = tuple(Block(up_to_ml, Decimal(price), tier=tier) for tier, (up_to_ml, price) in enumerate(prices))
    values: dict[str, object] = {"proration": Proration.NONE, "levies": (VAT,)} | more
    allowance = Allowance(allowance_ml) if allowance_ml else None
    return Terms((Season("all year", 1, 1, PriceTable(blocks)),), allowance=allowance, unit_ml=unit_ml, **values)  # type: ignore[arg-type]


def segment_of(made: Terms) -> Segment:
    return segments(made, MONTH)[0]


USUAL = segment_of(terms((6_000_000, "5000"), (None, "11000"), levies=(FUND, VAT)))


@st.composite
def tariffs(draw: st.DrawFn) -> Segment:
    edges = sorted(draw(st.sets(st.integers(1, 40), max_size=3)))
    prices = [str(draw(st.integers(0, 30_000))) for _ in edges] + [str(draw(st.integers(1, 30_000)))]
    bounds = [edge * 500_000 for edge in edges] + [None]
    allowance_ml = draw(st.sampled_from([0, 0, 250_000, 6_000_000]))
    unit_ml = draw(st.sampled_from([1, 1_000, UNIT_ML, 1_000_000]))
    levies = draw(st.sampled_from([(), (VAT,), (FUND, VAT)]))
    return segment_of(
        terms(*zip(bounds, prices, strict=True), allowance_ml=allowance_ml, unit_ml=unit_ml, levies=levies)
    )


def spend(segment: Segment, payments: list[int]) -> tuple[int, int, int]:
    """(volume, price, residue) of payments one after the other, each with the residue of those before."""
    bought_ml = price_minor = residue_minor = 0
    for paid_minor in payments:
        found = buy(segment, Place(segment.table, bought_ml), residue_minor + paid_minor)
        assert found.volume_ml % segment.terms.unit_ml == 0
        assert found.priced.total_minor == sum(line.amount_minor for line in found.priced.lines)
        assert found.priced.total_minor == sum(found.priced.accounts.values())
        assert sum(line.quantity for line in found.priced.lines if line.tier is not None) == found.volume_ml
        bought_ml += found.volume_ml
        price_minor += found.priced.total_minor
        residue_minor = found.residue_minor
        assert residue_minor >= 0
    return bought_ml, price_minor, residue_minor


@given(tariffs(), st.lists(st.integers(1, 200_000), min_size=1, max_size=12))
def test_t2_purchases_end_the_same_however_they_are_split(segment: Segment, payments: list[int]) -> None:
    assert spend(segment, payments) == spend(segment, [sum(payments)])


@pytest.mark.parametrize("paid_minor", [1_000, 99_999, 1_234_567])
def test_t2_a_thousand_purchases_are_one(paid_minor: int) -> None:
    edges = list(accumulate([Fraction(paid_minor, 1000)] * 1000))
    steps = [int(after) - int(before) for before, after in zip([Fraction(0), *edges], edges, strict=False)]
    assert spend(USUAL, steps) == spend(USUAL, [paid_minor])


@given(tariffs(), st.integers(0, 10**6), st.integers(0, 500))
def test_t10_money_to_units_to_money_never_takes_more_and_one_unit_more_would(
    segment: Segment, amount_minor: int, units_before: int
) -> None:
    unit_ml = segment.terms.unit_ml
    place = Place(segment.table, units_before * unit_ml)
    volume_ml = units_for_ml(place, amount_minor, unit_ml)
    assert cost_of_units_minor(place, volume_ml, unit_ml) <= amount_minor
    assert cost_of_units_minor(place, volume_ml + unit_ml, unit_ml) > amount_minor
    assert whole_units_ml(volume_ml, unit_ml) == volume_ml


def test_an_exact_price_leaves_nothing_and_one_cent_less_leaves_almost_a_unit() -> None:
    plain = segment_of(terms((6_000_000, "5000"), (None, "11000"), levies=()))
    assert spend(plain, [500]) == (UNIT_ML, 500, 0)
    assert spend(plain, [499]) == (0, 0, 499)
    assert spend(plain, [499, 1]) == (UNIT_ML, 500, 0)
    # Over the edge of the block: 6 kl at 5000, then 1 kl at 11000.
    assert spend(plain, [41_000]) == (7_000_000, 41_000, 0)


def test_the_allowance_comes_with_the_first_purchase_of_the_period() -> None:
    lifeline = segment_of(terms((10_000_000, "5000"), (None, "11000"), allowance_ml=6_000_000, levies=(VAT,)))
    first = buy(lifeline, Place(lifeline.table), 580)
    assert first.volume_ml == 6_000_000 + UNIT_ML
    assert [(line.kind, line.quantity, line.amount_minor) for line in first.priced.lines] == [
        (LineKind.ALLOWANCE, 6_000_000, 0),
        (LineKind.WATER, UNIT_ML, 500),
        (LineKind.LEVY, first.volume_ml, 80),
    ]
    assert dict(first.priced.accounts) == {UTILITY: 500, "vat": 80}
    second = buy(lifeline, Place(lifeline.table, first.volume_ml), 580)
    assert second.volume_ml == UNIT_ML
    # Also where nothing is left of the payment; an overdrawn wallet buys nothing at all.
    assert buy(lifeline, Place(lifeline.table), 0).volume_ml == 6_000_000
    nothing = buy(lifeline, Place(lifeline.table), -1)
    assert (nothing.volume_ml, nothing.residue_minor) == (0, -1)


def test_free_water_without_an_end_is_not_sold_without_an_end() -> None:
    free_tail = segment_of(terms((2_000_000, "5000"), (None, "0"), levies=()))
    assert spend(free_tail, [10**6]) == (2_000_000, 10_000, 990_000)
    all_free = segment_of(terms((None, "0"), levies=()))
    assert spend(all_free, [100]) == (0, 0, 100)


def test_a_file_that_would_sell_water_at_no_price_is_refused() -> None:
    text = (
        "tariff: p\nname: P\ncurrency: KES\nbasis: purchase\neffective-from: 2026-01-01\n"
        "blocks:\n  - {up-to-kl: 5, price: 1}\n  - {price: 0}\n"
    )
    with pytest.raises(TariffFileError, match="tariff:8: water that is bought ahead has a price"):
        read_tariff(text)
    assert read_tariff(text.replace("basis: purchase", "basis: consumption")).blocks[-1].price == 0


def test_purchases_count_in_the_segment_of_their_day() -> None:
    cheap, dear = (terms((None, price), proration=Proration.DAYS, levies=()) for price in ("1000", "9000"))
    spring = Season("spring", 4, 16, dear.seasons[0].table)
    both = Terms((cheap.seasons[0], spring), proration=Proration.DAYS, unit_ml=UNIT_ML)
    month = segments(both, MONTH)
    bought = {date(2026, 4, 3): 3_000_000, date(2026, 4, 20): 200_000}
    first, before = place_after(month, {date(2026, 4, 3): 3_000_000}, date(2026, 4, 10))
    assert (first.start, before.used_ml) == (MONTH, 3_000_000)
    later, place = place_after(month, bought, date(2026, 4, 20))
    assert (later.start, place.used_ml, place.carried_minor) == (date(2026, 4, 16), 200_000, Decimal(3_000))
    assert buy(later, place, 900).volume_ml == UNIT_ML
