"""A5 for money: a viewer looks, a payer pays, an owner may also undo what others began."""

from typing import Any

import pytest
from sqlalchemy import select, update

from standpipe.payments.models import TopUp
from standpipe.payments.vend_models import AutoTopUp, SavedMethod
from standpipe.payments.vouchers import make_batch
from standpipe.platform.ids import new_id
from standpipe.utilities.models import Utility
from tests.support.households import REMOVE, SET_ROLE, Person, code_of, do, join, make_neighbour, member_id
from tests.support.town import Town

START = (
    'mutation($k: ID!, $m: ID!) { pay: topUpStart(input: {idempotencyKey: $k, meterId: $m, methodId: "stripe", pay: '
    '{amount: "15.00", currency: "KES"}}) { topUp { id } userErrors { code message } } }'
)
CANCEL = "mutation($t: ID!) { topUpCancel(input: {topUpId: $t}) { topUp { status } userErrors { code message } } }"
REDEEM = (
    "mutation($k: ID!, $m: ID!, $c: String!) { voucherRedeem(input: {idempotencyKey: $k, meterId: $m, code: $c}) "
    "{ topUp { id } userErrors { code message } } }"
)
EMERGENCY = (
    "mutation($k: ID!, $m: ID!) { emergencyCreditActivate(input: {idempotencyKey: $k, meterId: $m}) "
    "{ given { amount } userErrors { code message } } }"
)
SET = (
    "mutation($k: ID!, $m: ID!, $c: ID!) { autoTopUpSet(input: {idempotencyKey: $k, meterId: $m, cardId: $c, "
    'thresholdDays: 3, mode: FIXED, amount: {amount: "20.00", currency: "KES"}, '
    'dailyCap: {amount: "50.00", currency: "KES"}}) { autoTopUp { enabled } userErrors { code message } } }'
)
OFF = (
    "mutation($m: ID!) { autoTopUpTurnOff(input: {meterId: $m}) { autoTopUp { enabled } userErrors { code message } } }"
)


async def card_of(town: Town, customer_id: str) -> str:
    card_id = new_id("pmt")
    async with town.sessions.begin() as session:
        session.add(
            SavedMethod(
                id=card_id, customer_id=customer_id, rail="stripe", rail_ref=f"pm_{card_id}", brand="visa",
                last4="4242", created_at=town.now(),
            )
        )  # fmt: skip
    return card_id


async def voucher(town: Town) -> str:
    async with town.sessions.begin() as session:
        _, [code] = await make_batch(
            session, operator="amina", utility_id=town.utility_id, value_minor=500, amount=1, now=town.now()
        )
    return code


async def all_of(town: Town, asker: Person, card: str, top_up_id: str) -> dict[str, dict[str, Any]]:
    """Every mutation that moves money, by one person, on the town's meter."""
    meter, token = town.home.meter_id, asker.token
    return {
        "topUpStart": await do(town, START, token, k=new_id("key"), m=meter),
        "topUpCancel": await do(town, CANCEL, token, t=top_up_id),
        "voucherRedeem": await do(town, REDEEM, token, k=new_id("key"), m=meter, c=await voucher(town)),
        "emergencyCreditActivate": await do(town, EMERGENCY, token, k=new_id("key"), m=meter),
        "autoTopUpSet": await do(town, SET, token, k=new_id("key"), m=meter, c=card),
    }


@pytest.fixture
async def town(town: Town) -> Town:
    """A town whose utility gives emergency credit."""
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).values(emergency_credit_minor=20_000, emergency_threshold_minor=5_000))
    return town


async def test_a5_a_viewer_moves_no_money(town: Town) -> None:
    viewer = await join(town, "VIEWER")
    others = (await town.start())["topUp"]["id"]
    await do(town, SET, k="own", m=town.home.meter_id, c=await card_of(town, town.home.customer_id))
    tried = await all_of(town, viewer, await card_of(town, viewer.customer_id), others)
    tried["autoTopUpTurnOff"] = await do(town, OFF, viewer.token, m=town.home.meter_id)
    assert {name: code_of(payload) for name, payload in tried.items()} == dict.fromkeys(tried, "FORBIDDEN")
    assert await town.count(TopUp) == 1
    assert await town.status(others) == "AWAITING_CUSTOMER"
    assert await town.wallet() == 0
    async with town.sessions() as session:
        order = (await session.scalars(select(AutoTopUp))).one()
        assert (order.customer_id, order.enabled) == (town.home.customer_id, True)


