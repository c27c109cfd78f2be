"""Sessions over GraphQL: tokens that work once, answers that get lost, thieves, ends, and what a customer sees."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from standpipe.households.models import CustomerSession, RefreshToken
from standpipe.households.retention import forget_sign_ins
from standpipe.households.sessions import EndReason, end_sessions, hash_token
from tests.support.sign_in import NEW, code_of, finish, make_city, refresh, sign_in, start, viewer
from tests.support.town import Town

ENDED = [{"__typename": "InputError", "code": "INVALID", "field": ["refreshToken"]}]
OTHER = "+254712000222"
SIGN_OUT = "mutation($i: SignOutInput) { signOut(input: $i) { signedOut userErrors { code } } }"
EVERYWHERE = "mutation { signOutEverywhere { ended userErrors { code } } }"


@pytest.fixture
async def city(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with make_city(database_url, tmp_path) as town:
        yield town


async def change(town: Town, statement: str, **values: str) -> None:
    async with town.sessions.begin() as session:
        await session.execute(text(statement), values)


async def reasons(town: Town) -> list[str | None]:
    """Why sessions ended, the oldest first."""
    async with town.sessions() as session:
        return list(await session.scalars(select(CustomerSession.ended_reason).order_by(CustomerSession.id)))


async def sign_out(town: Town, token: str, **which: str) -> Any:
    return (await town.gql(SIGN_OUT, token=token, i=which or None))["data"]["signOut"]


async def test_a_session_is_carried_on_by_tokens_that_each_give_the_next(city: Town) -> None:
    first = await sign_in(city, label=" Amina's phone ")
    assert first["expiresInS"] == 900
    assert 59 * 86_400 < first["refreshExpiresInS"] <= 60 * 86_400
    last, tokens = first, {first["refreshToken"]}
    for _ in range(4):
        last = await refresh(city, last["refreshToken"])
        assert last["userErrors"] == []
        assert last["sessionId"] == first["sessionId"]
        tokens.add(last["refreshToken"])
        seen = await viewer(city, last["token"])
        assert seen["sessions"] == [
            {"id": first["sessionId"], "kind": "APP", "label": "Amina's phone", "current": True}
        ]
    assert len(tokens) == 5
    # 256 bits each, and none of them is kept as it is.
    assert all(len(token.removeprefix("rft_")) == 43 for token in tokens)
    async with city.sessions() as session:
        kept = set(await session.scalars(select(RefreshToken.token_hash)))
    assert kept == {hash_token(token) for token in tokens}
    assert not kept & tokens


async def test_a3_a_token_used_twice_ends_the_whole_family(city: Town) -> None:
    stolen = await sign_in(city)
    mine = await refresh(city, stolen["refreshToken"])
    mine = await refresh(city, mine["refreshToken"])
    assert await viewer(city, mine["token"]) is not None
    assert (await refresh(city, stolen["refreshToken"]))["userErrors"] == ENDED
    assert await reasons(city) == ["REUSED"]
    # Neither access tokens nor refresh tokens of the family are worth anything now, whoever has them.
    for tokens in (stolen, mine):
        assert await viewer(city, tokens["token"]) is None
        assert (await refresh(city, tokens["refreshToken"]))["userErrors"] == ENDED


async def test_a3_a_thief_who_is_first_is_found_out_by_the_owner(city: Town) -> None:
    mine = await sign_in(city)
    theirs = await refresh(city, mine["refreshToken"])
    assert await viewer(city, theirs["token"]) is not None
    await change(city, "UPDATE refresh_tokens SET used_at = used_at - interval '21 seconds'")
    assert (await refresh(city, mine["refreshToken"]))["userErrors"] == ENDED
    assert await viewer(city, theirs["token"]) is None
    assert await reasons(city) == ["REUSED"]


async def test_a3_a_thief_and_the_owner_who_go_on_from_one_token_are_found_out(city: Town) -> None:
    """Both took the answer that seemed lost, and have the same next token: the next round tells."""
    first = await sign_in(city)
    mine, theirs = await refresh(city, first["refreshToken"]), await refresh(city, first["refreshToken"])
    assert mine["refreshToken"] == theirs["refreshToken"]
    assert await viewer(city, mine["token"]) is not None
    theirs = await refresh(city, theirs["refreshToken"])
    assert await viewer(city, theirs["token"]) is not None
    await change(city, "UPDATE refresh_tokens SET used_at = used_at - interval '21 seconds'")
    assert (await refresh(city, mine["refreshToken"]))["userErrors"] == ENDED
    assert await viewer(city, theirs["token"]) is None


async def test_a3_another_session_of_the_same_customer_lives_on(city: Town) -> None:
    phone, tablet = await sign_in(city), await sign_in(city)
    for _ in range(2):
        phone = await refresh(city, (used := phone)["refreshToken"])
        await viewer(city, phone["token"])
    await change(city, "UPDATE refresh_tokens SET used_at = used_at - interval '21 seconds'")
    assert (await refresh(city, used["refreshToken"]))["userErrors"] == ENDED
    assert await viewer(city, tablet["token"]) is not None
    assert await reasons(city) == ["REUSED", None]


async def test_an_answer_that_was_lost_is_given_again_however_late(city: Town) -> None:
    first = await sign_in(city)
    lost = await refresh(city, first["refreshToken"])
    await change(city, "UPDATE refresh_tokens SET issued_at = issued_at - interval '9 days'")
    again = await refresh(city, first["refreshToken"])
    assert again["refreshToken"] == lost["refreshToken"]
    assert await viewer(city, again["token"]) is not None
    assert await city.count(RefreshToken) == 2
    assert (await refresh(city, again["refreshToken"]))["userErrors"] == []


async def test_two_tabs_that_refresh_at_once_go_on_together(city: Town) -> None:
    first = await sign_in(city)
    answers = await asyncio.gather(*(refresh(city, first["refreshToken"]) for _ in range(4)))
    assert len({answer["refreshToken"] for answer in answers}) == 1
    assert await viewer(city, answers[0]["token"]) is not None
    # One tab's request was slower than the other's next step: for a moment that is forgiven.
    late = await refresh(city, first["refreshToken"])
    assert late["refreshToken"] == answers[0]["refreshToken"]
    assert await reasons(city) == [None]


async def test_the_old_access_token_does_not_say_that_the_new_one_arrived(city: Town) -> None:
    first = await sign_in(city)
    second = await refresh(city, first["refreshToken"])
    await viewer(city, second["token"])
    lost = await refresh(city, second["refreshToken"])
    # The app goes on with what it has: the answer is still on its way.
    assert await viewer(city, second["token"]) is not None
    await change(city, "UPDATE refresh_tokens SET used_at = used_at - interval '1 day'")
    again = await refresh(city, second["refreshToken"])
    assert again["refreshToken"] == lost["refreshToken"]


async def test_an_unused_session_ends_and_so_does_a_used_one_in_the_end(city: Town) -> None:
    idle, used = await sign_in(city), await sign_in(city)
    kept = hash_token(idle["refreshToken"])
    await change(city, "UPDATE refresh_tokens SET expires_at = now() WHERE token_hash = :kept", kept=kept)
    assert (await refresh(city, idle["refreshToken"]))["userErrors"] == ENDED
    seen = await viewer(city, used["token"])
    assert [item["id"] for item in seen["sessions"]] == [used["sessionId"]]
    ends_at = "UPDATE customer_sessions SET expires_at = now() + CAST(:left AS text)::interval WHERE id = :id"
    await change(city, ends_at, left="1 hour", id=used["sessionId"])
    used = await refresh(city, used["refreshToken"])
    assert 3_500 < used["refreshExpiresInS"] <= 3_600
    await change(city, ends_at, left="0", id=used["sessionId"])
    assert (await refresh(city, used["refreshToken"]))["userErrors"] == ENDED
    assert await viewer(city, used["token"]) is None
    await forget_sign_ins(city.sessions)
    assert await reasons(city) == ["EXPIRED", "EXPIRED"]


async def test_signing_out_ends_this_session_and_no_other(city: Town) -> None:
    phone, tablet = await sign_in(city), await sign_in(city)
    assert await sign_out(city, phone["token"]) == {"signedOut": True, "userErrors": []}
    assert await viewer(city, phone["token"]) is None
    assert (await refresh(city, phone["refreshToken"]))["userErrors"] == ENDED
    assert await viewer(city, tablet["token"]) is not None
    assert await reasons(city) == ["SIGNED_OUT", None]


async def test_signing_out_by_refresh_token_needs_no_access_token_and_may_be_repeated(city: Town) -> None:
    tokens = await sign_in(city)
    for _ in range(2):
        assert await sign_out(city, "", refreshToken=tokens["refreshToken"]) == {"signedOut": True, "userErrors": []}
    assert await viewer(city, tokens["token"]) is None
    # An unknown token is answered alike.
    assert (await sign_out(city, "", refreshToken="rft_unknown"))["signedOut"] is True


async def test_another_session_can_be_ended_from_the_list_but_nobody_elses(city: Town) -> None:
    phone, lost = await sign_in(city), await sign_in(city)
    await start(city, OTHER)
    stranger = await finish(city, await code_of(city), OTHER)
    for theirs in (phone["sessionId"], "ses_00000000000000000000000000", "nonsense", "\x00"):
        answer = await sign_out(city, stranger["token"], sessionId=theirs)
        assert answer == {"signedOut": False, "userErrors": [{"code": "NOT_FOUND"}]}
    assert (await sign_out(city, phone["token"], sessionId=lost["sessionId"]))["signedOut"] is True
    assert await viewer(city, lost["token"]) is None
    assert [item["id"] for item in (await viewer(city, phone["token"]))["sessions"]] == [phone["sessionId"]]


async def test_signing_out_everywhere_ends_every_session(city: Town) -> None:
    phone, tablet = await sign_in(city), await sign_in(city)
    await start(city, OTHER)
    stranger = await finish(city, await code_of(city), OTHER)
    answer = (await city.gql(EVERYWHERE, token=phone["token"]))["data"]["signOutEverywhere"]
    assert answer == {"ended": 2, "userErrors": []}
    for tokens in (phone, tablet):
        assert await viewer(city, tokens["token"]) is None
        assert (await refresh(city, tokens["refreshToken"]))["userErrors"] == ENDED
    assert await viewer(city, stranger["token"]) is not None
    assert await reasons(city) == ["SIGNED_OUT_EVERYWHERE"] * 2 + [None]


async def test_signed_out_nobody_signs_out_everywhere(city: Town) -> None:
    answer = await city.gql(EVERYWHERE, token="")
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert (await sign_out(city, ""))["userErrors"] == [{"code": "INVALID"}]


async def test_a_token_of_the_release_before_lives_on_without_a_session(town: Town) -> None:
    seen = await viewer(town, town.home.token)
    assert seen["sessions"] == []
    assert (await sign_out(town, town.home.token))["userErrors"] == [{"code": "INVALID"}]
    await change(town, "UPDATE customers SET deleted_at = now()")
    assert await viewer(town, town.home.token) is None


async def test_a_customer_who_is_forgotten_has_no_session(city: Town) -> None:
    tokens = await sign_in(city)
    await change(city, "UPDATE customers SET deleted_at = now(), phone = 'gone' WHERE phone = :phone", phone=NEW)
    assert await viewer(city, tokens["token"]) is None
    assert (await refresh(city, tokens["refreshToken"]))["userErrors"] == ENDED
    async with city.sessions.begin() as session:
        customer_id = (await session.scalars(select(CustomerSession.customer_id))).one()
        assert await end_sessions(session, customer_id, EndReason.DELETED) == 1


@pytest.mark.parametrize("token", ["", "rft_", "\x00", "é" * 100, "x" * 10_000, "rft_" + "A" * 43])
async def test_a_token_that_never_was_is_refused(city: Town, token: str) -> None:
    assert (await refresh(city, token))["userErrors"] == ENDED


@pytest.mark.parametrize("label", ["x" * 61, "a\x00b", "a\nb"])
async def test_a_label_that_is_none_costs_no_code(city: Town, label: str) -> None:
    await start(city)
    code = await code_of(city)
    assert (await finish(city, code, label=label))["userErrors"][0]["field"] == ["label"]
    assert (await finish(city, code))["token"]


async def test_retention_keeps_what_tells_a_second_use_and_deletes_the_rest(city: Town) -> None:
    mine = used = await sign_in(city)
    for _ in range(2):
        mine = await refresh(city, mine["refreshToken"])
        await viewer(city, mine["token"])
    gone = await sign_in(city)
    await sign_out(city, gone["token"])
    await forget_sign_ins(city.sessions)
    assert await city.count(CustomerSession) == 2
    await change(city, "UPDATE customer_sessions SET ended_at = now() - interval '31 days' WHERE ended_at IS NOT NULL")
    await forget_sign_ins(city.sessions)
    assert await city.count(CustomerSession) == 1
    assert await city.count(RefreshToken) == 3
    assert (await refresh(city, used["refreshToken"]))["userErrors"] == ENDED
    assert await reasons(city) == ["REUSED"]
