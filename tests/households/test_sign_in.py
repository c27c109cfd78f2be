"""Sign-in by one-time code, over GraphQL: once, soon, few tries, and the same answer for every number."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from standpipe.engine.limits import Attempt
from standpipe.households.models import Customer, SignInCode
from standpipe.households.retention import forget_sign_ins
from standpipe.households.sign_in import Asker
from tests.support.sign_in import NEW, START, code_of, finish, make_city, post, sign_in, start, texts
from tests.support.town import Town

WRONG = {"__typename": "InputError", "code": "INVALID", "field": ["code"]}
NUMBERS = [f"+2547120002{number:02}" for number in range(30)]


@pytest.fixture
async def city(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with make_city(database_url, tmp_path) as town:
        yield town


async def age(town: Town, **by: int) -> None:
    """Make all codes and tries older."""
    async with town.sessions.begin() as session:
        await session.execute(update(Attempt).values(at=Attempt.at - timedelta(**by)))
        await session.execute(update(SignInCode).values(created_at=SignInCode.created_at - timedelta(**by)))


def refused(payload: Any) -> bool:
    """Whether there is no token, and nothing but the word that the code is wrong."""
    return payload["token"] is None and payload["refreshToken"] is None and payload["userErrors"] == [WRONG]


def limited(payload: Any) -> bool:
    return [error["__typename"] for error in payload["userErrors"]] == ["RateLimited"]


async def test_a_code_signs_in_once_and_opens_the_account(city: Town) -> None:
    assert await start(city) == {"sent": True, "userErrors": []}
    code = await code_of(city)
    token = (await finish(city, code))["token"]
    viewer = (await city.gql("{ viewer { phone meters { nodes { id } } } }", token=token))["data"]["viewer"]
    assert viewer == {"phone": NEW, "meters": {"nodes": []}}
    assert refused(await finish(city, code))
    assert await city.count(Customer, Customer.phone == NEW) == 1


async def test_a2_five_tries_and_the_code_is_spent(city: Town) -> None:
    await start(city)
    code = await code_of(city)
    for wrong in ("000000", "", "x" * 500, "é", "\x00"):
        if wrong != code:
            assert refused(await finish(city, wrong))
    assert refused(await finish(city, code))


async def test_a2_three_codes_in_ten_minutes_also_at_once(city: Town) -> None:
    answers = await asyncio.gather(*(start(city) for _ in range(6)))
    assert sum(answer["sent"] for answer in answers) == 3
    errors = [answer["userErrors"][0] for answer in answers if not answer["sent"]]
    assert {error["__typename"] for error in errors} == {"RateLimited"}
    for error in errors:
        back_at = datetime.fromisoformat(error["retryAt"])
        assert 0 < error["retryAfterS"] <= 600
        assert back_at <= datetime.now(UTC) + timedelta(seconds=600)
    assert len(await texts(city)) == 3


async def test_a2_five_codes_in_an_hour_for_one_number(city: Town) -> None:
    for _ in range(3):
        assert (await start(city))["sent"]
    await age(city, minutes=11)
    assert [(await start(city))["sent"] for _ in range(3)] == [True, True, False]
    await age(city, minutes=11)
    assert limited(await start(city))
    await age(city, minutes=40)
    assert (await start(city))["sent"]


async def test_a2_ten_codes_in_an_hour_for_one_address_whatever_the_numbers(city: Town) -> None:
    answers = [await start(city, number) for number in NUMBERS[:12]]
    assert [answer["sent"] for answer in answers] == [True] * 10 + [False] * 2
    assert limited(answers[-1])
    # Nobody's header changes who one is, where no proxy is trusted.
    dressed = await post(city, START, {"x-forwarded-for": "203.0.113.9"}, p=NUMBERS[13])
    assert limited(dressed.json()["data"]["signInStart"])
    # What was refused has not been counted against the number.
    assert await city.count(Attempt, Attempt.kind == "sign-in-code") == 10


async def test_a2_behind_a_trusted_proxy_each_caller_has_an_address(database_url: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"trusted_proxies": "127.0.0.1/32", "sign_in_codes_per_address": 2}
    async with make_city(database_url, tmp_path, **more) as city:

        async def ask(address: str, number: str) -> bool:
            answer = await post(city, START, {"x-forwarded-for": address}, p=number)
            return bool(answer.json()["data"]["signInStart"]["sent"])

        assert [await ask("203.0.113.9", number) for number in NUMBERS[:3]] == [True, True, False]
        assert await ask("203.0.113.10", NUMBERS[3])
        # A subscriber of IPv6 has as many addresses as they like: the network counts.
        assert [await ask(f"2001:db8:1:2::{n}", NUMBERS[4 + n]) for n in range(3)] == [True, True, False]
        assert await ask("2001:db8:1:3::1", NUMBERS[8])


async def test_a2_the_texts_of_a_day_are_capped(database_url: str, tmp_path: Path) -> None:
    async with make_city(database_url, tmp_path, sms_daily_cap=4) as city:
        answers = await asyncio.gather(*(start(city, number) for number in NUMBERS[:8]))
        assert sum(answer["sent"] for answer in answers) == 4
        assert all(limited(answer) for answer in answers if not answer["sent"])
        assert len(await texts(city)) == 4
        await age(city, hours=23)
        assert limited(await start(city, NUMBERS[9]))
        await age(city, hours=1)
        assert (await start(city, NUMBERS[9]))["sent"]


async def test_a2_tries_are_limited_by_number_even_with_the_right_code(city: Town) -> None:
    answers = [await finish(city, "000000") for _ in range(12)]
    assert [limited(answer) for answer in answers] == [False] * 10 + [True] * 2
    await start(city)
    assert limited(await finish(city, await code_of(city)))
    await age(city, minutes=11)
    async with city.sessions.begin() as session:
        await session.execute(text("UPDATE sign_in_codes SET expires_at = now() + interval '1 minute'"))
    assert (await finish(city, await code_of(city)))["token"]


async def test_a2_tries_are_limited_by_address_whatever_the_numbers(database_url: str, tmp_path: Path) -> None:
    async with make_city(database_url, tmp_path, sign_in_codes_per_address=1) as city:
        answers = [await finish(city, "000000", number) for number in NUMBERS[:8]]
        assert [limited(answer) for answer in answers] == [False] * 6 + [True] * 2


async def test_g4_aliases_count_as_codes_and_as_tries(city: Town) -> None:
    aliases = " ".join(f'a{n}: signInStart(input: {{phone: "{NEW}"}}) {{ sent }}' for n in range(6))
    answer = await city.gql("mutation { " + aliases + " }", token="")
    assert sum(item["sent"] for item in answer["data"].values()) == 3
    tries = " ".join(
        f'a{n}: signInFinish(input: {{phone: "{NEW}", code: "00000{n % 10}"}}) {{ userErrors {{ __typename }} }}'
        for n in range(14)
    )
    answer = await city.gql("mutation { " + tries + " }", token="")
    kinds = [item["userErrors"][0]["__typename"] for item in answer["data"].values()]
    assert kinds == ["InputError"] * 10 + ["RateLimited"] * 4


async def test_an_expired_code_is_none(city: Town) -> None:
    await start(city)
    async with city.sessions.begin() as session:
        await session.execute(text("UPDATE sign_in_codes SET expires_at = now() - interval '1 second'"))
    assert refused(await finish(city, await code_of(city)))


async def test_a2_known_and_unknown_numbers_get_the_same_answer(city: Town) -> None:
    await start(city)
    await finish(city, await code_of(city))
    assert await start(city, NEW) == await start(city, "+254712000222")
    assert refused(await finish(city, "12345x", "+254712000222"))
    assert refused(await finish(city, "12345x", "+254712000333"))


async def test_a2_known_and_unknown_numbers_cost_the_same_statements(city: Town) -> None:
    await sign_in(city)
    assert await city.count(Customer, Customer.phone == NEW) == 1
    assert await statements_of_start(city, NEW) == await statements_of_start(city, NUMBERS[0])


async def statements_of_start(city: Town, phone: str) -> list[str]:
    seen: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    engine = city.sessions.kw["bind"].sync_engine
    event.listen(engine, "before_cursor_execute", hear)
    try:
        assert (await start(city, phone))["sent"]
    finally:
        event.remove(engine, "before_cursor_execute", hear)
    return seen


@pytest.mark.parametrize("phone", ["", "712", "+1", "+12025550123", "0712000111", "+254' OR 1=1", "\x00", "+" * 500])
async def test_a2_numbers_that_cannot_be_and_other_countries_are_refused(city: Town, phone: str) -> None:
    answer = await start(city, phone)
    assert answer["sent"] is False
    assert answer["userErrors"][0]["field"] == ["phone"]
    assert await city.count(SignInCode) == 0


async def test_without_a_way_to_send_codes_sign_in_says_so(town: Town) -> None:
    assert (await start(town))["userErrors"][0]["code"] == "INVALID"


async def test_what_limits_are_counted_from_names_nobody(city: Town) -> None:
    await start(city)
    await finish(city, "000000")
    async with city.sessions() as session:
        tries = (await session.scalars(select(Attempt))).all()
        code = (await session.scalars(select(SignInCode))).one()
    assert {row.kind for row in tries} == {
        *("sign-in-code", "sign-in-code-address", "sign-in-try", "sign-in-try-address"),
    }
    kept = "".join(row.key for row in tries) + (code.address or "") + code.code_hash
    assert NEW not in kept
    assert "127.0.0.1" not in kept
    assert await code_of(city) not in code.code_hash[:6]
    keys = Asker(NEW, "::ffff:127.0.0.1").keys(city.settings.token_secret.get_secret_value())  # type: ignore[union-attr]
    assert code.address == keys[1]


async def test_old_codes_and_tries_are_deleted_and_young_ones_stay(city: Town) -> None:
    await start(city)
    await age(city, days=3)
    await start(city, NUMBERS[0])
    await forget_sign_ins(city.sessions)
    assert await city.count(SignInCode) == 1
    assert await city.count(Attempt) == 2
