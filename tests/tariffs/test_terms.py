"""Terms and periods: every rule of a tariff by an example that can be reckoned in the head."""

from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest

from standpipe.platform.errors import NotFoundError
from standpipe.tariffs.periods import (
    LineKind,
    Priced,
    Segment,
    Supply,
    price_standing,
    price_use,
    segments_of,
)
from standpipe.tariffs.terms import Allowance, Levy, Per, Proration, Season, StandingCharge, Terms
from tests.support.tariffs import segments, version
from tests.support.terms import KL, all_year, table

APRIL = date(2027, 4, 1)  # Thirty days.
MID_APRIL = date(2027, 4, 16)
TWO = all_year((6, 50), (None, 100))


def cost(terms: Terms, kl: float, month: date = APRIL, **supply: object) -> int:
    return price_use(segments(terms, month, **supply), [int(kl * KL)]).total_minor


def amounts(bill: Priced) -> dict[str, int]:
    """By code, as a reader would add up the lines."""
    found: dict[str, int] = {}
    for line in bill.lines:
        found[line.code] = found.get(line.code, 0) + line.amount_minor
    return found


def change(old: Terms, new: Terms, day: date = MID_APRIL) -> tuple[Segment, ...]:
    """A month in which a version follows another."""
    supply = Supply(date(2020, 1, 1), "trf")
    return segments_of(APRIL, [supply], {"trf": [version(old), version(new, day)]})


def move(terms: Terms, day: date = MID_APRIL) -> tuple[Segment, ...]:
    """A month in which one household moves out and another in."""
    supplies = [Supply(date(2020, 1, 1), "trf", household_id="hh_a"), Supply(day, "trf", household_id="hh_b")]
    return segments_of(APRIL, supplies, {"trf": [version(terms)]})


# Allowance, households, groups.


@pytest.mark.parametrize(("kl", "expected"), [(2, 0), (5, 3 * 50), (6, 4 * 50), (8, 4 * 50 + 2 * 100)])
def test_t7_an_allowance_that_ends_inside_a_block_leaves_the_blocks_where_they_are(kl: int, expected: int) -> None:
    terms = Terms(TWO, allowance=Allowance(2 * KL))
    assert cost(terms, kl) == expected


