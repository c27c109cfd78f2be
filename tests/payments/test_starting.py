"""Starting a top-up over GraphQL: once per key, within limits, and never lost when the provider does not answer."""

import asyncio
from typing import Any

import pytest

from standpipe.payments.models import Payment, TopUp
from tests.support.statements import counted
from tests.support.town import Town, make_home

START = (
    "mutation($k: ID!, $m: ID!, $p: MoneyInput!, $w: ID!) { topUpStart(input: {idempotencyKey: $k, meterId: $m, "
    "pay: $p, methodId: $w}) { topUp { id } userErrors { __typename code field message } } }"
)


@pytest.mark.parametrize(
    ("amount", "code"),
    [("0", "AMOUNT_OUT_OF_RANGE"), ("-5.00", "AMOUNT_OUT_OF_RANGE"), ("9223372036854775808", "INVALID"),
     ("1000001.00", "AMOUNT_OUT_OF_RANGE"), ("1.001", "INVALID"), ("0.01", "AMOUNT_OUT_OF_RANGE")],
)  # fmt: skip
async def test_p25_bad_amounts_are_refused_before_any_call(town: Town, amount: str, code: str) -> None:
    payload = await town.start(amount=amount)
    assert payload["topUp"] is None
    assert [error["code"] for error in payload["userErrors"]] == [code]
    assert town.stripe.intents == {}
    assert await town.count(TopUp) == 0


@pytest.mark.parametrize("amount", [True, 1.5, 5.0, "NaN", "Infinity", "1e400", "", "five", None, {"a": 1}, ["1"]])
async def test_p25_amounts_that_are_no_decimals_are_refused(town: Town, amount: Any) -> None:
    variables = {"k": "k1", "m": town.home.meter_id, "p": {"amount": amount, "currency": "KES"}, "w": "stripe"}
    answer = await town.gql(START, **variables)
    assert answer.get("errors") or answer["data"]["topUpStart"]["userErrors"]
    assert "errorId" not in str(answer)
    assert town.stripe.intents == {}


async def test_p25_another_currency_or_method_is_refused(town: Town) -> None:
    assert (await town.start(currency="USD"))["userErrors"][0]["field"] == ["pay", "currency"]
    assert (await town.start(method="cowries"))["userErrors"][0]["field"] == ["methodId"]
    assert await town.count(TopUp) == 0


async def test_p28_same_key_and_input_at_once_and_later(town: Town) -> None:
    payloads = await asyncio.gather(*(town.start(key="same") for _ in range(10)))
    assert len({payload["topUp"]["id"] for payload in payloads}) == 1
    assert sorted(payload["replayed"] for payload in payloads) == [False] + [True] * 9
    later = await town.start(key="same")
    assert later["replayed"] is True
    assert later["topUp"]["nextAction"]["clientSecret"]
    assert len(town.stripe.intents) == 1


async def test_p28_same_key_with_other_input_is_an_error(town: Town) -> None:
    await town.start(key="same", amount="15.00")
    payload = await town.start(key="same", amount="16.00")
    assert payload["topUp"] is None
    assert [error["code"] for error in payload["userErrors"]] == ["IDEMPOTENCY_MISMATCH"]
    assert len(town.stripe.intents) == 1


async def test_p28_another_customers_same_key_is_their_own(town: Town) -> None:
    other = await make_home(
        town.sessions,
        town.settings,
        town.utility_id,
        town.tariff_id,
        installed_at=town.settings.clock.now(),
        zone="Africa/Nairobi",
    )
    await town.start(key="same")
    variables = {"k": "same", "m": other.meter_id, "p": {"amount": "16.00", "currency": "KES"}, "w": "stripe"}
    answer = await town.gql(START, token=other.token, **variables)
    assert answer["data"]["topUpStart"]["userErrors"] == []
    assert len(town.stripe.intents) == 2


async def test_p29_an_answer_that_never_came_is_unknown_and_never_a_second_payment(town: Town) -> None:
    # The SDK tries three times by itself, for the customer and for the payment; every answer is lost, and the three
    # about the payment reach the same one.
    town.stripe.withhold = 6
    payload = await town.start()
    top_up_id = payload["topUp"]["id"]
    assert payload["topUp"]["status"] == "CREATED"
    assert len(town.stripe.intents) == 1
    await town.poll()
    assert await town.status(top_up_id) == "AWAITING_CUSTOMER"
    assert len(town.stripe.intents) == 1


async def test_p29_an_old_payment_is_looked_up_and_never_created_again(town: Town) -> None:
    top_up_id, _ = await town.pay_by_card()
    async with town.sessions.begin() as session:
        row = await session.get_one(Payment, top_up_id)
        row.rail_ref, row.status, row.version = None, "CREATED", 0
        row.started_real_at = row.started_real_at.replace(year=row.started_real_at.year - 1)
    town.stripe.keys.clear()
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert len(town.stripe.intents) == 1


async def test_cancelling_a_payment_that_was_made_meanwhile_settles_it(town: Town) -> None:
    cancel = "mutation($i: ID!) { topUpCancel(input: {topUpId: $i}) { topUp { status } userErrors { code } } }"
    top_up_id, _ = await town.pay_by_card()
    assert (await town.gql(cancel, i=top_up_id))["data"]["topUpCancel"]["topUp"] == {"status": "PAID"}
    unpaid = (await town.start())["topUp"]["id"]
    assert (await town.gql(cancel, i=unpaid))["data"]["topUpCancel"]["topUp"] == {"status": "CANCELLED"}
    assert await town.credits() == (1, 1, 1500)


async def test_a_provider_that_refuses_is_a_failure_that_says_why(town: Town) -> None:
    town.stripe.api_key = "another key"
    payload = await town.start()
    # A refused key is our fault and may be put right: the top-up is not given up.
    assert payload["topUp"]["status"] == "CREATED"
    town.stripe.api_key = "sk_test_town"
    await town.poll()
    assert await town.status(payload["topUp"]["id"]) == "AWAITING_CUSTOMER"


async def test_a_top_up_whose_provider_was_turned_off_still_shows_and_waits(town: Town) -> None:
    top_up_id = (await town.start("sandbox"))["topUp"]["id"]
    removed = town.rails.pop("sandbox")
    assert await town.status(top_up_id) == "AWAITING_CUSTOMER"
    await town.poll()
    cancel = "mutation($i: ID!) { topUpCancel(input: {topUpId: $i}) { topUp { id } userErrors { code } } }"
    assert (await town.gql(cancel, i=top_up_id))["data"]["topUpCancel"]["userErrors"] == [{"code": "INVALID"}]
    town.rails["sandbox"] = removed
    await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/lose")
    await town.poll()
    assert await town.credits() == (1, 1, 1500)


async def test_starting_takes_eight_statements_at_most(town: Town) -> None:
    await town.start("sandbox", "15.00")
    with counted(town.sessions) as sent:
        assert (await town.start("sandbox", "16.00"))["userErrors"] == []
    # Who asks (twice) and the answer included.
    sent.at_most(8)
