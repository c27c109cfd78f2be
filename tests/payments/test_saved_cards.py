"""Saved cards, Checkout and automatic top-ups, through GraphQL, the real SDK and the stand-in."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text

from standpipe.notifications.models import Alert
from standpipe.payments.auto_top_up import PAUSE, Signal, concluded, consider
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import PaymentRequest, PaymentStatus, RefundRequest, RefundStatus
from standpipe.payments.rails.stripe import StripeRail
from standpipe.payments.saved_methods import keep_customer
from standpipe.payments.settle import settle
from standpipe.payments.vend_models import AutoTopUp, PaymentCustomer, SavedMethod
from standpipe.platform.ids import new_id
from standpipe_demo.simulator.fake_stripe import event
from tests.support.town import Town, make_home

SAVE = (
    "mutation($k: ID!) { cardSaveStart(input: {idempotencyKey: $k}) { replayed userErrors { code } nextAction { "
    "instructions ... on StripeCardSetup { clientSecret customerId customerSessionClientSecret } } } }"
)
CARDS = "{ viewer { savedCards { id brand last4 expires } } }"
SET = (
    "mutation($k: ID!, $m: ID!, $c: ID!, $a: Decimal!, $d: Decimal!, $t: Int!, $o: AutoTopUpMode!) { "
    "autoTopUpSet(input: {idempotencyKey: $k, meterId: $m, cardId: $c, thresholdDays: $t, mode: $o, "
    'amount: {amount: $a, currency: "KES"}, '
    'dailyCap: {amount: $d, currency: "KES"}}) { replayed userErrors { code field } autoTopUp { enabled underWay '
    "failures card { last4 } } } }"
)


async def save_card(town: Town, card: str = "visa", key: str = "c1") -> str:
    action = (await town.gql(SAVE, k=key))["data"]["cardSaveStart"]["nextAction"]
    setup = action["clientSecret"].split("_secret_")[0]
    await town.http.post(f"{town.stripe_url}/_control/setup_intents/{setup}/succeed", params={"card": card})
    cards = (await town.gql(CARDS))["data"]["viewer"]["savedCards"]
    return str(cards[-1]["id"])


async def order(
    town: Town,
    card: str,
    *,
    amount: str = "20.00",
    cap: str = "50.00",
    days: int = 3,
    mode: str = "FIXED",
    key: str = "o1",
) -> Any:
    answer = await town.gql(SET, k=key, m=town.home.meter_id, c=card, a=amount, d=cap, t=days, o=mode)
    return answer["data"]["autoTopUpSet"]


async def low(town: Town, days: float = 2.0) -> str | None:
    signal = Signal(town.home.meter_id, days, await town.wallet(), fresh=True)
    return await consider(town.sessions, town.rails, town.settings.clock, signal)


async def standing(town: Town) -> AutoTopUp:
    async with town.sessions() as session:
        return (await session.scalars(select(AutoTopUp))).one()


async def told(town: Town) -> list[str]:
    async with town.sessions() as session:
        rows = await session.scalars(select(Alert).order_by(Alert.id))
        return [str(row.params.get("variant")) for row in rows if str(row.params.get("variant")).startswith("AUTO")]


async def pause_over(town: Town) -> None:
    async with town.sessions.begin() as session:
        row = (await session.scalars(select(AutoTopUp))).one()
        assert row.not_before is not None
        assert row.not_before - datetime.now(UTC) > PAUSE - timedelta(minutes=5)
        row.not_before = func.now()


async def test_a_card_is_kept_once_and_only_its_owner_sees_it(town: Town) -> None:
    first = (await town.gql(SAVE, k="same"))["data"]["cardSaveStart"]
    again = (await town.gql(SAVE, k="same"))["data"]["cardSaveStart"]
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert first["nextAction"]["clientSecret"] == again["nextAction"]["clientSecret"]
    assert first["nextAction"]["customerSessionClientSecret"]
    card = await save_card(town)
    assert (await town.gql(CARDS))["data"]["viewer"]["savedCards"][0]["last4"] == "4242"
    other = await make_home(
        town.sessions,
        town.settings,
        town.utility_id,
        town.tariff_id,
        installed_at=datetime.now(UTC),
        zone="Africa/Nairobi",
    )
    assert (await town.gql(CARDS, token=other.token))["data"]["viewer"]["savedCards"] == []
    forget = "mutation($c: ID!) { cardForget(input: {cardId: $c}) { cards { id } userErrors { code } } }"
    stolen = (await town.gql(forget, token=other.token, c=card))["data"]["cardForget"]
    assert stolen["userErrors"][0]["code"] == "NOT_FOUND"
    assert (await town.gql(forget, c=card))["data"]["cardForget"] == {"cards": [], "userErrors": []}
    assert len(town.stripe.customers) == 1


async def test_a_customer_met_by_many_requests_at_once_is_one_at_the_provider(town: Town) -> None:
    """Two unique keys are touched by one insert: settling a conflict on one of them must not trip over the other."""

    async def meet(ref: str) -> None:
        async with town.sessions.begin() as session:
            await keep_customer(session, customer_id=town.home.customer_id, rail="stripe", rail_ref=ref)

    for number in range(40):
        await asyncio.gather(*(meet(f"cus_{number}") for _ in range(8)))
        async with town.sessions.begin() as session:
            kept = await session.scalars(select(PaymentCustomer.rail_ref))
            assert kept.all() == [f"cus_{number}"]
            await session.execute(delete(PaymentCustomer))


async def test_a_card_that_is_detached_or_whose_customer_is_gone_is_no_more(town: Town) -> None:
    await save_card(town)
    [method] = town.stripe.methods.values()
    town.stripe.detach(method)
    assert (await town.tell(event("payment_method.detached", method))).status_code == 200
    await town.drain()
    assert (await town.gql(CARDS))["data"]["viewer"]["savedCards"] == []
    await save_card(town, key="c2")
    [customer] = town.stripe.customers.values()
    await town.tell(event("customer.deleted", customer))
    await town.drain()
    assert (await town.gql(CARDS))["data"]["viewer"]["savedCards"] == []
    assert await town.count(SavedMethod) == 2


async def test_below_the_threshold_the_card_is_charged_and_the_customer_told(town: Town) -> None:
    payload = await order(town, await save_card(town))
    assert payload["userErrors"] == []
    assert await low(town, days=3.1) is None
    top_up_id = await low(town)
    assert top_up_id is not None
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 2000)
    assert await told(town) == ["AUTO_PAID"]
    assert (await standing(town)).awaiting_top_up_id is None


async def test_up_to_tops_up_what_is_missing(town: Town) -> None:
    await order(town, await save_card(town), mode="UP_TO", amount="30.00")
    await town.pay_by_card("12.00")
    await town.poll()
    await low(town)
    assert await town.wallet() == 3000


async def test_p34_two_triggers_at_once_are_one_charge_and_a_day_has_a_cap(town: Town) -> None:
    await order(town, await save_card(town), amount="20.00", cap="45.00")
    made = await asyncio.gather(*(low(town) for _ in range(6)))
    assert len([one for one in made if one]) == 1
    assert await town.wallet() == 2000
    assert await low(town) is not None
    assert await low(town) is None
    assert await town.wallet() == 4000
    assert len([intent for intent in town.stripe.intents.values() if intent["amount_received"]]) == 2


async def test_p32_a_decline_is_one_attempt_then_a_pause_and_off_after_three(town: Town) -> None:
    await order(town, await save_card(town, "declined"))
    for failures in (1, 2, 3):
        top_up_id = await low(town)
        assert top_up_id is not None
        await town.drain()
        assert await town.status(top_up_id) == "FAILED"
        assert (await standing(town)).failures == failures
        if failures < 3:
            assert await low(town) is None
            await pause_over(town)
    row = await standing(town)
    assert (row.enabled, row.paused_reason) == (False, "declined")
    assert await low(town) is None
    assert await told(town) == ["AUTO_DECLINED", "AUTO_DECLINED", "AUTO_TURNED_OFF"]
    assert await town.count(TopUp) == 3
    assert await town.credits() == (0, 0, 0)


async def test_p31_a_second_payment_that_was_made_speaks_for_a_standing_order(town: Town) -> None:
    await order(town, await save_card(town))
    top_up_id = await low(town)
    async with town.sessions.begin() as session:
        first = await session.get_one(Payment, top_up_id)
        first.status, first.captured_minor, first.failure_code = "FAILED", 0, "card_declined"
        row = (await session.scalars(select(AutoTopUp))).one()
        row.awaiting_top_up_id, row.failures = top_up_id, 1
        later = first.started_real_at + timedelta(seconds=5)
        session.add(
            Payment(
                id=new_id("pay"), top_up_id=top_up_id, rail="stripe", rail_ref="pi_second", asked_minor=1500,
                currency="KES", status="SUCCEEDED", captured_minor=1500, started_real_at=later,
                updated_at=later,
            )
        )  # fmt: skip
    await concluded(town.sessions, town.settings.clock, town.home.meter_id)
    row = await standing(town)
    assert (row.failures, row.awaiting_top_up_id, row.enabled) == (0, None, True)


async def test_p32_when_the_bank_asks_the_customer_gets_a_way_to_answer(town: Town) -> None:
    await order(town, await save_card(town, "needs_auth"))
    top_up_id = await low(town)
    assert top_up_id is not None
    await town.drain()
    query = (
        "query($i: ID!) { node(id: $i) { ... on TopUp { status failure { code } nextAction { "
        "... on StripePaymentSheet { clientSecret } } } } }"
    )
    node = (await town.gql(query, i=top_up_id))["data"]["node"]
    assert (node["status"], node["failure"]["code"]) == ("FAILED", "authentication_required")
    assert await told(town) == ["AUTO_AUTHENTICATE"]
    # The customer confirms in the app: the very same payment goes through, late, and counts (P16).
    await town.control(node["nextAction"]["clientSecret"].split("_secret_")[0], "succeed")
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 2000)


async def test_a_charge_whose_answer_is_lost_is_never_made_twice(town: Town) -> None:
    await order(town, await save_card(town))
    town.stripe.withhold = 3
    top_up_id = await low(town)
    assert top_up_id is not None
    assert await low(town) is None
    await town.poll()
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert (await standing(town)).awaiting_top_up_id is None
    assert await town.credits() == (1, 1, 2000)
    assert len(town.stripe.intents) == 1


async def test_a_forgotten_card_turns_the_order_off(town: Town) -> None:
    card = await save_card(town)
    await order(town, card)
    forget = "mutation($c: ID!) { cardForget(input: {cardId: $c}) { cards { id } } }"
    await town.gql(forget, c=card)
    assert (await standing(town)).enabled is False
    assert await low(town) is None


async def test_who_has_moved_out_pays_for_nobody_elses_water(town: Town) -> None:
    await order(town, await save_card(town))
    async with town.sessions.begin() as session:
        await session.execute(text("DELETE FROM memberships"))
    assert await low(town) is None
    assert ((await standing(town)).enabled, (await standing(town)).paused_reason) == (False, "moved")
    assert town.stripe.intents == {}


@pytest.mark.parametrize(
    ("more", "field"),
    [({"amount": "0.10"}, "amount"), ({"cap": "10.00"}, "dailyCap"), ({"days": 0}, "thresholdDays"),
     ({"days": 31}, "thresholdDays"), ({"amount": "600000.00", "cap": "600000.00"}, "amount")],
)  # fmt: skip
async def test_orders_that_make_no_sense_are_refused(town: Town, more: dict[str, Any], field: str) -> None:
    payload = await order(town, await save_card(town), **more)
    assert [(error["code"], error["field"][0]) for error in payload["userErrors"]] == [("INVALID", field)]
    assert await town.count(AutoTopUp) == 0


async def test_p28_an_orders_key_is_its_own(town: Town) -> None:
    card = await save_card(town)
    assert (await order(town, card))["replayed"] is False
    assert (await order(town, card))["replayed"] is True
    assert (await order(town, card, amount="21.00"))["userErrors"][0]["code"] == "IDEMPOTENCY_MISMATCH"
    off = "mutation($m: ID!) { autoTopUpTurnOff(input: {meterId: $m}) { autoTopUp { enabled pausedReason } } }"
    shown = (await town.gql(off, m=town.home.meter_id))["data"]["autoTopUpTurnOff"]["autoTopUp"]
    assert shown == {"enabled": False, "pausedReason": "customer"}
    assert await low(town) is None


async def checkout(town: Town) -> tuple[str, dict[str, Any]]:
    payload = await town.start("stripe_checkout")
    [session] = town.stripe.sessions.values()
    assert payload["topUp"]["nextAction"]["url"] == session["url"]
    assert session["success_url"] == f"{town.api}/return/{payload['topUp']['id']}"
    return str(payload["topUp"]["id"]), session


async def page(town: Town, session: dict[str, Any], action: str) -> None:
    await town.http.post(f"{town.stripe_url}/_control/checkout/{session['id']}/{action}")


async def test_p12_checkout_told_in_three_ways_is_one_credit(town: Town) -> None:
    top_up_id, session = await checkout(town)
    await page(town, session, "pay")
    intent = town.stripe.intent(session["payment_intent"])
    for kind, subject in (
        ("payment_intent.succeeded", intent),
        ("charge.succeeded", intent["latest_charge"]),
        ("checkout.session.completed", session),
    ):
        await town.tell(event(kind, subject))
    await asyncio.gather(town.drain(), town.poll(), town.status(top_up_id))
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)
    assert await town.count(TopUp) == 1


async def test_p12_a_refund_named_by_an_intent_that_we_have_not_learnt_finds_its_checkout(town: Town) -> None:
    _, session = await checkout(town)
    await page(town, session, "pay")
    await town.http.post(f"{town.stripe_url}/_control/payment_intents/{session['payment_intent']}/refund?amount=500")
    [refund] = town.stripe.refunds.values()
    await town.tell(event("refund.created", refund))
    await town.drain()
    assert await town.credits() == (1, 1, 1000)


async def test_p12_asked_by_its_intent_a_checkout_is_still_one_payment(town: Town) -> None:
    top_up_id, session = await checkout(town)
    await page(town, session, "pay")
    truth = await town.rails["stripe"].fetch(session["payment_intent"])
    assert (truth.rail_ref, truth.aliases) == (session["id"], (session["payment_intent"],))
    await settle(town.sessions, town.rails, top_up_id, town.settings.clock, rail_ref=session["payment_intent"])
    assert await town.credits() == (1, 1, 1500)
    assert await town.count(TopUp) == 1


async def test_p27_complete_but_unpaid_is_pending(town: Town) -> None:
    top_up_id, session = await checkout(town)
    await page(town, session, "pay_async")
    assert (session["status"], session["payment_status"]) == ("complete", "unpaid")
    await town.tell(event("checkout.session.completed", session))
    await town.drain()
    assert await town.status(top_up_id) == "AWAITING_CUSTOMER"
    await page(town, session, "async_done")
    await town.tell(event("checkout.session.async_payment_succeeded", session))
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_p16_an_expired_page_is_expired_and_what_was_paid_counts(town: Town) -> None:
    top_up_id, session = await checkout(town)
    await page(town, session, "expire")
    await town.tell(event("checkout.session.expired", session))
    await town.drain()
    assert await town.status(top_up_id) == "EXPIRED"


async def test_p6_another_accounts_event_is_kept_and_ignored(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent) | {"account": "acct_strange"})
    await town.drain()
    [row] = await town.inbox()
    assert row.outcome == "ignored: of another account"
    assert await town.credits() == (0, 0, 0)
    assert top_up_id


async def test_p29_refund_keys_are_looked_for_when_a_first_answer_was_lost(town: Town) -> None:
    _, intent = await town.pay_by_card()
    rail = town.rails["stripe"]
    request = RefundRequest("ref_" + "0" * 26, intent["id"], None, 500, "KES", "r")
    assert await rail.find_refund(request) is None
    made = await rail.refund(request)
    # Stripe has forgotten the idempotency key since.
    town.stripe.keys.clear()
    found = await rail.find_refund(request)
    assert found is not None
    assert (found.rail_ref, found.status) == (made.rail_ref, RefundStatus.SUCCEEDED)


async def test_p30_a_replayed_answer_is_stale_and_the_truth_is_fetched(town: Town) -> None:
    rail = town.rails["stripe"]
    request = PaymentRequest("top_" + "0" * 26, 1500, "KES", "d", None, method_id="stripe")
    made = await rail.create(request)
    await town.control(made.rail_ref, "succeed")
    assert (await rail.create(request)).status is PaymentStatus.PENDING
    assert (await rail.fetch(made.rail_ref)).status is PaymentStatus.SUCCEEDED


async def test_keys_rotate_without_downtime(town: Town) -> None:
    rotating = StripeRail(
        api_keys=["sk_test_new", "sk_test_town"],
        publishable_key="pk",
        webhook_secrets=["a", "b"],
        api_base=town.stripe_url,
        timeout_s=5,
        return_base_url=f"{town.api}/return",
    )
    request = PaymentRequest("top_" + "1" * 26, 1500, "KES", "d", None, method_id="stripe")
    assert (await rotating.create(request)).status is PaymentStatus.PENDING
    town.stripe.api_key = "sk_test_new"
    assert (await rotating.fetch(next(iter(town.stripe.intents)))).requested_minor == 1500
    await rotating.close()
