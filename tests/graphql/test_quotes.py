"""Quotes through GraphQL: both ways, what is kept back and why, and an order that gives exactly what was quoted."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from standpipe.customers.models import Utility
from standpipe.ids import new_id
from standpipe.ledger.dues import Dues, dues_of
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.payments.arrears import add_arrears
from standpipe.payments.models import TopUp
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.publishing import publish
from standpipe.usage.readings import take_report
from tests.support.town import Town, make_home, make_town, until

NAIROBI = ZoneInfo("Africa/Nairobi")
FEES = {"stripe": {"basis_points": 150, "fixed_minor": 25}, "mpesa": {"basis_points": 50}}
QUOTE = (
    "query($i: ID!, $by: QuoteBy!, $w: ID) { node(id: $i) { ... on Meter { quote(by: $by, methodId: $w) { quote { id "
    "pay { amount } deductions { code label amount { amount } } credit { amount } overdrawn { amount } "
    "volume { litres } lines { tier volume { litres } cost { amount } } taxes { code label amount { amount } } "
    "rounding { amount } validUntil } userErrors { code field message } } } } }"
)
START = (
    "mutation($k: ID!, $m: ID!, $a: Decimal!, $w: ID!, $q: ID) { topUpStart(input: {idempotencyKey: $k, meterId: $m, "
    'pay: {amount: $a, currency: "KES"}, methodId: $w, quoteId: $q}) { replayed topUp { id status } userErrors { '
    "__typename code field retryable ... on QuoteChanged { quote { id pay { amount } credit { amount } } } } } }"
)
RECEIPT = (
    "query($i: ID!) { node(id: $i) { ... on TopUp { credit { amount } receipt { pay { amount } volume { litres } "
    "lines { code amount { amount } } } } } }"
)
RICH = """
tariff: rich
name: Rich
currency: KES
effective-from: 2020-01-01
proration: none
blocks:
  - {up-to-kl: 6, price: 53.455}
  - {up-to-kl: 20, price: 95.10}
  - {price: 130.00}
allowance: {kl: 1, for: [lifeline]}
standing-charges:
  - {code: meter-rent, name: Meter rent, amount: 150.00, per: month}
levies:
  - {code: regulatory, name: Regulatory levy, percent: 4, of: [water]}
  - {code: vat, name: VAT, percent: 16, of: [meter-rent]}
"""


def minor(amount: dict[str, str]) -> int:
    return int(Decimal(amount["amount"]) * 100)


@dataclass
class Till:
    """A household that asks and orders."""

    town: Town
    method: str | None = None

    async def ask(self, *, token: str | None = None, meter_id: str | None = None, **by: str) -> dict[str, Any]:
        """A quote's payload. By ``money`` (KES) or by ``litres``."""
        wanted = {"money": {"amount": by["money"], "currency": "KES"}} if "money" in by else by
        home = self.town.home
        answer = await self.town.gql(QUOTE, token, i=meter_id or home.meter_id, by=wanted, w=self.method)
        assert "errors" not in answer, answer
        payload: dict[str, Any] = answer["data"]["node"]["quote"]
        return payload

    async def quote(self, **by: str) -> dict[str, Any]:
        payload = await self.ask(**by)
        assert payload["userErrors"] == [], payload
        quote: dict[str, Any] = payload["quote"]
        adds_up(quote)
        return quote

    async def order(self, amount: str, quote_id: str | None, key: str | None = None, **more: str) -> dict[str, Any]:
        answer = await self.town.gql(
            START,
            more.get("token"),
            k=key or new_id("key"),
            m=more.get("meter_id", self.town.home.meter_id),
            a=amount,
            w=more.get("method", self.method or "stripe"),
            q=quote_id,
        )
        assert "errors" not in answer, answer
        payload: dict[str, Any] = answer["data"]["topUpStart"]
        return payload

    async def pay(self, top_up_id: str) -> dict[str, Any]:
        """Pay at Stripe, settle, and read what became of it."""
        async with self.town.sessions() as session:
            intent_id = (await session.get_one(TopUp, top_up_id)).provider_ref
        assert intent_id is not None
        await self.town.control(intent_id, "succeed")
        await self.town.poll()
        await self.town.drain()
        node: dict[str, Any] = (await self.town.gql(RECEIPT, i=top_up_id))["data"]["node"]
        return node


