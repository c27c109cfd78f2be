"""Sign-in by one-time code, over GraphQL: once, soon, few tries, and the same answer for every number."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from standpipe.customers.models import Customer
from standpipe.serving import serve
from standpipe.simulator import fake_phone
from tests.support.database import free_port
from tests.support.town import Town, make_town, until

START = (
    "mutation($p: PhoneNumber!) { signInStart(input: {phone: $p}) "
    "{ sent userErrors { __typename code field retryable } } }"
)
FINISH = (
    "mutation($p: PhoneNumber!, $c: String!) { signInFinish(input: {phone: $p, code: $c}) "
    "{ token expiresInS userErrors { code field } } }"
)
NEW = "+254712000111"
WRONG = {"token": None, "expiresInS": None, "userErrors": [{"code": "INVALID", "field": ["code"]}]}


@pytest.fixture
async def city(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """A town with a phone that gets texts."""
    port = free_port()
    fake_phone.write_service_account(tmp_path / "firebase.json", f"http://127.0.0.1:{port}/token")
    task = asyncio.create_task(serve(fake_phone.make_app(tmp_path / "firebase.json"), "127.0.0.1", port))
    async with make_town(database_url, tmp_path, sms_url=f"http://127.0.0.1:{port}/sms", sms_countries="KE") as town:
        town.extras["phone"] = f"http://127.0.0.1:{port}"
        await until(lambda: _answers(town))
        yield town
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _answers(town: Town) -> bool:
    return (await town.http.get(f"{town.extras['phone']}/messages")).status_code == 200


async def start(town: Town, phone: str = NEW) -> Any:
    return (await town.gql(START, token="", p=phone))["data"]["signInStart"]


async def finish(town: Town, code: str, phone: str = NEW) -> Any:
    return (await town.gql(FINISH, token="", p=phone, c=code))["data"]["signInFinish"]


async def code_of(town: Town) -> str:
    sent = (await town.http.get(f"{town.extras['phone']}/messages")).json()["messages"]
    return str(sent[-1]["body"]).split()[-1].rstrip(".")


async def test_a_code_signs_in_once_and_opens_the_account(city: Town) -> None:
    assert await start(city) == {"sent": True, "userErrors": []}
    code = await code_of(city)
    token = (await finish(city, code))["token"]
    viewer = (await city.gql("{ viewer { phone meters { nodes { id } } } }", token=token))["data"]["viewer"]
    assert viewer == {"phone": NEW, "meters": {"nodes": []}}
    assert await finish(city, code) == WRONG
    assert await city.count(Customer, Customer.phone == NEW) == 1


async def test_a2_five_tries_and_the_code_is_spent(city: Town) -> None:
    await start(city)
    code = await code_of(city)
    for wrong in ("000000", "", "x" * 500, "é", "\x00"):
        if wrong != code:
            assert await finish(city, wrong) == WRONG
    assert await finish(city, code) == WRONG


async def test_a2_three_codes_in_ten_minutes_also_at_once(city: Town) -> None:
    answers = await asyncio.gather(*(start(city) for _ in range(6)))
    assert sum(answer["sent"] for answer in answers) == 3
    limited = [answer["userErrors"][0] for answer in answers if not answer["sent"]]
    assert {error["__typename"] for error in limited} == {"RateLimited"}


async def test_g4_aliases_count_as_tries(city: Town) -> None:
    aliases = " ".join(f'a{n}: signInStart(input: {{phone: "{NEW}"}}) {{ sent }}' for n in range(6))
    answer = await city.gql("mutation { " + aliases + " }", token="")
    assert sum(item["sent"] for item in answer["data"].values()) == 3


async def test_an_expired_code_is_none(city: Town) -> None:
    await start(city)
    async with city.sessions.begin() as session:
        await session.execute(text("UPDATE sign_in_codes SET expires_at = now() - interval '1 second'"))
    assert await finish(city, await code_of(city)) == WRONG


async def test_a2_known_and_unknown_numbers_get_the_same_answer(city: Town) -> None:
    await start(city)
    await finish(city, await code_of(city))
    assert await start(city, NEW) == await start(city, "+254712000222")
    assert await finish(city, "123456", "+254712000333") == WRONG


@pytest.mark.parametrize("phone", ["", "712", "+1", "+12025550123", "0712000111", "+254' OR 1=1", "\x00", "+" * 500])
async def test_numbers_that_cannot_be_and_other_countries_are_refused(city: Town, phone: str) -> None:
    answer = await start(city, phone)
    assert answer["sent"] is False
    assert answer["userErrors"][0]["field"] == ["phone"]


async def test_without_a_way_to_send_codes_sign_in_says_so(town: Town) -> None:
    assert (await start(town))["userErrors"][0]["code"] == "INVALID"
