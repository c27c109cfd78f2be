"""A quote for a meter that holds volume promises litres: an order by it gives exactly these, or is told why not."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from standpipe.households.models import Household
from standpipe.meters.due import MeterDue
from standpipe.meters.models import Meter
from standpipe.payments import quoted
from standpipe.platform.ids import new_id
from standpipe.platform.units import period_of
from standpipe.supply.utility_policies import UtilityRules, set_rules
from standpipe.tariffs.models import SupplyTerms, VolumePurchase
from tests.support.rating import rate_due
from tests.support.town import Town
from tests.support.volume import meter_of, volume_town

ASK = (
    "query($m: ID!, $a: Decimal!) { node(id: $m) { ... on Meter { quote(by: {money: {amount: $a, currency: "
    '"KES"}}, methodId: "stripe") { quote { id volume { litres } } } } } }'
)
ORDER = (
    "mutation($k: ID!, $m: ID!, $a: Decimal!, $q: ID) { topUpStart(input: {idempotencyKey: $k, meterId: $m, "
    'pay: {amount: $a, currency: "KES"}, methodId: "stripe", quoteId: $q}) { replayed topUp { id nextAction { '
    "... on StripePaymentSheet { clientSecret } } } userErrors { code message field ... on QuoteChanged { "
    "quote { id } } } } }"
)
CANCEL = "mutation($t: ID!) { topUpCancel(input: {topUpId: $t}) { topUp { status } userErrors { code } } }"
WORTH_2000_LITRES = "116.00"


async def guaranteed_minor(town: Town) -> int:
    async with town.sessions() as session:
        return (await session.get_one(MeterDue, town.home.meter_id)).guaranteed_minor


async def ask(town: Town, amount: str = WORTH_2000_LITRES) -> tuple[str, int]:
    """A quote's id, and its volume in millilitres."""
    quote = (await town.gql(ASK, m=town.home.meter_id, a=amount))["data"]["node"]["quote"]["quote"]
    return quote["id"], int(quote["volume"]["litres"]) * 1000


async def order(town: Town, key: str, quote_id: str | None, amount: str = WORTH_2000_LITRES) -> Any:
    answer = await town.gql(ORDER, k=key, m=town.home.meter_id, a=amount, q=quote_id)
    return answer["data"]["topUpStart"]


async def settle(town: Town, *payloads: Any) -> None:
    """These orders are paid at Stripe, and we hear of it in this order."""
    for payload in payloads:
        intent_id = payload["topUp"]["nextAction"]["clientSecret"].split("_secret_")[0]
        await town.control(intent_id, "succeed")
        await town.poll()
        await town.drain()


async def bought_ml(town: Town, payload: Any) -> int:
    """The litres of one top-up, in millilitres."""
    async with town.sessions() as session:
        found = await session.scalars(
            select(VolumePurchase.volume_ml).where(VolumePurchase.source_id == payload["topUp"]["id"])
        )
        return sum(found)


async def test_a_quote_is_ordered_by_once_while_the_first_order_is_under_way(town: Town) -> None:
    town = await volume_town(town)
    quote_id, quoted_ml = await ask(town)
    first = await order(town, "a", quote_id)
    second = await order(town, "b", quote_id)
    assert second["topUp"] is None
    (error,) = second["userErrors"]
    assert (error["code"], error["field"], error["quote"]) == ("QUOTE_CHANGED", ["quoteId"], None)
    assert "Another payment for this meter is under way" in error["message"]
    assert (await order(town, "a", quote_id))["replayed"] is True
    await settle(town, first)
    assert await bought_ml(town, first) == quoted_ml == 2_000_000
    # The same money buys at another place now, and the old promise is told apart from the new one.
    (error,) = (await order(town, "c", quote_id))["userErrors"]
    assert error["code"] == "QUOTE_CHANGED"
    quote_id, quoted_ml = await ask(town)
    assert error["quote"]["id"].rpartition("_")[2] == quote_id.rpartition("_")[2]
    second = await order(town, "d", quote_id)
    await settle(town, second)
    assert await bought_ml(town, second) == quoted_ml == 1_000_000


async def test_of_two_orders_at_once_by_one_quote_one_is_taken(town: Town) -> None:
    town = await volume_town(town)
    quote_id, quoted_ml = await ask(town)
    payloads = await asyncio.gather(*(order(town, f"k{number}", quote_id) for number in range(6)))
    taken = [payload for payload in payloads if payload["topUp"]]
    assert len(taken) == 1
    assert {payload["userErrors"][0]["code"] for payload in payloads if not payload["topUp"]} == {"QUOTE_CHANGED"}
    await settle(town, *taken)
    assert (await meter_of(town)).credit_granted == quoted_ml


async def test_an_order_that_was_cancelled_stands_in_nobodys_way(town: Town) -> None:
    town = await volume_town(town)
    quote_id, quoted_ml = await ask(town)
    first = await order(town, "a", quote_id)
    await town.gql(CANCEL, t=first["topUp"]["id"])
    second = await order(town, "b", quote_id)
    assert second["userErrors"] == []
    await settle(town, second)
    assert await bought_ml(town, second) == quoted_ml


