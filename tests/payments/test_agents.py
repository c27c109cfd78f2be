"""Cash agents through their HTTP door: a float that fifty vends at once cannot overdraw, and a vend once per key."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, account_sum_minor
from standpipe.meters.models import Meter
from standpipe.payments.agents import add_agent, deposit, disable_agent
from standpipe.payments.models import TopUp
from standpipe.platform.errors import InvalidInputError
from standpipe.utilities.models import OperatorAction
from tests.support.town import Town

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Shop:
    """An agent's till."""

    def __init__(self, town: Town, agent_id: str, key: str) -> None:
        self.town, self.agent_id, self.key = town, agent_id, key

    async def vend(self, amount: Any = "10.00", key: Any = "v1", meter: Any = None) -> httpx.Response:
        body = {"idempotencyKey": key, "meter": meter or self.town.home.serial, "amount": amount}
        return await self.town.http.post(f"{self.town.api}/agents/vends", json=body, headers=self.headers)

    async def get(self, path: str) -> httpx.Response:
        return await self.town.http.get(f"{self.town.api}/agents/{path}", headers=self.headers)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@pytest.fixture
async def shop(town: Town) -> Shop:
    async with town.sessions.begin() as session:
        agent_id, key = await add_agent(session, operator="amina", utility_id=town.utility_id, name="Corner shop")
        await deposit(session, operator="amina", agent_id=agent_id, amount_minor=10_000, reference="B1", now=NOW)
    return Shop(town, agent_id, key)


async def test_a_vend_moves_float_to_wallet_and_reaches_the_meters_queue(town: Town, shop: Shop) -> None:
    made = (await shop.vend("25.00")).json()
    assert (made["amount"]["amount"], made["float"]["amount"], made["replayed"]) == ("25.00", "75.00", False)
    assert await town.credits() == (1, 1, 2500)
    assert (await shop.get("me")).json()["float"]["amount"] == "75.00"
    assert await town.sums() == {"KES": 0}
    assert await town.status(made["topUpId"]) == "PAID"


async def test_p28_the_same_vend_again_and_at_once_is_one_vend(town: Town, shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.vend("10.00", "same") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["topUpId"] for answer in answers}) == 1
    assert sorted(answer.json()["replayed"] for answer in answers) == [False] + [True] * 7
    other = await shop.vend("11.00", "same")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "IDEMPOTENCY_MISMATCH")
    assert await town.credits() == (1, 1, 1000)


async def test_p47_fifty_vends_at_once_on_a_float_for_ten(town: Town, shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.vend("10.00", f"v{number}") for number in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [422] * 40
    assert await town.wallet() == 10_000
    assert (await shop.get("me")).json()["float"]["amount"] == "0.00"
    assert await town.count(TopUp) == 10
    assert await town.sums() == {"KES": 0}


@pytest.mark.parametrize(
    "amount", ["0", "-1.00", "1.001", "NaN", "1e400", "", "x", 5, 1.5, None, True, "99999999999999999"]
)
async def test_p25_bad_amounts_are_refused(town: Town, shop: Shop, amount: Any) -> None:
    answer = await shop.vend(amount)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "INVALID")
    assert await town.count(TopUp) == 0


async def test_p43_the_number_as_people_type_it_and_nothing_like_it(town: Town, shop: Shop) -> None:
    serial = town.home.serial
    typed = f" 0{serial[:3].lower()} {serial[3:].lower()}"
    assert (await shop.vend(meter=typed)).status_code == 200
    near = serial[:-1] + ("1" if serial[-1] != "1" else "2")
    assert (await shop.get(f"meters/{near}")).status_code == 404
    assert (await shop.vend(key="v2", meter=near)).status_code == 404
    assert await town.credits() == (1, 1, 1000)


async def test_a_closed_meter_takes_no_more_money(town: Town, shop: Shop) -> None:
    async with town.sessions.begin() as session:
        (await session.get_one(Meter, town.home.meter_id)).closed_at = NOW
    answer = await shop.vend()
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "METER_BLOCKED")


async def test_keys_that_do_not_work(town: Town, shop: Shop) -> None:
    for key in ("wrong", "ägk"):
        headers = {b"authorization": f"Bearer {key}".encode("latin-1")}
        assert (await town.http.get(f"{town.api}/agents/me", headers=headers)).status_code == 401
    customer = {"authorization": f"Bearer {town.home.token}"}
    assert (await town.http.get(f"{town.api}/agents/me", headers=customer)).status_code == 401
    async with town.sessions.begin() as session:
        await disable_agent(session, operator="amina", agent_id=shop.agent_id)
    assert (await shop.get("me")).status_code == 401
    assert (await shop.vend()).status_code == 401


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b"{" * 5000, b'{"meter": "\\u0000"}'])
async def test_bodies_that_are_none(town: Town, shop: Shop, body: bytes) -> None:
    answer = await town.http.post(f"{town.api}/agents/vends", content=body, headers=shop.headers)
    assert answer.status_code == 422


async def test_a_deposit_counts_once_and_leaves_its_trace(town: Town, shop: Shop) -> None:
    for amount_minor in (10_000, 20_000):
        async with town.sessions.begin() as session:
            with pytest.raises(InvalidInputError):
                await deposit(
                    session,
                    operator="amina",
                    agent_id=shop.agent_id,
                    amount_minor=amount_minor,
                    reference=" B1 ",
                    now=NOW,
                )
    async with town.sessions() as session:
        assert await account_sum_minor(session, AccountRef(AccountKind.BANK, "agents", "KES")) == -10_000
        actions = (await session.scalars(select(OperatorAction.action).order_by(OperatorAction.id))).all()
    assert actions == ["agent.add", "agent.deposit"]