def adds_up(quote: dict[str, Any]) -> None:
    """What holds for every quote there is."""
    kept_back = sum(minor(item["amount"]) for item in quote["deductions"])
    assert kept_back + minor(quote["credit"]) == minor(quote["pay"])
    assert all(minor(item["amount"]) > 0 and item["label"] for item in quote["deductions"])
    bought = sum(minor(line["cost"]) for line in quote["lines"])
    assert minor(quote["overdrawn"]) + bought + minor(quote["rounding"]) == minor(quote["credit"])
    assert min(minor(quote["overdrawn"]), minor(quote["rounding"])) >= 0
    assert sum(Decimal(line["volume"]["litres"]) for line in quote["lines"]) == Decimal(quote["volume"]["litres"])


def codes(quote: dict[str, Any]) -> dict[str, int]:
    return {item["code"]: minor(item["amount"]) for item in quote["deductions"]}


def refusal(payload: dict[str, Any]) -> str:
    assert payload["topUp"] is None
    [error] = payload["userErrors"]
    return str(error["code"])


# --- What a meter can owe ---


async def rules(town: Town, **values: Any) -> None:
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).where(Utility.id == town.utility_id).values(**values))


async def owe(town: Town, amount_minor: int, reference: str = "BILL-1") -> None:
    async with town.sessions.begin() as session:
        await add_arrears(
            session,
            operator="amina",
            meter_id=town.home.meter_id,
            amount_minor=amount_minor,
            reference=reference,
            now=datetime.now(UTC),
        )


async def use(town: Town, register_ml: int) -> None:
    """Water has run, up to now."""
    now = datetime.now(UTC)
    async with town.sessions.begin() as session:
        await take_report(session, MeterReport(town.home.meter_id, now, (RegisterReading(now, register_ml),)), now)


async def rich(town: Town, *groups: str, since: datetime | None = None) -> None:
    """The meter goes by a tariff with standing charges, taxes and an allowance, whose standing charge is booked."""
    now = datetime.now(UTC)
    day = (since or now).astimezone(NAIROBI).date()
    async with town.sessions.begin() as session:
        file = read_tariff(RICH)
        found = await publish(session, utility_id=town.utility_id, utility_currency="KES", file=file, today=now.date())
        terms = SupplyTerms(meter_id=town.home.meter_id, from_day=day, tariff_id=found.tariff_id, groups=list(groups))
        session.add(terms)


async def emergency(town: Town) -> None:
    await rules(town, emergency_credit_minor=20_000, emergency_threshold_minor=5_000)
    mutation = (
        "mutation($k: ID!, $m: ID!) { emergencyCreditActivate(input: {idempotencyKey: $k, meterId: $m}) "
        "{ given { amount } userErrors { code } } }"
    )
    answer = await town.gql(mutation, k=new_id("key"), m=town.home.meter_id)
    assert answer["data"]["emergencyCreditActivate"]["userErrors"] == [], answer


async def dues(town: Town) -> Dues:
    async with town.sessions() as session:
        return await dues_of(session, town.home.meter_id, datetime.now(UTC))


