"""Orders by a quote: they give exactly what was quoted, or are told why not."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from standpipe.payments.models import Payment, TopUp
from standpipe.platform.ids import new_id
from tests.support.till import (
    FEES,
    QUOTE,
    WORLDS,
    Till,
    codes,
    dues,
    emergency,
    in_world,
    minor,
    owe,
    refusal,
    rich,
    use,
)
from tests.support.town import Town, make_home, make_town, until


@pytest.fixture
async def town(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with make_town(database_url, tmp_path, service_fees=FEES) as made:
        yield made


@pytest.fixture(params=[(name, method) for name in WORLDS for method in (None, "stripe")], ids=str)
async def till(town: Town, request: pytest.FixtureRequest) -> Till:
    return await in_world(town, *request.param)


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
        intent_id = (await session.get_one(Payment, top_up_id)).rail_ref
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
        town.app.state.rails.service_fees.pop("stripe")
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
