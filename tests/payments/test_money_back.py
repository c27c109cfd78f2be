"""Money that goes back: refunds, disputes, and what the customer owes after them. Through the sandbox's HTTP."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, text

from standpipe.billing.models import PeriodCharge
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, account_sum_minor, post
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter, MeterCommand, MeterState
from standpipe.meters.reports import (
    CommandResult,
    MeterReport,
    RegisterReading,
    StatusReport,
    ValveReason,
    ValveState,
)
from standpipe.payments.models import Payment, RailEvent, Refund
from standpipe.payments.refunds import approve_refund, request_refund, work_refunds
from standpipe.platform.errors import InvalidInputError, StandpipeError
from tests.support.delivery import mark_unknown, next_to_send, take_report
from tests.support.town import Town, until

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = {"authorization": "Bearer sandbox_key_of_the_town"}


async def paid(town: Town, amount: str = "15.00") -> str:
    top_up_id = str((await town.start("sandbox", amount))["topUp"]["id"])
    await act(town, top_up_id, "approve")
    return top_up_id


async def act(town: Town, top_up_id: str, action: str, **params: str) -> dict[str, Any]:
    """Something happens at the provider, and its webhook is worked."""
    before = await town.count(RailEvent)
    url = f"{town.sandbox_url}/v1/references/{top_up_id}/{action}"
    charge: dict[str, Any] = (await town.http.post(url, params=params)).json()
    if action != "hold-refunds":
        await until(lambda: more_events(town, before))
    await town.drain()
    return charge


async def more_events(town: Town, before: int) -> bool:
    return await town.count(RailEvent) > before


async def move_refund(town: Town, refund_id: str, status: str) -> None:
    before = await town.count(RailEvent)
    await town.http.post(f"{town.sandbox_url}/v1/refunds/{refund_id}/{status}")
    await until(lambda: more_events(town, before))
    await town.drain()


async def use_water(town: Town, amount_minor: int, key: str = "water") -> None:
    async with town.sessions.begin() as session:
        await lock_meter(session, town.home.meter_id)
        lines = [
            Line(AccountRef(AccountKind.WALLET, town.home.meter_id, "KES"), -amount_minor),
            Line(AccountRef(AccountKind.REVENUE, town.utility_id, "KES"), amount_minor),
        ]
        await post(session, key=key, kind="USAGE", lines=lines, occurred_at=NOW, states_fact=True)


async def sent(town: Town) -> int:
    """The waiting credit command goes out and its answer is lost; returns its number."""
    async with town.sessions.begin() as session:
        command = await next_to_send(session, town.home.meter_id, NOW)
        assert command is not None
        await mark_unknown(session, command.id, "no answer")
        return command.sequence


async def state(town: Town, *, accepted_minor: int, sequence: int) -> None:
    """The meter says what it has accepted."""
    async with town.sessions.begin() as session:
        row = await session.get(MeterState, town.home.meter_id)
        said = StatusReport(
            report_counter=(0 if row is None else row.report_counter) + 1,
            last_sequence=sequence,
            result=CommandResult.DONE,
            credit_accepted=accepted_minor,
            credit_remaining=accepted_minor,
            register_ml=0,
            valve=ValveState.OPEN,
            valve_reason=ValveReason.NORMAL,
            stated_at=NOW,
        )
        await take_report(session, MeterReport(town.home.meter_id, NOW, (), said), NOW)
    await town.drain()


async def balances(town: Town) -> dict[str, int]:
    async with town.sessions() as session:
        owners = {
            AccountKind.WALLET: town.home.meter_id,
            AccountKind.RECEIVABLE: town.home.meter_id,
            **dict.fromkeys(
                (AccountKind.CLEARING, AccountKind.REFUND_DUE, AccountKind.LOSSES, AccountKind.PROVIDER_FEES), "sandbox"
            ),
        }
        found = {}
        for kind, owner in owners.items():
            amount = await account_sum_minor(session, AccountRef(kind, owner, "KES"))
            if amount:
                found[kind.value] = amount
        granted = (await session.get_one(Meter, town.home.meter_id)).credit_granted
    assert not any((await town.sums()).values())
    return found | {"granted": granted}


async def ask(town: Town, top_up_id: str, amount_minor: int, key: str = "k1", operator: str = "amina") -> str:
    async with town.sessions.begin() as session:
        return await request_refund(
            session,
            town.rails,
            operator=operator,
            payment_id=top_up_id,
            amount_minor=amount_minor,
            reason="moved out",
            request_key=key,
            now=NOW,
        )


async def approve(town: Town, refund_id: str, operator: str = "brian") -> str:
    async with town.sessions.begin() as session:
        return await approve_refund(session, operator=operator, refund_id=refund_id, now=NOW)


async def work(town: Town) -> None:
    await town.hurry(Refund)
    await work_refunds(town.sessions, town.rails, town.settings.clock)
    await town.drain()


async def refund_row(town: Town, refund_id: str) -> Refund:
    async with town.sessions() as session:
        return await session.get_one(Refund, refund_id)


async def test_a_refund_of_undelivered_credit_takes_two_people(town: Town) -> None:
    top_up_id = await paid(town)
    refund_id = await ask(town, top_up_id, 500)
    assert await ask(town, top_up_id, 500) == refund_id
    with pytest.raises(InvalidInputError, match="second person"):
        await approve(town, refund_id, operator="amina")
    assert await approve(town, refund_id) == "READY"
    assert await balances(town) == {"WALLET": 1000, "CLEARING": -1500, "REFUND_DUE": 500, "granted": 1000}
    await work(town)
    assert (await refund_row(town, refund_id)).status == "DONE"
    assert await balances(town) == {"WALLET": 1000, "CLEARING": -1000, "granted": 1000}
    with pytest.raises(InvalidInputError, match="not waiting"):
        await approve(town, refund_id)


async def test_credit_that_the_meter_holds_is_not_refunded(town: Town) -> None:
    top_up_id = await paid(town)
    sequence = await sent(town)
    await state(town, accepted_minor=1500, sequence=sequence)
    refund_id = await ask(town, top_up_id, 500)
    with pytest.raises(InvalidInputError, match="holds this credit"):
        await approve(town, refund_id)
    assert await balances(town) == {"WALLET": 1500, "CLEARING": -1500, "granted": 1500}


async def test_a_command_on_the_air_makes_the_refund_wait_for_the_meters_word(town: Town) -> None:
    top_up_id = await paid(town)
    await sent(town)
    refund_id = await ask(town, top_up_id, 1500)
    assert await approve(town, refund_id) == "AWAITING_METER"
    await work(town)
    assert (await refund_row(town, refund_id)).status == "AWAITING_METER"
    lower = await sent(town)
    # The meter took the lower total under the higher number: the older command can never be taken any more.
    await state(town, accepted_minor=0, sequence=lower)
    assert (await refund_row(town, refund_id)).status == "READY"
    await work(town)
    assert (await refund_row(town, refund_id)).status == "DONE"
    assert await balances(town) == {"granted": 0}
    assert await town.status(top_up_id) == "REFUNDED"


async def test_a_meter_that_had_taken_the_credit_after_all_keeps_it(town: Town) -> None:
    top_up_id = await paid(town)
    first = await sent(town)
    refund_id = await ask(town, top_up_id, 1500)
    await approve(town, refund_id)
    await state(town, accepted_minor=1500, sequence=first)
    row = await refund_row(town, refund_id)
    assert (row.status, row.failure_code) == ("DENIED", "delivered")
    assert await balances(town) == {"WALLET": 1500, "CLEARING": -1500, "granted": 1500}
    await state(town, accepted_minor=1500, sequence=first)
    assert await town.status(top_up_id) == "ON_METER"


async def test_credits_behind_a_refunded_one_still_arrive(town: Town) -> None:
    first, second = await paid(town), await paid(town, "7.00")
    await approve(town, await ask(town, first, 1500))
    await work(town)
    assert await balances(town) == {"WALLET": 700, "CLEARING": -700, "granted": 700}
    sequence = await sent(town)
    await state(town, accepted_minor=700, sequence=sequence)
    assert await town.status(second) == "ON_METER"
    assert await town.status(first) == "REFUNDED"


async def test_p35_refund_of_spent_credit_is_owed_and_the_next_top_up_repays_a_share(town: Town) -> None:
    top_up_id = await paid(town)
    await use_water(town, 1000)
    await act(town, top_up_id, "refund", amount="1500")
    # 500 of it never reached the meter and leaves the wallet, down to its floor; the rest has been used and is owed.
    assert await balances(town) == {"RECEIVABLE": -1000, "granted": 1000}
    query = (
        "query($m: ID!) { viewer { meter(id: $m) { balance { arrears { amount } } quote(by: {money: {amount: "
        '"8.00", currency: "KES"}}) { quote { credit { amount } deductions { code amount { amount } } } } } } }'
    )
    shown = (await town.gql(query, m=town.home.meter_id))["data"]["viewer"]["meter"]
    assert shown["balance"]["arrears"]["amount"] == "10.00"
    assert shown["quote"]["quote"] == {
        "credit": {"amount": "6.00"},
        "deductions": [{"code": "DEBT", "amount": {"amount": "2.00"}}],
    }
    again = await paid(town, "8.00")
    assert await balances(town) == {"WALLET": 600, "RECEIVABLE": -800, "CLEARING": -800, "granted": 1600}
    receipt = "query($i: ID!) { node(id: $i) { ... on TopUp { credit { amount } receipt { lines { code } } } } }"
    node = (await town.gql(receipt, i=again))["data"]["node"]
    assert node["credit"]["amount"] == "6.00"
    assert "DEBT" in [line["code"] for line in node["receipt"]["lines"]]
    await paid(town, "90.00")
    assert (await balances(town)).get("RECEIVABLE") is None


async def test_p35_credit_on_the_meter_is_owed_for_its_water_will_run(town: Town) -> None:
    top_up_id = await paid(town)
    await state(town, accepted_minor=1500, sequence=await sent(town))
    await act(town, top_up_id, "refund", amount="1500")
    assert await balances(town) == {"WALLET": 1500, "RECEIVABLE": -1500, "granted": 1500}


async def test_p38_credit_that_may_be_on_the_air_is_owed_for_it_cannot_be_called_back(town: Town) -> None:
    top_up_id = await paid(town)
    first = await sent(town)
    await act(town, top_up_id, "refund", amount="1500")
    assert await balances(town) == {"WALLET": 1500, "RECEIVABLE": -1500, "granted": 1500}
    # The command does arrive, late: the meter holds no more than the ledger says.
    await state(town, accepted_minor=1500, sequence=first)
    assert await town.status(top_up_id) == "REFUNDED"


async def test_p36_succeeded_then_failed_is_restored_and_a_second_attempt_counts_once(town: Town) -> None:
    top_up_id = await paid(town)
    first = await ask(town, top_up_id, 500)
    await approve(town, first)
    await work(town)
    row = await refund_row(town, first)
    assert row.rail_ref is not None
    await move_refund(town, row.rail_ref, "failed")
    assert (await refund_row(town, first)).status == "FAILED"
    assert await balances(town) == {"WALLET": 1500, "CLEARING": -1500, "granted": 1500}
    second = await ask(town, top_up_id, 500, key="k2")
    await approve(town, second)
    await work(town)
    await move_refund(town, row.rail_ref, "failed")
    assert (await refund_row(town, second)).status == "DONE"
    assert await balances(town) == {"WALLET": 1000, "CLEARING": -1000, "granted": 1000}


async def test_p37_concurrent_refunds_over_the_total_are_refused_before_the_provider(town: Town) -> None:
    top_up_id = await paid(town)

    async def one(number: int) -> bool:
        try:
            await ask(town, top_up_id, 400, key=f"k{number}")
        except StandpipeError:
            return False
        return True

    assert sum(await asyncio.gather(*(one(number) for number in range(10)))) == 3
    for amount in (0, -5, 301, 10**18):
        with pytest.raises(InvalidInputError):
            await ask(town, top_up_id, amount, key=f"x{amount}")
    found = await town.http.get(f"{town.sandbox_url}/v1/charges", params={"reference": top_up_id}, headers=KEY)
    assert found.json()["refunds"] == []


async def test_p39_an_inquiry_moves_nothing_and_freezes_the_rail(town: Town) -> None:
    top_up_id = await paid(town)
    await act(town, top_up_id, "dispute-inquiry")
    assert await balances(town) == {"WALLET": 1500, "CLEARING": -1500, "granted": 1500}
    assert (await town.start("sandbox"))["userErrors"][0]["code"] == "METER_BLOCKED"
    assert (await town.start("stripe"))["userErrors"] == []
    with pytest.raises(InvalidInputError, match="disputing"):
        await ask(town, top_up_id, 100)


@pytest.mark.parametrize("when", ["asked", "approved"])
async def test_p39_a_dispute_that_comes_between_keeps_a_refund_from_paying_twice(town: Town, when: str) -> None:
    top_up_id = await paid(town)
    refund_id = await ask(town, top_up_id, 1500)
    if when == "approved":
        await approve(town, refund_id)
    await act(town, top_up_id, "dispute")
    if when == "asked":
        with pytest.raises(InvalidInputError, match="disputing"):
            await approve(town, refund_id)
    await work(town)
    found = await town.http.get(f"{town.sandbox_url}/v1/charges", params={"reference": top_up_id}, headers=KEY)
    assert found.json()["refunds"] == []
    await act(town, top_up_id, "dispute-lose")
    await work(town)
    found = await town.http.get(f"{town.sandbox_url}/v1/charges", params={"reference": top_up_id}, headers=KEY)
    assert found.json()["refunds"] == []
    assert await balances(town) == {"CLEARING": 150, "PROVIDER_FEES": -150, "granted": 0}


async def test_p39_withdrawn_is_owed_with_the_fee_booked_and_won_comes_back_once(town: Town) -> None:
    top_up_id = await paid(town)
    await state(town, accepted_minor=1500, sequence=await sent(town))
    await act(town, top_up_id, "dispute")
    taken = {"WALLET": 1500, "RECEIVABLE": -1500, "CLEARING": 150, "PROVIDER_FEES": -150, "granted": 1500}
    assert await balances(town) == taken
    await act(town, top_up_id, "dispute-win")
    await act(town, top_up_id, "dispute-win")
    won = {"WALLET": 1500, "CLEARING": -1350, "PROVIDER_FEES": -150, "granted": 1500}
    assert await balances(town) == won
    assert (await town.start("sandbox", "16.00"))["userErrors"] == []


async def test_p39_lost_is_final(town: Town) -> None:
    top_up_id = await paid(town)
    await state(town, accepted_minor=1500, sequence=await sent(town))
    await act(town, top_up_id, "dispute")
    await act(town, top_up_id, "dispute-lose")
    lost = {"WALLET": 1500, "RECEIVABLE": -1500, "CLEARING": 150, "PROVIDER_FEES": -150, "granted": 1500}
    assert await balances(town) == lost
    assert (await town.start("sandbox", "16.00"))["userErrors"] == []


async def test_p39_water_that_has_run_is_charged_before_a_dispute_takes_the_credit(town: Town) -> None:
    """The last reading waits for its round: it says that the wallet holds less than it seems to."""
    await paid(town)
    await state(town, accepted_minor=1500, sequence=await sent(town))
    top_up_id = await paid(town)
    at = town.settings.clock.now() - timedelta(hours=1)
    async with town.sessions.begin() as session:
        register_ml = (await session.get_one(Meter, town.home.meter_id)).initial_register_ml
        await take_report(
            session, MeterReport(town.home.meter_id, at, (RegisterReading(at, register_ml + 400_000),)), at
        )
    # The dispute's notice is worked before any round.
    before = await town.count(RailEvent)
    await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/dispute")
    await until(lambda: more_events(town, before))
    await town.drain_inbox()
    left = await balances(town)
    used_minor = await charged_minor(town)
    assert used_minor > 1500
    assert left.get("WALLET", 0) == 0
    assert left["RECEIVABLE"] == 3000 - 1500 - used_minor


async def charged_minor(town: Town) -> int:
    async with town.sessions() as session:
        return await session.scalar(select(func.coalesce(func.sum(PeriodCharge.charged_minor), 0))) or 0


async def test_p39_refunded_and_disputed_takes_from_the_customer_once(town: Town) -> None:
    top_up_id = await paid(town)
    await state(town, accepted_minor=1500, sequence=await sent(town))
    await act(town, top_up_id, "refund", amount="1500")
    await act(town, top_up_id, "dispute")
    both = {"WALLET": 1500, "RECEIVABLE": -1500, "CLEARING": 1650, "PROVIDER_FEES": -150, "LOSSES": -1500}
    assert await balances(town) == both | {"granted": 1500}
    await act(town, top_up_id, "dispute-win")
    assert await balances(town) == {
        "WALLET": 1500, "RECEIVABLE": -1500, "CLEARING": 150, "PROVIDER_FEES": -150, "granted": 1500,
    }  # fmt: skip


async def test_p39_a_won_dispute_after_the_debt_was_repaid_comes_back_as_credit(town: Town) -> None:
    top_up_id = await paid(town, "10.00")
    await state(town, accepted_minor=1000, sequence=await sent(town))
    await act(town, top_up_id, "dispute")
    payload = await town.start("stripe", "100.00")
    intent = payload["topUp"]["nextAction"]["clientSecret"].split("_secret_")[0]
    await town.control(intent, "succeed")
    await town.poll()
    assert (await balances(town)).get("RECEIVABLE") is None
    wallet = (await balances(town))["WALLET"]
    assert wallet == 1000 + 9000
    await act(town, top_up_id, "dispute-win")
    assert (await balances(town))["WALLET"] == wallet + 1000
    assert (await balances(town))["granted"] == 11_000


async def test_p40_a_pending_refund_stays_pending(town: Town) -> None:
    top_up_id = await paid(town)
    await act(town, top_up_id, "hold-refunds")
    refund_id = await ask(town, top_up_id, 500)
    await approve(town, refund_id)
    for _ in range(3):
        await work(town)
    row = await refund_row(town, refund_id)
    assert (row.status, row.rail_ref is not None) == ("SENT", True)
    assert await balances(town) == {"WALLET": 1000, "CLEARING": -1500, "REFUND_DUE": 500, "granted": 1000}
    assert row.rail_ref is not None
    await move_refund(town, row.rail_ref, "failed")
    assert await balances(town) == {"WALLET": 1500, "CLEARING": -1500, "granted": 1500}


async def test_p18_every_order_of_news_ends_at_the_same_balances(town: Town) -> None:
    """Each order on a payment of its own: what is told first, last or twice makes no difference to what is true."""
    ends = set()
    for number, order in enumerate(itertools.permutations(range(3))):
        top_up_id = await paid(town, f"{number + 10}.00")
        async with town.sessions() as session:
            event_ids = (await session.scalars(select(RailEvent.id))).all()
        for action in ("refund", "dispute", "dispute-win"):
            params = {"amount": "300"} if action == "refund" else {}
            await town.http.post(f"{town.sandbox_url}/v1/references/{top_up_id}/{action}", params=params)
        await until(partial(three_more, town, len(event_ids)))
        async with town.sessions() as session:
            query = select(RailEvent.id).order_by(RailEvent.id).offset(len(event_ids))
            fresh = (await session.scalars(query)).all()
        for place in order:
            async with town.sessions.begin() as session:
                later = "UPDATE rail_events SET due_at = now() + interval '1 day' WHERE due_at IS NOT NULL"
                await session.execute(text(later))
                now = text("UPDATE rail_events SET due_at = now() WHERE id = :i")
                await session.execute(now, {"i": fresh[place]})
            await town.drain()
        async with town.sessions() as session:
            row = await session.get_one(Payment, top_up_id)
        ends.add((row.captured_minor - row.asked_minor, row.refunded_minor, row.disputed_minor, row.taken_back_minor))
    assert ends == {(0, 300, 0, 300)}
    assert not any((await town.sums()).values())


async def three_more(town: Town, seen: int) -> bool:
    return await town.count(RailEvent) >= seen + 3


async def test_p19_a_replay_after_the_inbox_was_pruned_is_no_second_credit(town: Town) -> None:
    await paid(town)
    [row] = await town.inbox()
    async with town.sessions.begin() as session:
        await session.execute(text("TRUNCATE rail_events"))
    async with town.sessions.begin() as session:
        session.add(
            RailEvent(
                rail="sandbox",
                event_id="evt_again",
                kind=row.kind,
                rail_ref=row.rail_ref,
                reference=row.reference,
                body=row.body,
            )
        )
    await town.drain()
    assert await town.credits() == (1, 1, 1500)


async def test_p26_a_partial_capture_releases_the_rest(town: Town) -> None:
    top_up_id = str((await town.start("sandbox", "15.00"))["topUp"]["id"])
    await act(town, top_up_id, "approve", amount="900")
    assert await balances(town) == {"WALLET": 900, "CLEARING": -900, "granted": 900}
    assert await town.status(top_up_id) == "PAID"
    with pytest.raises(InvalidInputError):
        await ask(town, top_up_id, 901)


async def test_p33_a_worker_that_dies_while_handing_over_a_refund_pays_it_once(town: Town) -> None:
    top_up_id = await paid(town)
    refund_id = await ask(town, top_up_id, 500)
    await approve(town, refund_id)
    row = await refund_row(town, refund_id)
    async with town.sessions() as session:
        top_up = await session.get_one(Payment, top_up_id)
    # The provider has heard the call; the worker's lease is still running when it dies before it could note that.
    headers = KEY | {"idempotency-key": f"refund:{refund_id}"}
    url = f"{town.sandbox_url}/v1/charges/{top_up.rail_ref}/refunds"
    assert (await town.http.post(url, json={"amount": row.amount_minor}, headers=headers)).status_code == 200
    await work(town)
    assert (await refund_row(town, refund_id)).status == "DONE"
    assert await balances(town) == {"WALLET": 1000, "CLEARING": -1000, "granted": 1000}


async def test_no_command_and_no_state_row_is_left_behind(town: Town) -> None:
    top_up_id = await paid(town)
    await approve(town, await ask(town, top_up_id, 1500))
    async with town.sessions() as session:
        open_values = (await session.scalars(select(MeterCommand.value).where(MeterCommand.status == "QUEUED"))).all()
        assert await session.get(MeterState, town.home.meter_id) is None
    assert open_values == [0]
