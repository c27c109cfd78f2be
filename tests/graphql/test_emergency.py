"""Emergency credit through GraphQL: only when credit is low, once, to the meter, and repaid first whoever pays."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from standpipe.households.models import Household, Membership
from standpipe.ledger.dues import dues_of
from standpipe.ledger.models import Account, AccountKind
from standpipe.meters.models import CreditGrant, Meter, MeterCommand
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.payments.agents import add_agent, deposit
from standpipe.payments.models import RailEvent
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.payments.vouchers import make_batch
from standpipe.platform.ids import new_id
from standpipe.tariffs.models import Tariff
from standpipe.utilities.models import Utility
from tests.support.rating import take_report
from tests.support.town import Home, Town, make_home, until

pytestmark = pytest.mark.calendar

RESERVE, LOW = 20_000, 5_000
ACTIVATE = (
    "mutation($k: ID!, $m: ID!) { emergencyCreditActivate(input: {idempotencyKey: $k, meterId: $m}) "
    "{ given { amount currency } replayed userErrors { code message field retryable } } }"
)
BALANCE = (
    "query($i: ID!) { node(id: $i) { ... on Meter { balance { ledger { amount } inFlight { amount } "
    "emergencyCredit { amount } emergencyCreditAvailable { amount } } } } }"
)


@pytest.fixture
async def town(town: Town) -> Town:
    """A town whose utility gives emergency credit."""
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).values(emergency_credit_minor=RESERVE, emergency_threshold_minor=LOW))
    return town


async def activate(town: Town, key: str | None = None, **more: str) -> dict[str, Any]:
    answer = await town.gql(
        ACTIVATE, more.get("token"), k=new_id("key") if key is None else key, m=more.get("meter_id", town.home.meter_id)
    )
    assert "errors" not in answer, answer
    payload: dict[str, Any] = answer["data"]["emergencyCreditActivate"]
    return payload


async def balance(town: Town) -> dict[str, str]:
    node = (await town.gql(BALANCE, i=town.home.meter_id))["data"]["node"]
    return {name: amount["amount"] for name, amount in node["balance"].items()}


async def owed(town: Town) -> int:
    async with town.sessions() as session:
        return (await dues_of(session, town.home.meter_id, datetime.now(UTC))).emergency_minor


def refusal(payload: dict[str, Any]) -> str:
    assert payload["given"] is None
    [error] = payload["userErrors"]
    return str(error["code"])


async def test_it_is_given_when_credit_is_low_and_reaches_the_meter_s_queue(town: Town) -> None:
    assert (await balance(town))["emergencyCreditAvailable"] == "200.00"
    payload = await activate(town)
    assert (payload["given"], payload["replayed"]) == ({"amount": "200.00", "currency": "KES"}, False)
    assert await town.credits() == (1, 1, RESERVE)
    assert await balance(town) == {
        "ledger": "200.00", "inFlight": "200.00", "emergencyCredit": "200.00", "emergencyCreditAvailable": "0.00",
    }  # fmt: skip
    async with town.sessions() as session:
        command = (await session.scalars(select(MeterCommand))).one()
        assert (command.kind, command.value, command.status) == ("CREDIT", RESERVE, "QUEUED")
    assert await town.sums() == {"KES": 0}


async def test_it_is_not_given_while_there_is_credit_enough(town: Town) -> None:
    await town.pay_by_card(f"{LOW / 100 + 0.01:.2f}")
    await town.poll()
    assert (await balance(town))["emergencyCreditAvailable"] == "0.00"
    assert refusal(await activate(town)) == "METER_BLOCKED"
    assert await owed(town) == 0


async def test_at_the_threshold_it_is(town: Town) -> None:
    await town.pay_by_card(f"{LOW / 100:.2f}")
    await town.poll()
    assert (await balance(town))["emergencyCreditAvailable"] == "200.00"
    assert (await activate(town))["given"]["amount"] == "200.00"


async def test_it_is_given_once_until_it_is_repaid(town: Town) -> None:
    await activate(town)
    assert refusal(await activate(town)) == "METER_BLOCKED"
    await town.pay_by_card("199.99")
    await town.poll()
    # A cent is owed still.
    assert await owed(town) == 1
    assert refusal(await activate(town)) == "METER_BLOCKED"
    await town.pay_by_card("1.00")
    await town.poll()
    assert await owed(town) == 0
    # And now there is credit enough.
    assert refusal(await activate(town)) == "METER_BLOCKED"
    assert await town.count(CreditGrant, CreditGrant.credit_key.startswith("emg_")) == 1


async def test_a_reserve_that_is_used_up_is_not_given_again(town: Town) -> None:
    await activate(town)
    now = datetime.now(UTC)
    async with town.sessions.begin() as session:
        report = MeterReport(town.home.meter_id, now, (RegisterReading(now, 4_000_000),))
        await take_report(session, report, now)
    assert await town.wallet() == 0
    assert (await balance(town))["emergencyCreditAvailable"] == "0.00"
    assert refusal(await activate(town)) == "METER_BLOCKED"
    assert await owed(town) == RESERVE


async def test_p28_the_same_key_is_the_same_reserve(town: Town) -> None:
    first = await activate(town, "same")
    again = await activate(town, "same")
    assert (again["replayed"], again["given"]) == (True, first["given"])
    other = await add_home(town)
    async with town.sessions.begin() as session:
        household = (await session.get_one(Meter, other.meter_id)).household_id
        session.add(Membership(household_id=household, customer_id=town.home.customer_id, role="PAYER"))
    assert refusal(await activate(town, "same", meter_id=other.meter_id)) == "IDEMPOTENCY_MISMATCH"
    assert refusal(await activate(town, "")) == "INVALID"
    assert await town.credits() == (1, 1, RESERVE)


async def test_twenty_taps_at_once_are_one_reserve(town: Town) -> None:
    taps = [activate(town) for _ in range(10)] + [activate(town, "same") for _ in range(10)]
    answers = await asyncio.gather(*taps)
    given = [answer for answer in answers if answer["given"] and not answer["replayed"]]
    assert len(given) == 1
    assert await town.credits() == (1, 1, RESERVE)
    assert await owed(town) == RESERVE
    assert await town.sums() == {"KES": 0}


async def add_home(town: Town) -> Home:
    return await make_home(
        town.sessions, town.settings, town.utility_id, town.tariff_id, installed_at=datetime.now(UTC), zone="UTC"
    )


async def test_g7_anothers_meter_is_answered_like_none(town: Town) -> None:
    stranger = await add_home(town)
    async with town.sessions.begin() as session:
        # A viewer somewhere, and the owner of a meter; but not of this one.
        elsewhere = Household(id=new_id("hh"), utility_id=town.utility_id, name="Other")
        session.add(elsewhere)
        await session.flush()
        session.add(Membership(household_id=elsewhere.id, customer_id=stranger.customer_id, role="VIEWER"))
    theirs = await activate(town, token=stranger.token)
    absent = await activate(town, token=stranger.token, meter_id=new_id("mtr"))
    assert refusal(theirs) == "NOT_FOUND"
    assert theirs == absent
    assert refusal(await activate(town, meter_id="nonsense")) == "NOT_FOUND"
    assert await owed(town) == 0
    nobody = await town.gql(ACTIVATE, "", k="k", m=town.home.meter_id)
    assert nobody["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert await town.count(MeterCommand) == 0


@pytest.mark.parametrize("change", [{"closed_at": datetime.now(UTC)}, {"wallet_kind": "VOLUME"}])
async def test_not_for_a_meter_that_cannot_have_it(town: Town, change: dict[str, Any]) -> None:
    async with town.sessions.begin() as session:
        if "wallet_kind" in change:
            await session.execute(update(Tariff).values(basis="PURCHASE"))
        await session.execute(update(Meter).values(**change))
    assert (await balance(town))["emergencyCreditAvailable"] == "0.00"
    assert refusal(await activate(town)) == "METER_BLOCKED"


async def test_not_where_the_utility_gives_none(town: Town) -> None:
    async with town.sessions.begin() as session:
        await session.execute(update(Utility).values(emergency_credit_minor=0))
    assert refusal(await activate(town)) == "METER_BLOCKED"


async def by_paybill(town: Town) -> None:
    rail = town.rails["mpesa"]
    assert isinstance(rail, MpesaRail)
    await rail.register_urls()
    params = {"account": town.home.serial, "amount": "300", "phone": "254700000099"}
    await town.http.post(f"{town.mpesa_url}/_control/paybill", params=params)
    for _ in range(3):
        await town.mpesa.sender.settle()
        await town.drain()
        await town.hurry(RailEvent)
    await town.drain()


async def by_agent(town: Town) -> None:
    async with town.sessions.begin() as session:
        now = datetime.now(UTC)
        agent_id, key = await add_agent(session, operator="amina", utility_id=town.utility_id, name="Corner shop")
        await deposit(session, operator="amina", agent_id=agent_id, amount_minor=30_000, reference="B1", now=now)
    body = {"idempotencyKey": "v1", "meter": town.home.serial, "amount": "300.00"}
    answer = await town.http.post(f"{town.api}/agents/vends", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text


async def by_voucher(town: Town) -> None:
    async with town.sessions.begin() as session:
        _, [code] = await make_batch(
            session, operator="amina", utility_id=town.utility_id, value_minor=30_000, amount=1, now=datetime.now(UTC)
        )
    mutation = (
        'mutation($m: ID!, $c: String!) { voucherRedeem(input: {idempotencyKey: "v", meterId: $m, code: $c}) '
        "{ topUp { credit { amount } } userErrors { code } } }"
    )
    answer = await town.gql(mutation, m=town.home.meter_id, c=code)
    assert answer["data"]["voucherRedeem"]["topUp"]["credit"]["amount"] == "100.00"


async def by_card(town: Town) -> None:
    await town.pay_by_card("300.00")
    await town.poll()


@pytest.mark.parametrize("pay", [by_card, by_paybill, by_agent, by_voucher])
async def test_it_is_repaid_first_however_one_pays(town: Town, pay: Any) -> None:
    await activate(town)
    await pay(town)
    await until(lambda: _repaid(town))
    # 300 paid: 200 repay the reserve, which is in the wallet already; 100 are new.
    assert await town.wallet() == RESERVE + 10_000
    async with town.sessions() as session:
        granted = (await session.get_one(Meter, town.home.meter_id)).credit_granted
        balances = await session.scalars(select(Account.balance_minor).where(Account.kind == AccountKind.EMERGENCY))
        assert balances.all() == [0]
    assert granted == RESERVE + 10_000
    assert await town.sums() == {"KES": 0}


async def _repaid(town: Town) -> bool:
    return await owed(town) == 0
