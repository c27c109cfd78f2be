"""Quotes through GraphQL: both ways, and what is kept back and why."""

import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.till import FEES, QUOTE, WORLDS, Till, codes, dues, emergency, in_world, minor, owe, rich, rules, use
from tests.support.town import Town, make_town

pytestmark = pytest.mark.calendar


@pytest.fixture
async def town(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with make_town(database_url, tmp_path, service_fees=FEES) as made:
        yield made


@pytest.fixture(params=[(name, method) for name in WORLDS for method in (None, "stripe")], ids=str)
async def till(town: Town, request: pytest.FixtureRequest) -> Till:
    return await in_world(town, *request.param)


@given(pay_minor=st.integers(min_value=100_000, max_value=3_000_000))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_t10_money_to_litres_and_back_never_costs_more(till: Till, pay_minor: int) -> None:
    there = await till.quote(money=f"{pay_minor / 100:.2f}")
    litres = Decimal(there["volume"]["litres"])
    assert litres > 0
    back = await till.quote(litres=str(litres))
    assert back["volume"]["litres"] == there["volume"]["litres"]
    assert minor(back["pay"]) <= pay_minor
    more = await till.quote(litres=str(litres + Decimal("0.001")))
    assert minor(more["pay"]) > pay_minor
    # The litres' own quote can be ordered by: its money gives them.
    again = await till.quote(money=back["pay"]["amount"])
    assert Decimal(again["volume"]["litres"]) >= litres


async def test_t10_whole_shillings_only_where_the_rail_moves_no_others(town: Town) -> None:
    till = Till(town, "mpesa")
    asked = await till.quote(litres="123.456")
    assert minor(asked["pay"]) % 100 == 0
    assert Decimal(asked["volume"]["litres"]) >= Decimal("123.456")
    # One shilling less would not have been enough.
    less = await till.quote(money=f"{(minor(asked['pay']) - 100) / 100:.2f}")
    assert Decimal(less["volume"]["litres"]) < Decimal("123.456")
    assert codes(asked) == {"FEE": (minor(asked["pay"]) * 50 * 2 + 10_000) // 20_000}


async def test_p25_what_cannot_be_quoted_is_refused_with_its_field(town: Town) -> None:
    till = Till(town)
    for by, field in (
        ({"money": "0"}, "amount"), ({"money": "-5"}, "amount"), ({"money": "10000000000000000"}, "amount"),
        ({"money": "1.005"}, "amount"), ({"litres": "0"}, "litres"), ({"litres": "-1"}, "litres"),
        ({"litres": "0.0001"}, "litres"), ({"litres": "1000000000000000"}, "litres"),
    ):  # fmt: skip
        payload = await till.ask(**by)  # type: ignore[arg-type]
        assert (payload["quote"], payload["userErrors"][0]["code"]) == (None, "INVALID"), by
        assert field in payload["userErrors"][0]["field"], by
    for wanted in ({}, {"money": {"amount": "5", "currency": "KES"}, "litres": "5"}, {"litres": "NaN"}):
        answer = await town.gql(QUOTE, i=town.home.meter_id, by=wanted)
        assert "errors" in answer, wanted
    written = await town.gql('{ viewer { meters { nodes { quote(by: {litres: "NaN"}) { quote { id } } } } } }')
    assert [error.get("extensions") for error in written["errors"]] == [None], "told as the mistake that it is"
    dollars = await town.gql(QUOTE, i=town.home.meter_id, by={"money": {"amount": "5", "currency": "USD"}})
    assert dollars["data"]["node"]["quote"]["userErrors"][0]["field"] == ["by", "money", "currency"]
    nowhere = await Till(town, "barter").ask(money="5")
    assert nowhere["userErrors"][0]["field"] == ["methodId"]


# --- What is kept back ---


async def test_arrears_take_their_share_and_no_more_than_the_week_allows(town: Town) -> None:
    await owe(town, 400_000)
    till = Till(town)
    assert codes(await till.quote(money="100.00")) == {"DEBT": 2_500}
    await rules(town, debt_weekly_cap_minor=3_000)
    assert codes(await till.quote(money="1000.00")) == {"DEBT": 3_000}
    # What was repaid this week counts.
    first = await till.order("100.00", None, method="stripe")
    await till.pay(first["topUp"]["id"])
    paid = 400_000 - (await dues(town)).debt_minor
    assert paid == (10_000 - 175) * 25 // 100
    assert codes(await till.quote(money="1000.00")) == {"DEBT": 3_000 - paid}


async def test_one_quote_ordered_by_many_times_repays_no_more_than_the_week_allows(town: Town) -> None:
    await owe(town, 400_000)
    await rules(town, debt_weekly_cap_minor=1_000)
    till = Till(town, "stripe")
    quote = await till.quote(money="500.00")
    assert codes(quote)["DEBT"] == 1_000
    orders = [await till.order("500.00", quote["id"]) for _ in range(3)]
    for order in orders:
        await till.pay(order["topUp"]["id"])
    assert 400_000 - (await dues(town)).debt_minor == 1_000


async def test_guaranteed_water_comes_before_standing_charges_and_debt(town: Town) -> None:
    await rich(town)
    await rules(town, guaranteed_ml=2_000_000)
    await use(town, 1_000)
    await owe(town, 400_000)
    till = Till(town)
    small = await till.quote(money="100.00")
    assert codes(small) == {}
    # The next two kilolitres, levy and all, less the cent that the litre before had begun.
    guaranteed = round(Decimal("53.455") * Decimal("1.04") * 200)
    enough = await till.quote(money="1000.00")
    assert codes(enough) == {"STANDING": 17_400, "DEBT": 25_000}
    between = await till.quote(money="200.00")
    assert codes(between)["STANDING"] == 20_000 - minor(between["credit"])
    assert abs(minor(between["credit"]) - guaranteed) <= 1


async def test_t7_the_first_vend_of_a_month_says_what_the_fixed_charge_takes(town: Town) -> None:
    await rich(town, "lifeline")
    await use(town, 1_000)
    till = Till(town, "stripe")
    quote = await till.quote(money="500.00")
    fee, standing = quote["deductions"]
    assert (fee["code"], minor(fee["amount"])) == ("FEE", 775)
    # 150.00 and its VAT, once, on the first vend; the allowance makes the first kilolitre cost nothing.
    assert (standing["code"], standing["label"], minor(standing["amount"])) == (
        "STANDING", "Standing charges due", 17_400,
    )  # fmt: skip
    free, paid_for, *_ = quote["lines"]
    assert (free["tier"], free["volume"]["litres"], minor(free["cost"])) == (0, "999", 0)
    assert paid_for["tier"] == 1
    [levy] = quote["taxes"]
    assert (levy["code"], levy["label"]) == ("regulatory", "Regulatory levy")
    done = await till.pay((await till.order("500.00", quote["id"]))["topUp"]["id"])
    assert {line["code"]: minor(line["amount"]) for line in done["receipt"]["lines"]}["STANDING"] == 17_400
    assert "STANDING" not in codes(await till.quote(money="500.00"))


async def test_emergency_credit_is_repaid_first_and_whole(town: Town) -> None:
    await emergency(town)
    await owe(town, 400_000)
    till = Till(town)
    assert codes(await till.quote(money="150.00")) == {"EMERGENCY": 15_000}
    assert codes(await till.quote(money="300.00")) == {"EMERGENCY": 20_000, "DEBT": 2_500}
    assert minor((await till.quote(litres="0.2"))["pay"]) == 20_001


async def test_an_overdrawn_wallet_is_made_up_for_first(town: Town) -> None:
    await use(town, 3_000_000)
    quote = await Till(town).quote(money="200.00")
    assert (minor(quote["overdrawn"]), quote["volume"]["litres"]) == (15_000, "1000.099")
    small = await Till(town).quote(money="100.00")
    assert minor(small["overdrawn"]) == 10_000
    # What a rounded cent leaves room for, no more.
    assert Decimal(small["volume"]["litres"]) < Decimal("0.1")


async def test_water_that_costs_nothing_is_not_to_be_paid_for(town: Town) -> None:
    await rich(town, "lifeline")
    payload = await Till(town).ask(litres="500")
    assert (payload["userErrors"][0]["code"], payload["userErrors"][0]["field"]) == ("INVALID", ["by", "litres"])
    assert minor((await Till(town).quote(litres="1001"))["pay"]) > 0


async def test_where_everything_is_kept_back_no_litre_can_be_quoted(town: Town) -> None:
    await rules(town, debt_share_percent=100)
    await owe(town, 10**15)
    payload = await Till(town).ask(litres="1")
    assert payload["userErrors"][0]["field"] == ["by", "litres"]
    assert codes(await Till(town).quote(money="10.00")) == {"DEBT": 1_000}


@pytest.mark.parametrize("litres", ["1E+999990", "1E+9999999", "-1E+999990", "1E-9999999"])
async def test_a_number_that_is_short_to_write_and_long_to_reckon_is_refused_at_once(town: Town, litres: str) -> None:
    begun_s = time.monotonic()
    answer = await town.gql(QUOTE, i=town.home.meter_id, by={"litres": litres}, w=None)
    assert "too many digits" in answer["errors"][0]["message"]
    assert time.monotonic() - begun_s < 2
