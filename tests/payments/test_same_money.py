"""The same reference is not the same money: only what the rail confirms, by its own id and amount, is a payment's."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, update

from standpipe.payments.inbox import work_inbox
from standpipe.payments.models import Payment, RailEvent, SuspenseItem, TopUp
from standpipe.payments.paybill import sweep
from standpipe.payments.rails.mpesa import MpesaRail
from tests.payments.test_mpesa import begin, call, decide, paybill, suspended, work
from tests.support.town import Town


@pytest.fixture
async def registered(town: Town) -> Town:
    rail = town.rails["mpesa"]
    assert isinstance(rail, MpesaRail)
    await rail.register_urls()
    return town


async def pull(town: Town) -> int:
    now = town.settings.clock.now()
    return await sweep(
        town.sessions, town.rails, town.settings.clock, since=now - timedelta(days=1), until=now + timedelta(days=1)
    )


async def test_p51_a_reference_typed_by_hand_with_another_amount_is_another_payment(registered: Town) -> None:
    town = registered
    top_up_id, push = await begin(town)
    await decide(town, push, "approve_silent")
    await town.poll()
    assert await town.credits() == (1, 1, 1500)
    await paybill(town, town.mpesa.pushes[push]["account"], "500")
    await work(town)
    assert await town.credits() == (2, 1, 51_500)
    for _ in range(2):
        await pull(town)
        await work(town)
    assert (await town.credits(), await suspended(town)) == ((2, 1, 51_500), 0)
    assert await town.count(TopUp) == 2
    async with town.sessions() as session:
        pushed = await session.get_one(Payment, top_up_id)
    assert pushed.receipt_ref == town.mpesa.pushes[push]["receipt"]
    assert await town.sums() == {"KES": 0}


async def test_p51_money_typed_by_hand_before_the_push_is_decided_is_not_the_pushs(registered: Town) -> None:
    town = registered
    _, push = await begin(town)
    await paybill(town, town.mpesa.pushes[push]["account"], "500")
    await work(town)
    assert await town.credits() == (1, 1, 50_000)
    await decide(town, push, "approve_with_c2b")
    await work(town)
    await pull(town)
    assert await town.credits() == (2, 1, 51_500)


def paid_by(push: str, receipt: str) -> dict[str, Any]:
    items = [{"Name": "Amount", "Value": 15}, {"Name": "MpesaReceiptNumber", "Value": receipt}]
    inner = {"CheckoutRequestID": push, "ResultCode": 0, "CallbackMetadata": {"Item": items}}
    return {"Body": {"stkCallback": inner}}


@pytest.mark.parametrize("amount", ["15", "20"])
async def test_p52_a_callback_that_names_anothers_receipt_names_nothing(registered: Town, amount: str) -> None:
    town = registered
    top_up_id, push = await begin(town)
    await decide(town, push, "approve_silent")
    other = await paybill(town, town.home.serial, amount, mode="lost")
    assert (await call(town, "stk", paid_by(push, other["transaction"]))).status_code == 200
    await work(town)
    async with town.sessions() as session:
        assert (await session.get_one(Payment, top_up_id)).receipt_ref != other["transaction"]
    assert await town.credits() == (1, 1, 1500)
    # The other payer's money is placed when it comes.
    town.mpesa.confirm(town.mpesa.money[other["transaction"]])
    await town.mpesa.sender.settle()
    await work(town)
    assert await town.credits() == (2, 1, 1500 + int(amount) * 100)
    assert await town.count(SuspenseItem) == 0


async def test_p52_a_callback_that_names_a_receipt_that_is_not_there_ends(registered: Town) -> None:
    town = registered
    top_up_id, push = await begin(town)
    await decide(town, push, "approve_silent")
    await call(town, "stk", paid_by(push, "FORGED1234"))
    await work(town)
    async with town.sessions() as session:
        assert (await session.get_one(Payment, top_up_id)).receipt_ref is None
    assert await town.credits() == (1, 1, 1500)
    assert [row.dead_at for row in await town.inbox()] == [None] * len(await town.inbox())


async def test_p52_the_answer_about_a_receipt_wakes_the_notice_that_named_it(registered: Town) -> None:
    town = registered
    top_up_id, push = await begin(town)
    await town.http.post(f"{town.mpesa_url}/_control/stk/{push}/approve")
    await town.mpesa.sender.settle()
    assert await work_inbox(town.sessions, town.rails, town.settings.clock)
    async with town.sessions.begin() as session:
        # However long it was to wait for its next try: the answer ends the wait.
        notice = RailEvent.subject == "PAYMENT", RailEvent.due_at.is_not(None)
        later = update(RailEvent).where(*notice).values(due_at=func.now() + timedelta(hours=1))
        assert (await session.scalars(later.returning(RailEvent.id))).all()
    async with town.sessions() as session:
        assert (await session.get_one(Payment, top_up_id)).receipt_ref is None
    await town.mpesa.sender.settle()
    await town.drain_inbox()
    async with town.sessions() as session:
        assert (await session.get_one(Payment, top_up_id)).receipt_ref == town.mpesa.pushes[push]["receipt"]
