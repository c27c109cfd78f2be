"""Moving out: a final account, and nothing of the household is left for the next."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from standpipe.households.models import Customer, Invite
from standpipe.meters.models import Meter
from standpipe.payments.auto_top_up import AutoMode
from standpipe.payments.vend_models import AutoTopUp, SavedMethod
from standpipe.utilities.models import OperatorAction, Utility
from standpipe_demo.simulator.fake_stripe import event
from tests.support.households import (
    ANSWER,
    MOVE_OUT,
    claim,
    code_for,
    code_of,
    do,
    invite,
    join,
    make_person,
    member_id,
    my_meters,
    told,
)
from tests.support.sockets import opened, subscribe
from tests.support.town import Town

pytestmark = pytest.mark.calendar

AUTO = "query($m: ID!) { viewer { meter(id: $m) { autoTopUp { enabled pausedReason amount { amount } } } } }"


def day(town: Town, ago: int = 0) -> date:
    return town.today() - timedelta(days=ago)


async def move_out(town: Town, token: str | None = None, *, ago: int = 0, key: str = "out") -> dict[str, Any]:
    return await do(town, MOVE_OUT, token, k=key, m=town.home.meter_id, d=str(day(town, ago)))


async def paid(town: Town, amount: str) -> str:
    top_up_id, intent = await town.pay_by_card(amount)
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    return top_up_id


async def test_a5_moving_out_gives_the_final_account_and_ends_everybodys_access(town: Town) -> None:
    payer, guest = await join(town, "PAYER"), await make_person(town)
    top_up_id = await paid(town, "15.00")
    waiting = (await invite(town, guest.phone))["member"]["id"]
    code = await code_for(town, town.home.serial)
    payload = await move_out(town)
    assert payload == {
        "replayed": False,
        "userErrors": [],
        "finalBalance": {
            "day": str(day(town)),
            "wallet": {"amount": "15.00"},
            "onItsWay": {"amount": "15.00"},
            "standing": {"amount": "0.00"},
            "arrears": {"amount": "0.00"},
            "emergency": {"amount": "0.00"},
        },
    }
    # No money has moved: the office gives back what there is to give back.
    assert (await town.wallet(), await town.sums()) == (1500, {"KES": 0})
    for token in (town.home.token, payer.token):
        assert await my_meters(town, token) == {}
        for one in (town.home.meter_id, top_up_id):
            assert (await town.gql("query($i: ID!) { node(id: $i) { id } }", token, i=one))["data"]["node"] is None
    assert code_of(await do(town, ANSWER, guest.token, i=waiting, a=True)) == "NOT_FOUND"
    assert code_of(await claim(town, payer.token, town.home.serial, code)) == "INVALID"
    assert await told(town) == [("ACCESS_MOVED_OUT", [payer.customer_id])]
    async with town.sessions() as session:
        assert (await session.get_one(Invite, waiting)).ended_reason == "MOVED_OUT"
        assert (await session.get_one(Meter, town.home.meter_id)).label == town.home.serial
        trace = (await session.scalars(select(OperatorAction).where(OperatorAction.action == "supply.move-out"))).one()
        assert (trace.operator, trace.subject_id) == (town.home.customer_id, town.home.meter_id)
        assert trace.detail["closing"]["wallet_minor"] == 1500


async def test_moving_out_said_twice_gives_the_first_answer(town: Town) -> None:
    answers = await asyncio.gather(*(move_out(town, ago=1, key="same") for _ in range(4)))
    good = [answer for answer in answers if answer["finalBalance"]]
    assert len({json.dumps(answer["finalBalance"]) for answer in good}) == 1
    again = await move_out(town, ago=1, key="same")
    assert (again["replayed"], again["finalBalance"]) == (True, good[0]["finalBalance"])
    assert code_of(await move_out(town, ago=2, key="same")) == "IDEMPOTENCY_MISMATCH"
    assert code_of(await move_out(town, key="another")) == "NOT_FOUND"


async def test_a5_two_owners_who_move_out_at_once_do_it_once(town: Town) -> None:
    second = await join(town, "OWNER")
    answers = await asyncio.gather(move_out(town, key="a"), move_out(town, second.token, key="b"))
    assert sorted(str(code_of(one)) for one in answers) == ["NOT_FOUND", "None"]
    assert await town.count(OperatorAction, OperatorAction.action == "supply.move-out") == 1


@pytest.mark.parametrize("ago", [-1, 8, 400])
async def test_the_day_is_today_or_one_of_the_last_seven(town: Town, ago: int) -> None:
    refused = await move_out(town, ago=ago)
    assert (code_of(refused), refused["userErrors"][0]["field"]) == ("INVALID", ["day"])
    assert len(await my_meters(town, town.home.token)) == 1
    assert (await move_out(town, ago=7))["userErrors"] == []


async def test_a5_a_household_with_another_meter_keeps_it_and_its_invitations(town: Town) -> None:
    guest = await make_person(town)
    async with town.sessions.begin() as session:
        first = await session.get_one(Meter, town.home.meter_id)
        values = {column.name: getattr(first, column.name) for column in Meter.__table__.columns}
        values |= {"id": "mtr_" + "2" * 26, "serial": "SECOND"}
        del values["account_number"], values["unit"]
        session.add(Meter(**values))
    waiting = (await invite(town, guest.phone))["member"]["id"]
    await move_out(town)
    assert await my_meters(town, town.home.token) == {"mtr_" + "2" * 26: "OWNER"}
    taken = await do(town, ANSWER, guest.token, i=waiting, a=True)
    assert taken["meters"] == [{"id": "mtr_" + "2" * 26}]


@pytest.mark.parametrize("ago", [0, 1])
async def test_g7_the_next_family_sees_nothing_of_the_last(town: Town, ago: int) -> None:
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).values(emergency_credit_minor=0))
        await session.execute(update(Customer).values(name="Old Family"))
        await session.execute(update(Meter).values(label="Old Family's house"))
    top_up_id = await paid(town, "15.00")
    old_member = await member_id(town, town.home)
    await move_out(town, ago=ago)
    mary = await make_person(town)
    await claim(town, mary.token, town.home.serial, await code_for(town, town.home.serial))
    assert await my_meters(town, mary.token) == {town.home.meter_id: "OWNER"}
    query = (
        "query($m: ID!, $t: ID!, $o: ID!, $f: Date!, $u: Date!) { topUp: node(id: $t) { id } old: node(id: $o) { id } "
        "viewer { meter(id: $m) { label topUps { nodes { id } } members { name } autoTopUp { enabled } "
        "usage(from: $f, to: $u, interval: DAY) { buckets { start } } } } }"
    )
    span = {"f": str(day(town, 30)), "u": str(day(town))}
    shown = (await town.gql(query, mary.token, m=town.home.meter_id, t=top_up_id, o=old_member, **span))["data"]
    assert (shown["old"], shown["topUp"]) == (None, None)
    assert shown["viewer"]["meter"]["topUps"] == {"nodes": []}
    assert "Old Family" not in json.dumps(shown)
    assert shown["viewer"]["meter"]["label"] == town.home.serial
    assert len(shown["viewer"]["meter"]["members"]) == 1
    assert shown["viewer"]["meter"]["usage"]["buckets"] == []
    # And the last family nothing of the next.
    await invite(town, "+254712345678", token=mary.token)
    assert await my_meters(town, town.home.token) == {}


async def test_g7_a_standing_order_of_who_left_is_shown_to_nobody_and_ends(town: Town) -> None:
    second = await join(town, "OWNER")
    async with town.sessions.begin() as session:
        card = SavedMethod(
            id="pmt_" + "3" * 26, customer_id=second.customer_id, rail="stripe", rail_ref="pm_3",
            brand="visa", last4="4242", created_at=datetime.now(UTC),
        )  # fmt: skip
        session.add(card)
        await session.flush()
        session.add(
            AutoTopUp(
                id="atu_" + "3" * 26, meter_id=town.home.meter_id, customer_id=second.customer_id,
                saved_method_id=card.id, currency="KES", threshold_days=3, mode=AutoMode.FIXED, amount_minor=2_000,
                daily_cap_minor=5_000, enabled=True, failures=0, updated_at=datetime.now(UTC),
            )
        )  # fmt: skip
    seen = (await town.gql(AUTO, m=town.home.meter_id))["data"]["viewer"]["meter"]["autoTopUp"]
    assert seen["enabled"] is True
    await move_out(town, second.token)
    mary = await make_person(town)
    await claim(town, mary.token, town.home.serial, await code_for(town, town.home.serial))
    hidden = (await town.gql(AUTO, mary.token, m=town.home.meter_id))["data"]["viewer"]["meter"]["autoTopUp"]
    assert hidden is None
    await town.drain()
    async with town.sessions() as session:
        order = (await session.scalars(select(AutoTopUp))).one()
        assert (order.enabled, order.paused_reason) == (False, "moved")


async def test_g7_live_views_of_those_who_moved_out_end_at_once(town: Town) -> None:
    viewer = await join(town, "VIEWER")
    async with await opened(town, viewer.token) as socket:
        await subscribe(socket, "subscription($i: ID!) { meterUpdated(meterId: $i) { label } }", town.home.meter_id)
        assert json.loads(await socket.recv())["type"] == "next"
        await move_out(town)
        async with asyncio.timeout(10):
            message = json.loads(await socket.recv())
        assert "NOT_FOUND" in json.dumps(message)


async def test_g7_a_statement_s_link_ends_with_those_whom_it_was_made_for(town: Town) -> None:
    await paid(town, "15.00")
    query = "query($m: Date!) { viewer { meters { nodes { statement(month: $m) { statement { pdf } } } } } }"
    answer = await town.gql(query, m=str(day(town).replace(day=1)))
    link = answer["data"]["viewer"]["meters"]["nodes"][0]["statement"]["statement"]["pdf"]
    link = town.api + link[link.index("/statements/") :]
    assert (await town.http.get(link)).status_code == 200
    assert (await move_out(town))["userErrors"] == []
    assert (await town.http.get(link)).status_code == 404
    bob = await make_person(town)
    assert (await claim(town, bob.token, town.home.serial, await code_for(town, town.home.serial)))["meter"]
    assert (await town.http.get(link)).status_code == 404
    theirs = await town.gql(query, bob.token, m=str(day(town).replace(day=1)))
    mine = theirs["data"]["viewer"]["meters"]["nodes"][0]["statement"]["statement"]["pdf"]
    assert (await town.http.get(town.api + mine[mine.index("/statements/") :])).status_code == 200
