"""Vouchers through GraphQL: a code works once, for whoever has it, and cannot be guessed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, account_sum_minor
from standpipe.payments.vend_models import Voucher
from standpipe.payments.vouchers import make_batch
from tests.support.town import Town, make_home

NOW = datetime(2026, 5, 1, tzinfo=UTC)
REDEEM = (
    "mutation($k: ID!, $m: ID!, $c: String!) { voucherRedeem(input: {idempotencyKey: $k, meterId: $m, code: $c}) "
    "{ replayed topUp { id status credit { amount } } userErrors { code field message } } }"
)


@pytest.fixture
async def batch(town: Town) -> tuple[str, list[str]]:
    async with town.sessions.begin() as session:
        return await make_batch(
            session, operator="amina", utility_id=town.utility_id, value_minor=500, amount=3, now=NOW
        )


async def redeem(town: Town, code: str, key: str = "k1", meter: str | None = None, token: str | None = None) -> Any:
    answer = await town.gql(REDEEM, token=token, k=key, m=meter or town.home.meter_id, c=code)
    return answer["data"]["voucherRedeem"]


async def test_a_voucher_becomes_credit_once(town: Town, batch: tuple[str, list[str]]) -> None:
    batch_id, codes = batch
    first = await redeem(town, codes[0].lower().replace("-", " "))
    assert (first["topUp"]["status"], first["topUp"]["credit"]["amount"]) == ("PAID", "5.00")
    again = await redeem(town, codes[0])
    assert (again["replayed"], again["topUp"]["id"]) == (True, first["topUp"]["id"])
    used = await redeem(town, codes[0], key="k2")
    assert (used["topUp"], used["userErrors"][0]["code"]) == (None, "INVALID")
    assert await town.credits() == (1, 1, 500)
    async with town.sessions() as session:
        assert await account_sum_minor(session, AccountRef(AccountKind.VOUCHERS, batch_id, "KES")) == 1000
    assert await town.sums() == {"KES": 0}


async def test_one_code_by_twenty_people_at_once(town: Town, batch: tuple[str, list[str]]) -> None:
    homes = [
        await make_home(
            town.sessions, town.settings, town.utility_id, town.tariff_id, installed_at=NOW, zone="Africa/Nairobi"
        )
        for _ in range(5)
    ]
    answers = await asyncio.gather(
        *(
            redeem(town, batch[1][0], key=f"k{number}", meter=homes[number % 5].meter_id, token=homes[number % 5].token)
            for number in range(20)
        )
    )
    assert sum(answer["topUp"] is not None for answer in answers) == 1
    assert await town.sums() == {"KES": 0}


async def test_p28_a_key_belongs_to_one_request(town: Town, batch: tuple[str, list[str]]) -> None:
    await redeem(town, batch[1][0], key="same")
    other = await redeem(town, batch[1][1], key="same")
    assert other["userErrors"][0]["code"] == "IDEMPOTENCY_MISMATCH"
    start = await town.start(key="same")
    assert start["userErrors"][0]["code"] == "IDEMPOTENCY_MISMATCH"
    assert await town.credits() == (1, 1, 500)


async def test_two_taps_at_once_are_one(town: Town, batch: tuple[str, list[str]]) -> None:
    answers = await asyncio.gather(*(redeem(town, batch[1][0], key="same") for _ in range(6)))
    assert len({answer["topUp"]["id"] for answer in answers}) == 1
    assert sorted(answer["replayed"] for answer in answers) == [False] + [True] * 5


async def test_guessing_ends_after_five_tries_also_by_aliases_of_one_request(
    town: Town, batch: tuple[str, list[str]]
) -> None:
    parts = " ".join(
        f'a{number}: voucherRedeem(input: {{idempotencyKey: "g{number}", meterId: "{town.home.meter_id}", '
        f'code: "GUESS{number}"}}) {{ userErrors {{ code }} }}'
        for number in range(8)
    )
    data = (await town.gql(f"mutation {{ {parts} }}"))["data"]
    codes = [data[f"a{number}"]["userErrors"][0]["code"] for number in range(8)]
    assert codes == ["INVALID"] * 5 + ["RATE_LIMITED"] * 3
    assert (await redeem(town, batch[1][0]))["userErrors"][0]["code"] == "RATE_LIMITED"
    assert await town.credits() == (0, 0, 0)


async def test_expired_blocked_and_strange_codes_do_not_work(town: Town) -> None:
    async with town.sessions.begin() as session:
        _, [late] = await make_batch(
            session,
            operator="amina",
            utility_id=town.utility_id,
            value_minor=500,
            amount=1,
            now=NOW,
            expires_at=NOW + timedelta(days=1),
        )
        _, [blocked] = await make_batch(
            session, operator="amina", utility_id=town.utility_id, value_minor=500, amount=1, now=NOW
        )
    async with town.sessions.begin() as session:
        rows = (await session.scalars(select(Voucher).order_by(Voucher.id))).all()
        rows[-1].blocked_at = NOW
    for number, code in enumerate((late, blocked, "", "\u0000", "x" * 5000)):
        assert (await redeem(town, code, key=f"k{number}"))["topUp"] is None
    assert await town.credits() == (0, 0, 0)


async def test_another_households_meter_looks_like_none(town: Town, batch: tuple[str, list[str]]) -> None:
    other = await make_home(
        town.sessions, town.settings, town.utility_id, town.tariff_id, installed_at=NOW, zone="Africa/Nairobi"
    )
    for meter in (other.meter_id, "mtr_" + "0" * 26, "nonsense"):
        answer = await redeem(town, batch[1][0], meter=meter)
        assert answer["userErrors"][0]["code"] == "NOT_FOUND"
    assert (await redeem(town, batch[1][0]))["topUp"] is not None