def test_t7_an_allowance_beyond_a_block_is_explained_block_by_block() -> None:
    bill = price_use(segments(Terms(TWO, allowance=Allowance(7 * KL)), APRIL), [9 * KL])
    assert [(line.kind, line.tier, line.quantity // KL, line.rate, line.amount_minor) for line in bill.lines] == [
        (LineKind.ALLOWANCE, 0, 6, 0, 0),
        (LineKind.ALLOWANCE, 1, 1, 0, 0),
        (LineKind.WATER, 1, 2, 100, 200),
    ]


def test_t7_blocks_times_households() -> None:
    terms = Terms(TWO, blocks_per_household=True)
    assert cost(terms, 20, households=1) == 6 * 50 + 14 * 100
    assert cost(terms, 20, households=3) == 18 * 50 + 2 * 100
    assert cost(Terms(TWO), 20, households=3) == 6 * 50 + 14 * 100


@pytest.mark.parametrize(("per_household", "free"), [(True, 6), (False, 2)])
def test_t7_the_allowance_counts_once_or_for_each_household(per_household: bool, free: int) -> None:
    terms = Terms(TWO, blocks_per_household=True, allowance=Allowance(2 * KL, per_household))
    assert cost(terms, 20, households=3) == (18 - free) * 50 + 2 * 100


def test_t7_an_allowance_for_a_group_is_for_nobody_else() -> None:
    terms = Terms(TWO, allowance=Allowance(2 * KL, groups=frozenset({"lifeline"})))
    assert cost(terms, 5) == 5 * 50
    assert cost(terms, 5, groups=frozenset({"social"})) == 5 * 50
    assert cost(terms, 5, groups=frozenset({"social", "lifeline"})) == 3 * 50


# Levies and discounts.


def test_a_levy_on_a_levy() -> None:
    fee = Levy("fee", "Fee", percent=Decimal(10))
    vat = Levy("vat", "VAT", percent=Decimal(20), of=frozenset({"water", "fee"}))
    bill = price_use(segments(Terms(all_year((None, 100)), levies=(fee, vat)), APRIL), [5 * KL])
    assert amounts(bill) == {"water": 500, "fee": 50, "vat": 110}
    assert bill.accounts == {"utility": 500, "fee": 50, "vat": 110}
    assert bill.total_minor == 660


def test_levies_stand_on_the_bill_in_the_tariffs_order() -> None:
    first = Levy("first", "First block", per_kl_minor=Decimal(1), tiers=frozenset({0}))
    second = Levy("second", "Second block", per_kl_minor=Decimal(2), tiers=frozenset({1}))
    vat = Levy("vat", "VAT", percent=Decimal(10), of=frozenset({"water", "first", "second"}))
    bill = price_use(segments(Terms(TWO, levies=(first, second, vat)), APRIL), [8 * KL])
    assert list(amounts(bill)) == ["water", "first", "second", "vat"]
    assert amounts(bill) == {"water": 500, "first": 6, "second": 4, "vat": 51}


def test_an_amount_per_kilolitre_is_not_due_on_free_water() -> None:
    sewer = Levy("sewer", "Sewer", per_kl_minor=Decimal(30))
    terms = Terms(TWO, allowance=Allowance(2 * KL), levies=(sewer,))
    assert cost(terms, 2) == 0
    assert cost(terms, 5) == 3 * (50 + 30)


def test_a_levy_for_a_group_and_one_for_a_block() -> None:
    surcharge = Levy("rich", "Surcharge", percent=Decimal(50), tiers=frozenset({1}))
    staff = Levy("staff", "Staff", per_kl_minor=Decimal(7), groups=frozenset({"staff"}))
    terms = Terms(TWO, levies=(surcharge, staff))
    assert cost(terms, 8) == 6 * 50 + 2 * 150
    assert cost(terms, 8, groups=frozenset({"staff"})) == 6 * 57 + 2 * 157


def test_a_tax_is_due_on_what_a_discount_leaves_where_it_names_the_discount() -> None:
    social = Levy("social", "Social", percent=Decimal(20), groups=frozenset({"social"}), discount=True)
    net = Levy("vat", "VAT", percent=Decimal(10), of=frozenset({"water", "social"}))
    gross = Levy("vat", "VAT", percent=Decimal(10))
    poor = frozenset({"social"})
    for vat, expected in ((net, 1000 - 200 + 80), (gross, 1000 - 200 + 100)):
        terms = Terms(all_year((None, 100)), levies=(social, vat))
        assert cost(terms, 10) == 1000 + 100
        bill = price_use(segments(terms, APRIL, groups=poor), [10 * KL])
        assert bill.total_minor == expected
        assert [line.kind for line in bill.lines] == [LineKind.WATER, LineKind.DISCOUNT, LineKind.LEVY]
        assert bill.accounts == {"utility": 800, "vat": expected - 800}


def test_a_period_is_rounded_once_half_up() -> None:
    bill = price_use(segments(Terms(all_year((1, "0.5"), (2, "0.5"), (None, "0.5"))), APRIL), [3 * KL])
    assert bill.total_minor == 2
    assert [line.amount_minor for line in bill.lines] == [1, 0, 1]
    assert cost(Terms(all_year((None, "0.499"))), 1) == 0


# Seasons.


def test_a_season_begins_inside_a_month() -> None:
    seasons = (Season("dry", 4, 16, table((10, 30), (None, 40))), Season("wet", 10, 1, table((10, 10), (None, 20))))
    prorated = segments(Terms(seasons), APRIL)
    assert [(item.start, item.end, item.season.name) for item in prorated] == [
        (APRIL, MID_APRIL, "wet"),
        (MID_APRIL, date(2027, 5, 1), "dry"),
    ]
    assert price_use(prorated, [8 * KL, 8 * KL]).total_minor == 5 * 10 + 3 * 20 + 5 * 30 + 3 * 40
    whole = segments(Terms(seasons, proration=Proration.NONE), APRIL)
    assert price_use(whole, [8 * KL, 8 * KL]).total_minor == 8 * 10 + 2 * 30 + 6 * 40


def test_seasons_of_one_name_are_as_many_seasons() -> None:
    seasons = (Season("high", 4, 1, table((None, 10))), Season("high", 4, 16, table((None, 30))))
    assert price_use(segments(Terms(seasons), APRIL), [KL, KL]).total_minor == 10 + 30


def test_before_the_years_first_season_the_last_one_still_holds() -> None:
    seasons = (Season("summer", 6, 1, table((None, 10))), Season("winter", 11, 1, table((None, 30))))
    assert [cost(Terms(seasons), 1, date(2028, month, 1)) for month in (1, 5, 6, 10, 11)] == [30, 30, 10, 10, 30]


# A version that follows another, and a household that follows another.

OLD, NEW = all_year((10, 10), (None, 20)), all_year((10, 30), (None, 40))


def test_t6_a_change_of_prices_with_blocks_by_the_day() -> None:
    halves = change(Terms(OLD), Terms(NEW))
    assert [item.share for item in halves] == [Fraction(1, 2), Fraction(1, 2)]
    bill = price_use(halves, [8 * KL, 8 * KL])
    assert bill.total_minor == 5 * 10 + 3 * 20 + 5 * 30 + 3 * 40
    assert [(line.since, line.until, line.quantity // KL, line.rate, line.amount_minor) for line in bill.lines] == [
        (APRIL, MID_APRIL, 5, 10, 50),
        (APRIL, MID_APRIL, 3, 20, 60),
        (MID_APRIL, date(2027, 5, 1), 5, 30, 150),
        (MID_APRIL, date(2027, 5, 1), 3, 40, 120),
    ]


def test_t6_a_change_of_prices_with_blocks_in_full() -> None:
    halves = change(Terms(OLD, proration=Proration.NONE), Terms(NEW, proration=Proration.NONE))
    bill = price_use(halves, [8 * KL, 9 * KL])
    assert bill.total_minor == 8 * 10 + 2 * 30 + 7 * 40
    assert [(line.quantity // KL, line.amount_minor) for line in bill.lines] == [(8, 80), (2, 60), (7, 280)]


def test_t6_the_allowance_goes_by_the_day_too() -> None:
    terms = Terms(OLD, allowance=Allowance(4 * KL)), Terms(NEW, allowance=Allowance(4 * KL))
    assert price_use(change(*terms), [5 * KL, 5 * KL]).total_minor == 3 * 10 + 3 * 30


def test_t6_a_change_on_the_first_cuts_nothing() -> None:
    (only,) = change(Terms(OLD), Terms(NEW), APRIL)
    assert price_use([only], [12 * KL]).total_minor == 10 * 30 + 2 * 40


def test_t6_a_monthly_charge_over_a_change() -> None:
    def fixed(amount: int, proration: Proration) -> Terms:
        charge = StandingCharge("rent", "Rent", Decimal(amount), Per.MONTH)
        return Terms(OLD, standing=(charge,), proration=proration)

    by_day = change(fixed(150, Proration.DAYS), fixed(300, Proration.DAYS))
    assert price_standing(by_day, APRIL).total_minor == 75
    assert price_standing(by_day, date(2027, 4, 15)).total_minor == 75
    assert price_standing(by_day, MID_APRIL).total_minor == 75 + 150
    in_full = change(fixed(150, Proration.NONE), fixed(300, Proration.NONE))
    assert price_standing(in_full, date(2027, 4, 30)).total_minor == 150


def test_moving_day_begins_the_blocks_anew() -> None:
    by_day = move(Terms(OLD))
    assert price_use(by_day, [8 * KL, 8 * KL]).total_minor == 2 * (5 * 10 + 3 * 20)
    in_full = move(Terms(OLD, proration=Proration.NONE))
    assert price_use(in_full, [8 * KL, 12 * KL]).total_minor == 8 * 10 + 10 * 10 + 2 * 20


def test_a_household_that_moves_in_has_its_part_of_the_month() -> None:
    charge = StandingCharge("rent", "Rent", Decimal(150), Per.MONTH)
    first = Supply(date(2027, 4, 21), "trf", household_id="hh_a")
    (part,) = segments_of(APRIL, [first], {"trf": [version(Terms(all_year((9, 10), (None, 20)), standing=(charge,)))]})
    assert (part.start, part.share) == (date(2027, 4, 21), Fraction(1, 3))
    assert price_use([part], [5 * KL]).total_minor == 3 * 10 + 2 * 20
    assert price_standing([part], date(2027, 4, 21)).total_minor == 50


def test_eligibility_that_begins_inside_a_month() -> None:
    terms = Terms(OLD, allowance=Allowance(4 * KL, groups=frozenset({"lifeline"})))
    supplies = [Supply(date(2020, 1, 1), "trf"), Supply(MID_APRIL, "trf", groups=frozenset({"lifeline"}))]
    halves = segments_of(APRIL, supplies, {"trf": [version(terms)]})
    assert price_use(halves, [3 * KL, 3 * KL]).total_minor == 3 * 10 + 1 * 10


def test_a_tariff_without_prices_is_said_so() -> None:
    with pytest.raises(NotFoundError):
        segments_of(APRIL, [Supply(APRIL, "trf")], {})


# Standing charges.


def test_t7_a_monthly_charge_is_due_on_the_first_and_a_daily_one_day_by_day() -> None:
    monthly = StandingCharge("rent", "Rent", Decimal(150), Per.MONTH)
    daily = StandingCharge("line", "Line", Decimal(5), Per.DAY)
    vat = Levy("vat", "VAT", percent=Decimal(10), of=frozenset({"rent"}))
    month = segments(Terms(TWO, standing=(monthly, daily), levies=(vat,)), APRIL)
    first = price_standing(month, APRIL)
    assert amounts(first) == {"rent": 150, "line": 5, "vat": 15}
    assert first.accounts == {"utility": 155, "vat": 15}
    assert [(line.code, line.kind, line.quantity, line.rate) for line in first.lines] == [
        ("rent", LineKind.STANDING, 30, 150),
        ("line", LineKind.STANDING, 1, 5),
        ("vat", LineKind.LEVY, 1, None),
    ]
    assert amounts(price_standing(month, date(2027, 4, 30))) == {"rent": 150, "line": 150, "vat": 15}
    assert price_standing(month, date(2027, 3, 31)).total_minor == 0


def test_standing_charges_of_households_and_groups() -> None:
    each = StandingCharge("each", "Each", Decimal(100), Per.MONTH, per_household=True)
    some = StandingCharge("some", "Some", Decimal(40), Per.MONTH, groups=frozenset({"staff"}))
    waiver = Levy(
        *("waiver", "Waiver", Decimal(100)), of=frozenset({"each"}), groups=frozenset({"social"}), discount=True
    )
    terms = Terms(TWO, standing=(each, some), levies=(waiver,))
    assert price_standing(segments(terms, APRIL, households=3), APRIL).total_minor == 300
    assert price_standing(segments(terms, APRIL, groups=frozenset({"staff"})), APRIL).total_minor == 140
    assert price_standing(segments(terms, APRIL, groups=frozenset({"social"})), APRIL).total_minor == 0