async def test_a_quote_is_kept_when_the_month_has_turned_before_the_money_came(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The month may have weeks to go on the day of this test.
    monkeypatch.setattr(quoted, "QUOTED_FOR", timedelta(days=60))
    town = await volume_town(town)
    opening = await order(town, "opening", None, "58.00")
    await settle(town, opening)
    quote_id, quoted_ml = await ask(town)
    ordered = await order(town, "a", quote_id)
    now = town.settings.clock.now()
    _, turn = period_of(now.date())
    ahead = timedelta(days=(turn - now.date()).days + 2)
    later = town.settings.model_copy(update={"clock_anchor_at": town.settings.clock.anchor_at + ahead})
    await settle(replace(town, settings=later), ordered)
    # Half of it came from the first block, as was said; the new month's first block would have given it all.
    assert await bought_ml(town, ordered) == quoted_ml == 1_500_000
    next_month = replace(town, settings=later)
    unquoted = await order(town, "b", None)
    await settle(next_month, unquoted)
    assert await bought_ml(town, unquoted) == 2_000_000


async def test_t2_what_is_bought_beside_a_quoted_order_comes_to_the_same_in_all(town: Town) -> None:
    town = await volume_town(town)
    quote_id, quoted_ml = await ask(town)
    quoted = await order(town, "a", quote_id)
    unquoted = await order(town, "b", None)
    await settle(town, unquoted, quoted)
    assert await bought_ml(town, unquoted) == quoted_ml
    assert (await meter_of(town)).credit_granted == 3_000_000
    (error,) = (await order(town, "c", quote_id))["userErrors"]
    assert error["code"] == "QUOTE_CHANGED"


async def test_p28_one_order_by_a_quote_asked_for_many_times_at_once_is_one(town: Town) -> None:
    town = await volume_town(town)
    quote_id, _ = await ask(town)
    payloads = await asyncio.gather(*(order(town, "same", quote_id) for _ in range(5)))
    assert [payload["userErrors"] for payload in payloads] == [[]] * 5
    assert len({payload["topUp"]["id"] for payload in payloads}) == 1
    assert sorted(payload["replayed"] for payload in payloads) == [False] + [True] * 4


async def test_a_promise_ends_after_a_week(town: Town) -> None:
    town = await volume_town(town)
    quote_id, quoted_ml = await ask(town)
    ordered = await order(town, "a", quote_id)
    await settle(town, await order(town, "b", None))
    anchor = town.settings.clock.anchor_at + timedelta(days=40)
    later = replace(town, settings=town.settings.model_copy(update={"clock_anchor_at": anchor}))
    await settle(later, ordered)
    # Promised behind the other order; a month later it begins the blocks anew.
    assert await bought_ml(town, ordered) == quoted_ml == 2_000_000
    assert (await meter_of(town)).credit_granted == 4_000_000


async def test_what_a_utility_guarantees_follows_what_was_bought_and_what_it_says(town: Town) -> None:
    town = await volume_town(town)
    async with town.sessions.begin() as session:
        await set_rules(
            session, operator="amina", utility_id=town.utility_id, change=UtilityRules(guaranteed_ml=1_000_000)
        )  # fmt: skip
    await rate_due(town.sessions, town.settings.clock)
    assert await guaranteed_minor(town) == 5_800
    await settle(town, await order(town, "a", None))
    await rate_due(town.sessions, town.settings.clock)
    assert await guaranteed_minor(town) == 11_600


async def test_a_household_that_moved_in_sees_what_it_bought_explained(town: Town) -> None:
    town = await volume_town(town)
    await settle(town, await order(town, "a", None))
    today = town.settings.clock.now().astimezone(ZoneInfo("Africa/Nairobi")).date()
    moved = max(today - timedelta(days=5), today.replace(day=2)) if today.day > 2 else today
    async with town.sessions.begin() as session:
        meter = await session.get_one(Meter, town.home.meter_id)
        other = Household(id=new_id("hh"), utility_id=town.utility_id, name="Before")
        session.add(other)
        await session.flush()
        rows = {meter.installed_at.date(): other.id, moved: town.home.household_id}
        for day, household_id in rows.items():
            session.add(
                SupplyTerms(
                    meter_id=meter.id, from_day=day, tariff_id=meter.tariff_id, household_id=household_id, groups=[]
                )
            )
    told = (await town.gql(STATEMENT, m=town.home.meter_id, d=str(today.replace(day=1))))["data"]["node"]["statement"]
    assert told["userErrors"] == []
    body = told["statement"]
    assert (body["opening"]["amount"], body["closing"]["amount"]) == ("0.00", "0.00")
    assert body["chargesTotal"]["amount"] == "116.00"
    assert body["charges"] != []


STATEMENT = (
    "query($m: ID!, $d: Date!) { node(id: $m) { ... on Meter { statement(month: $d) { userErrors { message } statement "
    "{ opening { amount } closing { amount } chargesTotal { amount } charges { code } } } } } }"
)