async def test_a5_a_payer_pays_and_undoes_only_what_was_their_own(town: Town) -> None:
    payer = await join(town, "PAYER")
    own = (await do(town, START, payer.token, k="own", m=town.home.meter_id))["topUp"]["id"]
    tried = await all_of(town, payer, await card_of(town, payer.customer_id), own)
    assert {name: code_of(payload) for name, payload in tried.items()} == dict.fromkeys(tried)
    assert tried["topUpCancel"]["topUp"]["status"] == "CANCELLED"
    assert (await do(town, OFF, payer.token, m=town.home.meter_id))["autoTopUp"] == {"enabled": False}
    others = (await town.start())["topUp"]["id"]
    await do(town, SET, k="own", m=town.home.meter_id, c=await card_of(town, town.home.customer_id))
    assert code_of(await do(town, CANCEL, payer.token, t=others)) == "FORBIDDEN"
    assert code_of(await do(town, OFF, payer.token, m=town.home.meter_id)) == "FORBIDDEN"
    assert await town.status(others) == "AWAITING_CUSTOMER"


async def test_a5_an_owner_does_all_and_undoes_what_others_began(town: Town) -> None:
    payer, owner = await join(town, "PAYER"), await join(town, "OWNER")
    others = (await do(town, START, payer.token, k="own", m=town.home.meter_id))["topUp"]["id"]
    tried = await all_of(town, owner, await card_of(town, owner.customer_id), others)
    assert {name: code_of(payload) for name, payload in tried.items()} == dict.fromkeys(tried)
    assert tried["topUpCancel"]["topUp"]["status"] == "CANCELLED"
    await do(town, SET, payer.token, k="own", m=town.home.meter_id, c=await card_of(town, payer.customer_id))
    assert (await do(town, OFF, owner.token, m=town.home.meter_id))["autoTopUp"] == {"enabled": False}


async def test_a5_the_standing_order_of_who_is_removed_or_may_only_look_ends(town: Town) -> None:
    shown = "query($m: ID!) { viewer { meter(id: $m) { autoTopUp { enabled } } } }"
    for way, more, seen in ((REMOVE, {}, None), (SET_ROLE, {"r": "VIEWER"}, {"enabled": False})):
        payer = await join(town, "PAYER")
        card = await card_of(town, payer.customer_id)
        assert code_of(await do(town, SET, payer.token, k="own", m=town.home.meter_id, c=card)) is None
        await do(town, way, i=await member_id(town, payer), **more)
        await town.drain()
        async with town.sessions() as session:
            order = (await session.scalars(select(AutoTopUp))).one()
            assert (order.customer_id, order.enabled, order.paused_reason) == (payer.customer_id, False, "moved")
        meter = (await town.gql(shown, m=town.home.meter_id))["data"]["viewer"]["meter"]
        assert meter["autoTopUp"] == seen
        assert code_of(await do(town, SET, payer.token, k="new", m=town.home.meter_id, c=card)) is not None


async def test_a5_a_stranger_finds_no_meter(town: Town) -> None:
    stranger = await make_neighbour(town)
    others = (await town.start())["topUp"]["id"]
    card = await card_of(town, stranger.customer_id)
    tried = await all_of(town, Person(stranger.customer_id, "", stranger.token), card, others)
    tried["autoTopUpTurnOff"] = await do(town, OFF, stranger.token, m=town.home.meter_id)
    assert {name: code_of(payload) for name, payload in tried.items()} == dict.fromkeys(tried, "NOT_FOUND")
    assert {payload["userErrors"][0]["message"] for payload in tried.values()} == {"Not found."}
