"""A quote for a meter that holds volume promises litres: an order by it gives exactly these, or is told why not."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from standpipe.tariffs.models import VolumePurchase
from standpipe.units import period_of
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
    quote_id, promised_ml = await ask(town)
    first = await order(town, "a", quote_id)
    second = await order(town, "b", quote_id)
    assert second["topUp"] is None
    (error,) = second["userErrors"]
    assert (error["code"], error["field"], error["quote"]) == ("QUOTE_CHANGED", ["quoteId"], None)
    assert "Another payment for this meter is under way" in error["message"]
    assert (await order(town, "a", quote_id))["replayed"] is True
    await settle(town, first)
    assert await bought_ml(town, first) == promised_ml == 2_000_000
    # The same money buys at another place now, and the old promise is told apart from the new one.
    (error,) = (await order(town, "c", quote_id))["userErrors"]
    assert error["code"] == "QUOTE_CHANGED"
    quote_id, promised_ml = await ask(town)
    assert error["quote"]["id"].rpartition("_")[2] == quote_id.rpartition("_")[2]
    second = await order(town, "d", quote_id)
    await settle(town, second)
    assert await bought_ml(town, second) == promised_ml == 1_000_000


async def test_of_two_orders_at_once_by_one_quote_one_is_taken(town: Town) -> None:
    town = await volume_town(town)
    quote_id, promised_ml = await ask(town)
    payloads = await asyncio.gather(*(order(town, f"k{number}", quote_id) for number in range(6)))
    taken = [payload for payload in payloads if payload["topUp"]]
    assert len(taken) == 1
    assert {payload["userErrors"][0]["code"] for payload in payloads if not payload["topUp"]} == {"QUOTE_CHANGED"}
    await settle(town, *taken)
    assert (await meter_of(town)).volume_granted_ml == promised_ml


async def test_an_order_that_was_cancelled_stands_in_nobodys_way(town: Town) -> None:
    town = await volume_town(town)
    quote_id, promised_ml = await ask(town)
    first = await order(town, "a", quote_id)
    await town.gql(CANCEL, t=first["topUp"]["id"])
    second = await order(town, "b", quote_id)
    assert second["userErrors"] == []
    await settle(town, second)
    assert await bought_ml(town, second) == promised_ml


async def test_a_quote_is_kept_when_the_month_has_turned_before_the_money_came(town: Town) -> None:
    town = await volume_town(town)
    opening = await order(town, "opening", None, "58.00")
    await settle(town, opening)
    quote_id, promised_ml = await ask(town)
    ordered = await order(town, "a", quote_id)
    now = town.settings.clock.now()
    _, turn = period_of(now.date())
    ahead = timedelta(days=(turn - now.date()).days + 2)
    later = town.settings.model_copy(update={"clock_anchor_at": town.settings.clock.anchor_at + ahead})
    await settle(replace(town, settings=later), ordered)
    # Half of it came from the first block, as was said; the new month's first block would have given it all.
    assert await bought_ml(town, ordered) == promised_ml == 1_500_000
    next_month = replace(town, settings=later)
    unquoted = await order(town, "b", None)
    await settle(next_month, unquoted)
    assert await bought_ml(town, unquoted) == 2_000_000


async def test_t2_what_is_bought_beside_a_quoted_order_comes_to_the_same_in_all(town: Town) -> None:
    town = await volume_town(town)
    quote_id, promised_ml = await ask(town)
    quoted = await order(town, "a", quote_id)
    unquoted = await order(town, "b", None)
    await settle(town, unquoted, quoted)
    assert await bought_ml(town, unquoted) == promised_ml
    assert (await meter_of(town)).volume_granted_ml == 3_000_000
    (error,) = (await order(town, "c", quote_id))["userErrors"]
    assert error["code"] == "QUOTE_CHANGED"
