"""Laws that hold for any terms, any household and any month: the sum is one, however it is come by."""

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from standpipe.platform.units import period_of
from standpipe.tariffs.periods import (
    LineKind,
    Segment,
    Supply,
    TariffInForce,
    cost_of_use_minor,
    places,
    price_more,
    price_standing,
    price_use,
    segments_of,
)
from standpipe.tariffs.pricing import Place, charge_minor
from standpipe.tariffs.terms import Allowance, Levy, Proration, Terms
from tests.support.tariffs import segments
from tests.support.terms import DAYS, GROUPS, KL, all_year, any_terms


@st.composite
def any_month(draw: st.DrawFn) -> tuple[Segment, ...]:
    """A month under any tariff, for any household: with a change of prices, a move, or both, or neither."""
    day = draw(DAYS)
    start = period_of(day)[0]
    versions = [TariffInForce("trf", "v1", "Tariff", "KES", date(2020, 1, 1), draw(any_terms()))]
    if draw(st.booleans()):
        versions.append(TariffInForce("trf", "v2", "Tariff", "KES", draw(DAYS), draw(any_terms())))
    supplies = [Supply(draw(st.sampled_from([date(2020, 1, 1), day])), "trf", draw(st.integers(1, 5)), draw(GROUPS))]
    if draw(st.booleans()):
        later = day + timedelta(days=draw(st.integers(1, 20)))
        supplies.append(Supply(later, "trf", draw(st.integers(1, 5)), draw(GROUPS), draw(st.none() | st.just("hh_b"))))
    return segments_of(start, supplies, {"trf": versions})


volumes = st.integers(0, 150 * KL)


@st.composite
def months_of_use(draw: st.DrawFn) -> tuple[tuple[Segment, ...], list[int]]:
    month = draw(any_month())
    return month, [draw(volumes) for _ in month]


def slow_exact(segment: Segment, from_ml: int, to_ml: int) -> Fraction:
    """Another way to the same price: each stretch between two edges, its levies laid upon it one by one."""
    terms, supply = segment.terms, segment.supply
    scale = segment.share * (supply.households if terms.blocks_per_household else 1)
    edges = [floor(b.up_to_ml * scale + Fraction(1, 2)) for b in segment.season.table.blocks if b.up_to_ml is not None]
    free = terms.allowance
    free_ml = 0
    if free and (not free.groups or free.groups & supply.groups):
        free_ml = floor(
            free.volume_ml * segment.share * (supply.households if free.per_household else 1) + Fraction(1, 2)
        )
    stops = sorted({from_ml, to_ml, *(stop for stop in (*edges, free_ml) if from_ml < stop < to_ml)})
    total = Fraction(0)
    for low, high in pairwise(stops):
        tier = sum(edge <= low for edge in edges)
        parts = {"water": Fraction(0 if low < free_ml else segment.season.table.blocks[tier].price_minor_per_kl)}
        for levy in terms.levies:
            if (levy.groups and not levy.groups & supply.groups) or (levy.tiers and tier not in levy.tiers):
                continue
            if levy.percent is None:
                amount = Fraction(0 if low < free_ml else levy.per_kl_minor or 0)
            else:
                amount = sum((parts.get(code, Fraction(0)) for code in levy.of), Fraction(0)) * Fraction(levy.percent)
                amount /= 100
            parts[levy.code] = -amount if levy.discount else amount
        total += sum(parts.values()) * (high - low) / KL
    return total


@given(months_of_use())
def test_t1_any_period_agrees_with_the_slow_way(use: tuple[tuple[Segment, ...], list[int]]) -> None:
    month, used = use
    exact, place_ml = Fraction(0), 0
    for segment, volume_ml in zip(month, used, strict=True):
        if segment.terms.proration is Proration.DAYS or segment.new_tenancy:
            place_ml = 0
        exact += slow_exact(segment, place_ml, place_ml + volume_ml)
        place_ml += volume_ml
    assert price_use(month, used).total_minor == floor(exact + Fraction(1, 2))


@given(months_of_use())
def test_a_bills_lines_and_accounts_sum_to_it(use: tuple[tuple[Segment, ...], list[int]]) -> None:
    month, used = use
    bill = price_use(month, used)
    assert bill.total_minor == sum(line.amount_minor for line in bill.lines) == cost_of_use_minor(month, used)
    assert bill.total_minor == sum(bill.accounts.values())
    assert 0 not in bill.accounts.values()
    water = [line for line in bill.lines if line.kind in {LineKind.WATER, LineKind.ALLOWANCE}]
    assert sum(line.quantity for line in water) == sum(used)


@given(months_of_use(), st.data())
def test_t2_a_split_of_any_period_never_changes_the_sum(
    use: tuple[tuple[Segment, ...], list[int]], data: st.DataObject
) -> None:
    month, used = use
    *_, last = places(month, used)
    before = Place(last.table, last.used_ml - used[-1], last.carried_minor)
    cuts = sorted(data.draw(st.lists(st.integers(0, used[-1]), max_size=20)))
    steps = [high - low for low, high in zip([0, *cuts], [*cuts, used[-1]], strict=True)]
    total, place = cost_of_use_minor(month, [*used[:-1], 0]), before
    for step in steps:
        more = price_more(month[-1], place, step)
        assert more.total_minor == charge_minor(place.table, place.used_ml, step, place.carried_minor)
        assert more.total_minor == sum(line.amount_minor for line in more.lines) == sum(more.accounts.values())
        total += more.total_minor
        place = Place(place.table, place.used_ml + step, place.carried_minor)
    assert total == cost_of_use_minor(month, used)


def test_t2_a_thousand_parts_of_a_period_cost_what_one_costs() -> None:
    vat = Levy("vat", "VAT", percent=Decimal("7.7"))
    terms = Terms(all_year((6, "50.333"), (None, "99.999")), allowance=Allowance(2 * KL), levies=(vat,))
    (month,) = segments(terms, date(2027, 4, 1), households=2)
    place, total = Place(month.table), 0
    for _ in range(1_000):
        total += price_more(month, place, 25_000).total_minor
        place = Place(place.table, place.used_ml + 25_000)
    assert total == price_use([month], [25 * KL]).total_minor


@given(months_of_use(), st.data())
def test_more_water_never_costs_less(use: tuple[tuple[Segment, ...], list[int]], data: st.DataObject) -> None:
    month, used = use
    which = data.draw(st.integers(0, len(used) - 1))
    # Blocks in full go on from what was used before: more of it early may push the rest into a cheaper block.
    assert cost_of_use_minor(month, used) >= 0
    if which == len(used) - 1 or all(item.terms.proration is Proration.DAYS for item in month):
        more = [volume + (data.draw(volumes) if number == which else 0) for number, volume in enumerate(used)]
        assert cost_of_use_minor(month, more) >= cost_of_use_minor(month, used)


@given(any_month())
def test_standing_charges_only_grow_and_their_lines_sum(month: tuple[Segment, ...]) -> None:
    before = 0
    day = month[0].start
    while day < month[-1].end:
        due = price_standing(month, day)
        assert due.total_minor == sum(line.amount_minor for line in due.lines) == sum(due.accounts.values())
        assert due.total_minor >= before
        before, day = due.total_minor, day + timedelta(days=1)
