"""``settle``: whatever the order of news, the ledger ends where the provider's running totals are."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, text

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, account_sum_minor, post
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import CreditGrant
from standpipe.outbox.models import OutboxFact
from standpipe.payments.models import Payment, RailEvent
from standpipe.payments.rails.port import PaymentTruth, RailRefusedError, RefundRequest
from standpipe.payments.rails.stripe_amounts import from_stripe, to_stripe
from standpipe.payments.refunds import request_refund
from standpipe.payments.settle import settle
from standpipe.platform.errors import InvalidInputError
from standpipe_demo.simulator.fake_stripe import event
from tests.support.town import Town

NOW = datetime(2026, 5, 1, tzinfo=UTC)


async def test_p15_a_stale_failure_after_success_changes_nothing(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    await town.tell(event("payment_intent.payment_failed", intent | {"status": "requires_payment_method"}))
    await town.tell(event("payment_intent.canceled", intent | {"status": "canceled"}))
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_p16_a_card_that_fails_first_and_then_pays_is_credited(town: Town) -> None:
    payload = await town.start()
    top_up_id = payload["topUp"]["id"]
    intent_id = payload["topUp"]["nextAction"]["clientSecret"].split("_secret_")[0]
    failed = await town.control(intent_id, "fail")
    await town.tell(event("payment_intent.payment_failed", failed))
    await town.drain()
    assert await town.status(top_up_id) == "FAILED"
    assert await town.credits() == (0, 0, 0)
    paid = await town.control(intent_id, "succeed")
    await town.tell(event("payment_intent.succeeded", paid))
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_p16_a_declined_sandbox_payment_approved_later_is_found_by_polling(town: Town) -> None:
    top_up_id = (await town.start("sandbox"))["topUp"]["id"]
    act = f"{town.sandbox_url}/v1/references/{top_up_id}"
    assert (await town.http.post(f"{act}/decline")).status_code == 200
    await town.poll()
    assert await town.status(top_up_id) == "FAILED"
    # Approved after all, and the webhook is lost: only our own asking can find it.
    assert (await town.http.post(f"{act}/lose")).status_code == 200
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_p17_an_older_answer_that_comes_last_does_not_win(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    rail = town.rails["stripe"]
    asked, go = asyncio.Event(), asyncio.Event()
    truths: list[PaymentTruth] = []

    class Slow:
        """Stripe, whose first answer is fetched early and delivered late."""

        name = "stripe"
        capabilities = rail.capabilities

        async def fetch(self, rail_ref: str) -> PaymentTruth:
            truth = await rail.fetch(rail_ref)
            truths.append(truth)
            if len(truths) == 1:
                asked.set()
                await go.wait()
            return truth

    # The slow worker asks while the payment is still declined; another settles the success; then the old answer lands.
    town.stripe.intents[intent["id"]].update(
        status="requires_payment_method",
        amount_received=0,
        latest_charge=None,
        last_payment_error={"type": "card_error"},
    )
    slow: Any = {"stripe": Slow()}
    late = asyncio.create_task(settle(town.sessions, slow, top_up_id, town.settings.clock))
    await asked.wait()
    town.stripe.intents[intent["id"]].update(intent)
    await settle(town.sessions, town.rails, top_up_id, town.settings.clock)
    assert await town.status(top_up_id) == "PAID"
    go.set()
    await late
    assert len(truths) == 2
    async with town.sessions() as session:
        top_up = await session.get_one(Payment, top_up_id)
        assert (top_up.status, top_up.failure_code) == ("SUCCEEDED", None)
    assert await town.credits() == (1, 1, 1500)


async def test_p20_a_worker_that_dies_after_the_2xx_loses_nothing(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    assert (await town.tell(event("payment_intent.succeeded", intent))).status_code == 200
    async with town.sessions.begin() as session:
        # A worker claims the row and dies with it: the lease is taken, the attempt counted, nothing done.
        await session.execute(text("UPDATE rail_events SET attempts = 1, due_at = now() + interval '1 minute'"))
    await town.drain()
    assert await town.credits() == (0, 0, 0)
    await town.hurry(RailEvent)
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


@pytest.mark.parametrize("table", ["ledger_transactions", "credit_grants", "outbox_facts"])
async def test_p20_money_credit_and_news_are_one_commit(town: Town, table: str) -> None:
    top_up_id, intent = await town.pay_by_card()
    async with town.sessions.begin() as session:
        await session.execute(text(f"ALTER TABLE {table} RENAME TO away"))
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain_inbox()
    async with town.sessions.begin() as session:
        await session.execute(text(f"ALTER TABLE away RENAME TO {table}"))
    assert await town.count(CreditGrant) == 0
    assert await town.wallet() == 0
    await town.hurry(RailEvent)
    await town.drain()
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)


async def test_p20_a_server_that_dies_after_the_provider_created_the_payment(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    async with town.sessions.begin() as session:
        # The row as it was committed before the call: no provider id, no next action, never heard back.
        await session.execute(
            text("UPDATE payments SET rail_ref = NULL, next_action = NULL, status = 'CREATED', version = 0")
        )
    await town.poll()
    assert await town.status(top_up_id) == "PAID"
    assert list(town.stripe.intents) == [intent["id"]]
    assert await town.credits() == (1, 1, 1500)


@pytest.mark.parametrize(("captured", "booked"), [(900, 900), (1500, 1500), (1700, 1700)])
async def test_p21_what_was_captured_is_credited_never_what_was_asked_for(
    town: Town, captured: int, booked: int
) -> None:
    _, intent = await town.pay_by_card(captured=captured)
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    assert await town.credits() == (1, 1, booked)


async def test_p22_another_currency_waits_in_suspense(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    town.stripe.intents[intent["id"]]["currency"] = "usd"
    for _ in range(2):
        await town.tell(event("payment_intent.succeeded", intent))
        await town.drain()
    assert await town.credits() == (0, 0, 0)
    assert await held_minor(town, "USD") == 1500
    assert await town.sums() == {"USD": 0}
    async with town.sessions() as session:
        kinds = (await session.scalars(select(OutboxFact.kind))).all()
    assert "MoneyInSuspense" in kinds
    assert top_up_id


async def test_p31_a_second_payment_for_one_intention_is_credited_too_and_flagged(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    form = {"amount": "700", "currency": "kes", "metadata[top_up_id]": top_up_id}
    second = town.stripe.create(form, None)
    town.stripe.succeed(second)
    for _ in range(2):
        await town.tell(event("payment_intent.succeeded", second))
        await town.drain()
    assert await town.credits() == (2, 1, 2200)
    assert await held_minor(town, "KES") == 0
    async with town.sessions() as session:
        [flag] = (await session.scalars(select(OutboxFact).where(OutboxFact.kind == "SecondPayment"))).all()
        payment = await session.get_one(Payment, flag.payload["payment_id"])
    assert (payment.top_up_id, payment.captured_minor) == (top_up_id, 700)
    assert await town.sums() == {"KES": 0}
    # To the customer it is one top-up that brought more than was ordered, with a receipt for each payment.
    query = (
        "query($i: ID!) { node(id: $i) { ... on TopUp { status pay { amount } credit { amount } receipts { "
        "pay { amount } lines { code amount { amount } } } } } }"
    )
    shown = (await town.gql(query, i=top_up_id))["data"]["node"]
    assert (shown["status"], shown["pay"]["amount"], shown["credit"]["amount"]) == ("PAID", "15.00", "22.00")
    assert [receipt["pay"]["amount"] for receipt in shown["receipts"]] == ["15.00", "7.00"]


async def test_p31_each_payment_for_an_order_is_given_back_by_itself(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    second = town.stripe.create({"amount": "700", "currency": "kes", "metadata[top_up_id]": top_up_id}, None)
    town.stripe.succeed(second)
    await town.tell(event("payment_intent.succeeded", second))
    await town.drain()
    async with town.sessions() as session:
        found = await session.scalars(select(Payment.id).where(Payment.top_up_id == top_up_id).order_by(Payment.id))
        other, first = found
    assert first == top_up_id
    with pytest.raises(InvalidInputError, match="At most 700"):
        await ask_refund(town, other, 701)
    await ask_refund(town, other, 700)
    await ask_refund(town, first, 1500)


async def ask_refund(town: Town, payment_id: str, amount_minor: int) -> None:
    async with town.sessions.begin() as session:
        await request_refund(
            session,
            town.rails,
            operator="amina",
            payment_id=payment_id,
            amount_minor=amount_minor,
            reason="paid twice",
            request_key=f"{payment_id}:{amount_minor}",
            now=town.settings.clock.now(),
        )


async def test_a_payment_that_is_not_ours_moves_nothing(town: Town) -> None:
    top_up_id, _ = await town.pay_by_card()
    stranger = town.stripe.create({"amount": "9900", "currency": "kes", "metadata[top_up_id]": "top_other"}, None)
    town.stripe.succeed(stranger)
    # The notice claims our reference; the payment itself, when asked, does not carry it.
    await town.tell(event("payment_intent.succeeded", stranger | {"metadata": {"top_up_id": top_up_id}}))
    await town.drain()
    assert await town.credits() == (0, 0, 0)


async def test_a_lost_webhook_is_found_by_the_janitor(town: Town) -> None:
    top_up_id, _ = await town.pay_by_card()
    assert await town.poll() == 1
    assert await town.status(top_up_id) == "PAID"
    assert await town.credits() == (1, 1, 1500)
    assert await town.poll() == 0


async def test_the_janitor_gives_nothing_up_as_failed(town: Town) -> None:
    top_up_id = (await town.start("sandbox"))["topUp"]["id"]
    for _ in range(20):
        await town.poll()
    async with town.sessions() as session:
        top_up = await session.get_one(Payment, top_up_id)
    assert top_up.status == "PENDING"
    assert top_up.dead_at is not None
    # Given to a person, and paid all the same: the notice still settles it.
    await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/lose")
    await settle(town.sessions, town.rails, top_up_id, town.settings.clock)
    assert await town.credits() == (1, 1, 1500)


@pytest.mark.parametrize(
    ("currency", "ours", "theirs"),
    [("KES", 1500, 1500), ("USD", 1, 1), ("JPY", 500, 500), ("UGX", 5_000, 500_000), ("ISK", 40, 4_000),
     ("KWD", 12_340, 12_340), ("XAF", 700, 700)],
)  # fmt: skip
def test_p23_stripe_exponents(currency: str, ours: int, theirs: int) -> None:
    assert to_stripe(ours, currency) == theirs
    assert from_stripe(theirs, currency) == ours


def test_p23_what_stripe_cannot_charge_is_refused_before_the_call() -> None:
    with pytest.raises(RailRefusedError):
        to_stripe(12_345, "KWD")


async def held_minor(town: Town, currency: str) -> int:
    async with town.sessions() as session:
        return await account_sum_minor(session, AccountRef(AccountKind.SUSPENSE, "stripe", currency))


async def test_settling_while_the_meters_water_is_charged_does_not_deadlock(town: Town) -> None:
    _, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    async with town.sessions.begin() as session:
        # A report being taken in holds the meter; settle comes in between; then the report's charge wants the wallet.
        await lock_meter(session, town.home.meter_id)
        # Nothing waits for it: the notice is tried again a moment later.
        await town.drain_inbox()
        lines = [
            Line(AccountRef(AccountKind.WALLET, town.home.meter_id, "KES"), -7),
            Line(AccountRef(AccountKind.REVENUE, town.utility_id, "KES"), 7),
        ]
        await post(session, key="water", kind="USAGE", lines=lines, occurred_at=NOW, states_fact=True)
    assert await town.wallet() == -7
    await town.hurry(RailEvent)
    await town.drain_inbox()
    assert await town.wallet() == 1493
    assert [row.attempts for row in await town.inbox()] == [2]


async def test_p38_a_refund_made_in_the_dashboard_is_booked(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    request = RefundRequest("dashboard", intent["id"], None, 500, "KES", "at the dashboard")
    await town.rails["stripe"].refund(request)
    charge = town.stripe.intents[intent["id"]]["latest_charge"]
    for _ in range(2):
        await town.tell(event("charge.refunded", charge))
        await town.drain()
    # No command has gone out to the meter yet, so the credit can be taken back whole.
    assert await town.wallet() == 1000
    assert await town.sums() == {"KES": 0}
    assert await town.status(top_up_id) == "PAID"
