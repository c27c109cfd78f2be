"""Operators sign in by password and one-time code, over GraphQL; the office's command line gave them both."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlalchemy import func, select, update

from standpipe.engine.limits import Attempt, Limit
from standpipe.utilities.models import Operator, OperatorAction, OperatorSession
from standpipe.utilities.operator_sign_in import ADDRESS_LIMITS, NAME_AND_ADDRESS_LIMITS, NAME_LIMITS
from tests.support.operators import OPERATOR_SECRET, PASSWORD, SIGN_IN, WRONG, Clerk, begin, make_clerk, sign_in
from tests.support.town import Town, make_town

ME = "{ operator { name role } viewer { id } }"
SIGN_OUT = "mutation { operatorSignOut { signedOut userErrors { code } } }"


@pytest.fixture
async def hall(database_url: str, tmp_path: Path) -> AsyncIterator[Clerk]:
    """A town behind a proxy of ours, and its first operator, amina."""
    more = {"operator_key_secrets": OPERATOR_SECRET, "trusted_proxies": "127.0.0.1/32", "data_dir": tmp_path}
    async with make_town(database_url, tmp_path, **more) as town:
        yield await make_clerk(town, database_url)


async def status(town: Town, token: str, query: str = ME) -> tuple[int, Any]:
    answer = await town.http.post(
        f"{town.api}/graphql", json={"query": query}, headers={"authorization": f"Bearer {token}"}
    )
    body = answer.json()
    body.pop("extensions", None)
    return answer.status_code, body


async def forget_tries(town: Town) -> None:
    """As if every window were over."""
    async with town.sessions.begin() as session:
        await session.execute(update(Attempt).values(at=func.now() - timedelta(days=1)))


async def test_an_operator_signs_in_sees_no_customer_and_signs_out(hall: Clerk) -> None:
    town = hall.town
    given = await hall.sign_in()
    token = given.pop("token")
    assert given == {"expiresInS": 8 * 3600, "operator": {"name": "amina", "role": "ADMIN"}, "userErrors": []}
    assert await status(town, token) == (
        200, {"data": {"operator": {"name": "amina", "role": "ADMIN"}, "viewer": None}},
    )  # fmt: skip
    node = await status(town, token, f'{{ node(id: "{town.home.meter_id}") {{ id }} }}')
    assert node == (200, {"data": {"node": None}})
    started = await town.start("sandbox")
    for query in (f'{{ node(id: "{started["topUp"]["id"]}") {{ id }} }}',):
        assert (await status(town, token, query))[1] == {"data": {"node": None}}
    top_up = (
        f'mutation {{ topUpStart(input: {{idempotencyKey: "k", meterId: "{town.home.meter_id}", methodId: "sandbox", '
        'pay: {amount: "15.00", currency: "KES"}}) { topUp { id } } }'
    )
    assert (await status(town, token, top_up))[1]["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert (await status(town, token, SIGN_OUT))[1]["data"]["operatorSignOut"]["signedOut"] is True
    code, answer = await status(town, token)
    assert (code, answer["errors"][0]["extensions"]["code"]) == (401, "UNAUTHENTICATED")


async def test_a_customer_is_no_operator(hall: Clerk) -> None:
    town = hall.town
    assert (await town.gql("{ operator { name } viewer { id } }"))["data"] == {
        "operator": None,
        "viewer": {"id": town.home.customer_id},
    }
    for token in (town.home.token, ""):
        answer = await town.gql(SIGN_OUT, token=token)
        assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    for token in ("opt_", "opt_x", "opt_" + "x" * 43, hall.office.key):
        assert (await status(town, token))[0] == 401


async def test_whatever_is_wrong_gets_the_same_answer(hall: Clerk) -> None:
    town, good = hall.town, hall.code(1)
    wrong_code = f"{(int(good) + 1) % 10**6:06}"
    for tried in (
        {"name": "nobody", "code": good},
        {"name": "", "code": good},
        {"name": "a" * 5_000, "code": good},
        {"name": "amina\x00", "code": good},
        {"name": "amina", "code": good, "password": "wrong horse battery"},
        {"name": "amina", "code": good, "password": ""},
        {"name": "amina", "code": good, "password": PASSWORD + "x" * 10_000},
        {"name": "amina", "code": good, "password": "\x00"},
        {"name": "amina", "code": wrong_code},
        {"name": "amina", "code": ""},
        {"name": "amina", "code": good + "0"},
        {"name": "amina", "code": "١٢٣٤٥٦"},
        {"name": "amina", "code": hall.code(-4)},
        {"name": "amina", "code": hall.code(4)},
    ):
        await forget_tries(town)
        assert await sign_in(town, **tried) == WRONG, tried
    await forget_tries(town)
    assert (await hall.sign_in())["token"]


async def test_a_code_works_once_even_at_the_same_time(hall: Clerk) -> None:
    answers = await asyncio.gather(*(hall.sign_in(code=code) for code in [hall.code(1)] * 4))
    assert sorted(answer["token"] is not None for answer in answers) == [False, False, False, True]
    await forget_tries(hall.town)
    # Nor does one of an earlier step, and the step that confirmed the authenticator is used up too.
    assert await hall.sign_in(code=hall.code()) == WRONG


async def test_without_a_confirmed_authenticator_a_password_opens_nothing(hall: Clerk) -> None:
    town, office = hall.town, hall.office
    token = await hall.token()
    hall.secret = await begin(office)
    # Beginning anew ends what was: the old one may be in a thief's hands.
    assert (await status(town, token))[0] == 401
    assert await hall.sign_in() == WRONG
    assert "The code is wrong" in await office.refused("operator", "totp", "--code", "abc")
    await office.good("operator", "totp", "--code", hall.code())
    assert (await hall.sign_in())["token"]
    assert "nothing to confirm" in await office.refused("operator", "totp", "--code", hall.code(1))


@pytest.mark.usefixtures("costly_passwords")
async def test_secrets_lie_sealed_and_hashed(hall: Clerk) -> None:
    token = await hall.token()
    async with hall.town.sessions() as session:
        row = (await session.scalars(select(Operator))).one()
        kept = (await session.scalars(select(OperatorSession))).one()
        trail = json.dumps([action.detail for action in await session.scalars(select(OperatorAction))])
    assert (row.password_hash or "").startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert hall.secret not in (row.totp_sealed or hall.secret)
    assert token not in kept.token_hash
    assert not any(secret in trail for secret in (token, hall.secret, PASSWORD, hall.office.key, "127.0.0.1"))


@pytest.mark.usefixtures("costly_passwords")
async def test_a_password_of_old_parameters_is_hashed_anew(hall: Clerk) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    async with hall.town.sessions.begin() as session:
        await session.execute(update(Operator).values(password_hash=old))
    assert await hall.sign_in(password="wrong horse battery") == WRONG
    async with hall.town.sessions() as session:
        assert await session.scalar(select(Operator.password_hash)) == old
    assert (await hall.sign_in())["token"]
    async with hall.town.sessions() as session:
        fresh = str(await session.scalar(select(Operator.password_hash)))
    assert fresh.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert (await hall.token()) is not None


async def test_sessions_end_with_what_they_stand_on(hall: Clerk, database_url: str) -> None:
    town, office = hall.town, hall.office
    key = (await office.good("operator", "add", "joseph", "--role", "SUPPORT")).strip()
    his = type(office)(database_url, office.folder, key, office.more)
    joseph = await make_clerk(town, database_url, "joseph", his)
    token = await joseph.token()
    assert (await status(town, token))[1]["data"]["operator"] == {"name": "joseph", "role": "SUPPORT"}
    # Another role counts at once.
    await office.good("operator", "role", "joseph", "FINANCE")
    assert (await status(town, token))[1]["data"]["operator"]["role"] == "FINANCE"
    await his.good("operator", "password", typed=PASSWORD + "\n")
    assert (await status(town, token))[0] == 401
    token = await joseph.token()
    await office.good("operator", "disable", "joseph")
    assert (await status(town, token))[0] == 401
    assert await joseph.sign_in() == WRONG
    # Eight hours are the end of any.
    token = await hall.token()
    async with town.sessions.begin() as session:
        await session.execute(update(OperatorSession).values(expires_at=func.now()))
    assert (await status(town, token))[0] == 401


async def test_the_trail_tells_of_sign_ins_and_failures(hall: Clerk) -> None:
    await hall.sign_in(password="wrong horse battery")
    await sign_in(hall.town, name="a stranger's guess", code="000000")
    token = str((await hall.sign_in())["token"])
    await status(hall.town, token, SIGN_OUT)
    async with hall.town.sessions() as session:
        rows = await session.execute(
            select(OperatorAction.operator, OperatorAction.action).order_by(OperatorAction.id.desc()).limit(4)
        )
        assert [tuple(row) for row in rows] == [
            ("amina", "operator.sign-out"),
            ("amina", "operator.sign-in"),
            ("?", "operator.sign-in-failed"),
            ("amina", "operator.sign-in-failed"),
        ]


def _most(limits: tuple[Limit, ...]) -> int:
    return min(limit.tries for limit in limits)


async def test_a2_tries_are_limited_by_name_and_by_address(hall: Clerk) -> None:
    town = hall.town
    for number in range(_most(NAME_AND_ADDRESS_LIMITS)):
        assert await sign_in(town, name="amina", code=f"{number:06}", address="198.51.100.7") == WRONG
    limited = await sign_in(town, name="amina", code=hall.code(1), address="198.51.100.7")
    assert (limited["token"], limited["userErrors"][0]["code"]) == (None, "RATE_LIMITED")
    assert limited["userErrors"][0]["retryable"] is True
    for number in range(_most(ADDRESS_LIMITS) - _most(NAME_AND_ADDRESS_LIMITS)):
        assert await sign_in(town, name=f"guess {number}", code="000000", address="198.51.100.7") == WRONG
    other = await sign_in(town, name="yet another guess", code="000000", address="198.51.100.7")
    assert other["userErrors"][0]["code"] == "RATE_LIMITED"
    # A name that nobody has is limited alike, so that the limit does not tell which exist.
    for number in range(_most(NAME_AND_ADDRESS_LIMITS)):
        assert await sign_in(town, name="nobody", code=f"{number:06}", address="198.51.100.8") == WRONG
    limited = await sign_in(town, name="nobody", code="000000", address="198.51.100.8")
    assert limited["userErrors"][0]["code"] == "RATE_LIMITED"
    # The operator, elsewhere, is not kept out.
    assert (await hall.sign_in(address="203.0.113.9"))["token"]


async def test_a2_many_addresses_are_limited_by_the_name_for_an_hour_and_no_longer(hall: Clerk) -> None:
    town, limit = hall.town, NAME_LIMITS[0]
    assert await sign_in(town, name="amina", code="000000", address="198.51.100.1") == WRONG
    async with town.sessions.begin() as session:
        # As if nearly all the others had tried from as many addresses.
        key = (await session.scalars(select(Attempt.key).where(Attempt.kind == "operator-name").distinct())).one()
        session.add_all([Attempt(kind="operator-name", key=key) for _ in range(limit.tries - 2)])
    assert await sign_in(town, name="amina", code="000000", address="198.51.100.2") == WRONG
    limited = await sign_in(town, name="amina", code=hall.code(1), address="198.51.100.3")
    assert limited["userErrors"][0]["code"] == "RATE_LIMITED"
    async with town.sessions.begin() as session:
        await session.execute(update(Attempt).values(at=Attempt.at - timedelta(seconds=limit.window_s)))
    assert (await hall.sign_in())["token"]


async def test_g4_aliases_of_a_sign_in_count_one_by_one(hall: Clerk) -> None:
    head, body = SIGN_IN.split("{", 1)
    one = body.rsplit("}", 1)[0]
    query = f"{head}{{ " + " ".join(f"a{number}: {one}" for number in range(8)) + "}"
    variables = {"n": "amina", "p": "wrong horse battery", "c": "000000"}
    answer = await hall.town.http.post(f"{hall.town.api}/graphql", json={"query": query, "variables": variables})
    codes = [value["userErrors"][0]["code"] for value in answer.json()["data"].values()]
    most = _most(NAME_AND_ADDRESS_LIMITS)
    assert codes == ["INVALID"] * most + ["RATE_LIMITED"] * (8 - most)


async def test_without_keys_operators_cannot_sign_in_and_are_told(town: Town) -> None:
    answer = await sign_in(town, name="amina", code="000000")
    assert "no keys" in answer["userErrors"][0]["message"]