@pytest.fixture
async def town(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with make_town(database_url, tmp_path, service_fees=FEES) as made:
        yield made


# --- Both ways ---

WORLDS = {
    "nothing owed": {},
    "a share of arrears": {"owe": 400_000},
    "a weekly cap": {"owe": 400_000, "cap": 700},
    "standing charges, taxes, an allowance": {"rich": ("lifeline",)},
    "water before all else": {"owe": 400_000, "rich": (), "guaranteed": 2_000_000},
    "emergency credit": {"owe": 400_000, "emergency": True},
    "an overdrawn wallet": {"use": 7_654_321},
    "all of it": {"owe": 90_000, "cap": 700, "rich": ("lifeline",), "emergency": True, "use": 9_999_500},
}


@pytest.fixture(params=[(name, method) for name in WORLDS for method in (None, "stripe")], ids=str)
async def till(town: Town, request: pytest.FixtureRequest) -> Till:
    """A household in one of the worlds; quotes store nothing, so many examples may ask in it."""
    name, method = request.param
    chosen: dict[str, Any] = WORLDS[name]
    await rules(town, debt_weekly_cap_minor=chosen.get("cap"), guaranteed_ml=chosen.get("guaranteed", 0))
    if "rich" in chosen:
        await rich(town, *chosen["rich"])
    if chosen.get("emergency"):
        await emergency(town)
    await use(town, chosen.get("use", 1_000))
    if "owe" in chosen:
        await owe(town, chosen["owe"])
    return Till(town, method)


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


# --- Ordering by a quote ---


def receipt_matches(node: dict[str, Any], quote: dict[str, Any]) -> None:
    """The receipt says what the quote had said, line by line."""
    receipt = node["receipt"]
    lines: dict[str, int] = {}
    for line in receipt["lines"]:
        lines[line["code"]] = lines.get(line["code"], 0) + minor(line["amount"])
    assert {code: lines.get(code, 0) for code in codes(quote)} == codes(quote)
    credit = sum(amount for code, amount in lines.items() if code not in codes(quote))
    assert credit == minor(quote["credit"]) == minor(node["credit"])
    assert lines.get("OVERDRAWN", 0) == minor(quote["overdrawn"])
    assert lines.get("RESIDUE", 0) == minor(quote["rounding"])
    assert lines.get("TAX", 0) == sum(minor(item["amount"]) for item in quote["taxes"])
    assert minor(receipt["pay"]) == minor(quote["pay"])
    assert receipt["volume"]["litres"] == quote["volume"]["litres"]


async def test_a_top_up_gives_exactly_what_was_quoted(till: Till) -> None:
    till.method = "stripe"
    quote = await till.quote(money="2345.67")
    before, owed = await till.town.wallet(), await dues(till.town)
    node = await till.pay((await till.order("2345.67", quote["id"]))["topUp"]["id"])
    receipt_matches(node, quote)
    assert await till.town.wallet() - before == minor(quote["credit"])
    after = await dues(till.town)
    assert codes(quote).get("DEBT", 0) == owed.debt_minor - after.debt_minor
    assert codes(quote).get("STANDING", 0) == owed.standing_minor - after.standing_minor
    assert codes(quote).get("EMERGENCY", 0) == owed.emergency_minor - after.emergency_minor
    assert await till.town.sums() == {"KES": 0}


async def test_what_falls_due_between_order_and_payment_changes_nothing(town: Town) -> None:
    till = Till(town, "stripe")
    quote = await till.quote(money="500.00")
    assert codes(quote) == {"FEE": 775}
    top_up_id = (await till.order("500.00", quote["id"]))["topUp"]["id"]
    await emergency(town)
    await owe(town, 400_000)
    await rich(town)
    await use(town, 0)
    assert (await dues(town)).standing_minor == 17_400
    assert set(codes(await till.quote(money="500.00"))) == {"FEE", "EMERGENCY", "STANDING", "DEBT"}
    before = await town.wallet()
    node = await till.pay(top_up_id)
    assert minor(node["credit"]) == minor(quote["credit"]) == await town.wallet() - before
    assert {line["code"] for line in node["receipt"]["lines"]} <= {"FEE", "CREDIT", "TAX", "RESIDUE"}
    # What fell due is not forgotten: the next one pays it.
    assert (await dues(town)).debt_minor == 400_000


async def test_what_is_paid_off_meanwhile_is_not_taken_twice(town: Town) -> None:
    await owe(town, 2_000)
    till = Till(town, "stripe")
    quote = await till.quote(money="500.00")
    assert codes(quote) == {"FEE": 775, "DEBT": 2_000}
    ordered = [(await till.order("500.00", quote["id"]))["topUp"]["id"] for _ in range(2)]
    nodes = [await till.pay(top_up_id) for top_up_id in ordered]
    # Never more than is owed: the second is credited in full.
    assert [minor(node["credit"]) for node in nodes] == [minor(quote["credit"]), minor(quote["credit"]) + 2_000]
    assert (await dues(town)).debt_minor == 0


async def test_a_part_of_the_payment_is_split_as_things_stand(town: Town) -> None:
    """The quote was about another amount."""
    till = Till(town, "stripe")
    quote = await till.quote(money="500.00")
    top_up_id = (await till.order("500.00", quote["id"]))["topUp"]["id"]
    await owe(town, 400_000)
    async with town.sessions() as session:
        intent_id = (await session.get_one(TopUp, top_up_id)).provider_ref
    assert intent_id is not None
    await town.control(intent_id, "succeed", 10_000)
    await town.poll()
    assert (await dues(town)).debt_minor == 400_000 - (10_000 - 775) // 4


async def test_use_between_quote_and_order_is_another_quote(town: Town) -> None:
    till = Till(town, "stripe")
    quote = await till.quote(money="500.00")
    # Within the litre that a quote is good for, water may run; beyond it the promise would be another.
    await use(town, 9_900_000)
    payload = await till.order("500.00", quote["id"])
    [error] = payload["userErrors"]
    assert (error["__typename"], error["code"], error["field"], error["retryable"]) == (
        "QuoteChanged", "QUOTE_CHANGED", ["quoteId"], True,
    )  # fmt: skip
    assert error["quote"]["id"] != quote["id"]
    assert await town.count(TopUp) == 0
    fresh = await till.order("500.00", error["quote"]["id"])
    assert fresh["topUp"]["status"] == "AWAITING_CUSTOMER"


@pytest.mark.parametrize("change", ["price", "debt", "fee"])
async def test_t6_another_price_or_debt_is_another_quote(town: Town, change: str) -> None:
    till = Till(town, "stripe")
    quote = await till.quote(money="500.00")
    if change == "price":
        await rich(town)
    elif change == "debt":
        await owe(town, 100)
    else:
        town.app.state.providers.service_fees.pop("stripe")
    payload = await till.order("500.00", quote["id"])
    assert refusal(payload) == "QUOTE_CHANGED"
    shown = payload["userErrors"][0]["quote"]
    assert shown["id"].split("_")[2] == (await till.quote(money="500.00"))["id"].split("_")[2]
    assert refusal(await till.order("500.00", quote["id"])) == "QUOTE_CHANGED"


async def test_a_quote_runs_out(database_url: str, tmp_path: Path) -> None:
    # In this town a quarter of an hour is over in a moment.
    async with make_town(
        *(database_url, tmp_path),
        service_fees=FEES,
        clock_factor=600,
        clock_anchor_real_s=time.time(),
        clock_anchor_at=datetime.now(UTC),
    ) as town:
        till = Till(town, "stripe")
        quote = await till.quote(money="500.00")
        last = datetime.fromisoformat(quote["validUntil"])

        async def over() -> bool:
            return town.settings.clock.now() > last

        await until(over)
        payload = await till.order("500.00", quote["id"])
        assert refusal(payload) == "QUOTE_CHANGED"
        # All is as it was, but for the time: the new one promises the same, and holds for another while.
        fresh = payload["userErrors"][0]["quote"]
        assert fresh["id"].split("_")[2] == quote["id"].split("_")[2]
        assert fresh["credit"] == quote["credit"]
        assert (await till.order("500.00", fresh["id"]))["topUp"]["status"] == "AWAITING_CUSTOMER"


async def test_anothers_quote_and_a_forged_one_are_no_quotes(town: Town) -> None:
    other = await make_home(
        town.sessions,
        town.settings,
        town.utility_id,
        town.tariff_id,
        installed_at=datetime.now(UTC) - timedelta(days=3),
        zone="Africa/Nairobi",
    )
    till = Till(town, "stripe")
    mine = (await till.quote(money="500.00"))["id"]
    theirs = (await till.ask(token=other.token, meter_id=other.meter_id, money="500.00"))["quote"]["id"]
    until_text, digest = mine.split("_")[1:]
    for quote_id in (
        theirs, (await till.quote(money="500.01"))["id"], (await Till(town, "mpesa").quote(money="500.00"))["id"],
        (await Till(town).quote(money="500.00"))["id"], f"qt_{until_text}_{'0' * 32}", f"qt_{until_text}_",
        f"qt_{int(until_text) - 3600}_{digest}", f"qt_-1_{digest}", f"qt_１２_{digest}", f"qt_{'9' * 5000}_{digest}",
        f"qt__{digest}", digest, "", "qt_", "\x00", "x" * 10_000, f"{mine} ", f"{mine}ü",
    ):  # fmt: skip
        payload = await till.order("500.00", quote_id)
        assert refusal(payload) == "QUOTE_CHANGED", quote_id
        assert payload["userErrors"][0]["quote"]["pay"]["amount"] == "500.00"
    # Two ways to pay that keep back the same: a quote is for one of them.
    free = await Till(town, "sandbox").quote(money="500.00")
    assert refusal(await till.order("500.00", free["id"], method="flutterwave")) == "QUOTE_CHANGED"
    assert await town.count(TopUp) == 0
    # Another household's meter is answered like one that is not there, with a quote or without.
    for quote_id in (mine, theirs, None):
        for meter_id in (other.meter_id, new_id("mtr")):
            payload = await till.order("500.00", quote_id, meter_id=meter_id)
            assert refusal(payload) == "NOT_FOUND"
    absent = await town.gql(QUOTE, i=other.meter_id, by={"litres": "1"})
    assert absent["data"]["node"] is None


async def test_p28_a_key_belongs_to_one_quote(town: Town) -> None:
    till = Till(town, "stripe")
    first, second = await till.quote(money="500.00"), (await till.quote(money="500.00"))["id"]
    begun = await till.order("500.00", first["id"], "same")
    again = await till.order("500.00", first["id"], "same")
    assert (again["replayed"], again["topUp"]["id"]) == (True, begun["topUp"]["id"])
    assert refusal(await till.order("500.00", None, "same")) == "IDEMPOTENCY_MISMATCH"
    assert refusal(await till.order("500.00", f"{second}0", "same")) == "IDEMPOTENCY_MISMATCH"
    # What was begun is not asked again, however the world has moved since.
    await use(town, 9_900_000)
    moved = await till.order("500.00", first["id"], "same")
    assert (moved["replayed"], moved["topUp"]["id"]) == (True, begun["topUp"]["id"])
    assert await town.count(TopUp) == 1


async def test_without_a_quote_things_are_split_as_they_stand(town: Town) -> None:
    till = Till(town, "stripe")
    top_up_id = (await till.order("500.00", None))["topUp"]["id"]
    await owe(town, 400_000)
    await till.pay(top_up_id)
    assert (await dues(town)).debt_minor == 400_000 - (50_000 - 775) // 4


@pytest.mark.parametrize("litres", ["1E+999990", "1E+9999999", "-1E+999990", "1E-9999999"])
async def test_a_number_that_is_short_to_write_and_long_to_reckon_is_refused_at_once(town: Town, litres: str) -> None:
    begun_s = time.monotonic()
    answer = await town.gql(QUOTE, i=town.home.meter_id, by={"litres": litres}, w=None)
    assert "too many digits" in answer["errors"][0]["message"]
    assert time.monotonic() - begun_s < 2
