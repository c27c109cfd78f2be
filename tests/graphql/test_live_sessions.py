"""G8: what is live ends with the sign-in that opened it, in whichever process it was ended."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy import text
from websockets.exceptions import ConnectionClosed

from standpipe.households.models import Membership
from standpipe.households.sessions import EndReason, end_sessions
from standpipe.households.tokens import AUDIENCE, ISSUER
from standpipe.platform.notify import LIVE, notify
from tests.support.sign_in import make_city, refresh, sign_in
from tests.support.sockets import opened, subscribe
from tests.support.town import Town

METER = "subscription($i: ID!) { meterUpdated(meterId: $i) { id label } }"
SIGN_OUT = "mutation { signOut { signedOut } }"


@pytest.fixture
async def city(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with make_city(database_url, tmp_path) as town:
        yield town


async def member(town: Town) -> Any:
    """The tokens of a new session whose customer lives in the town's home."""
    tokens = await sign_in(town)
    async with town.sessions.begin() as session:
        customer_id = town.extras["customer_id"] = jwt.decode(tokens["token"], options={"verify_signature": False})[
            "sub"
        ]
        if await session.get(Membership, (town.home.household_id, customer_id)) is None:
            session.add(Membership(household_id=town.home.household_id, customer_id=customer_id, role="OWNER"))
    return tokens


async def live(town: Town, token: str) -> Any:
    """A socket whose subscription has had its first event."""
    socket = await opened(town, token)
    await subscribe(socket, METER, town.home.meter_id)
    assert json.loads(await socket.recv())["type"] == "next"
    return socket


async def rest_of(socket: Any) -> tuple[list[str], int]:
    """The kinds of the messages that still come, and the code that the socket is closed with."""
    kinds: list[str] = []
    async with asyncio.timeout(20):
        with suppress(ConnectionClosed):
            async for message in socket:
                kinds.append(json.loads(message)["type"])  # noqa: PERF401 - extend would lose them at the close.
    return kinds, socket.close_code


async def test_g8_signing_out_ends_what_is_live_and_closes_the_socket(city: Town) -> None:
    phone, tablet = await member(city), await member(city)
    busy, idle, other = (
        await live(city, phone["token"]),
        await opened(city, phone["token"]),
        await live(city, tablet["token"]),
    )
    assert (await city.gql(SIGN_OUT, token=phone["token"]))["data"]["signOut"]["signedOut"] is True
    assert await rest_of(busy) == (["complete"], 4401)
    assert await rest_of(idle) == ([], 4401)
    # The other session is told nothing, and hears of the meter still.
    async with city.sessions.begin() as session:
        await session.execute(text("UPDATE meters SET label = 'Shop'"))
        await notify(session, LIVE, city.home.meter_id)
    assert json.loads(await other.recv())["payload"]["data"]["meterUpdated"]["label"] == "Shop"
    await other.close()


async def test_g8_signing_out_over_the_socket_is_answered_before_it_closes(city: Town) -> None:
    tokens = await member(city)
    socket = await opened(city, tokens["token"])
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": SIGN_OUT}}))
    assert json.loads(await socket.recv())["payload"]["data"]["signOut"]["signedOut"] is True
    assert await rest_of(socket) == (["complete"], 4401)


async def test_g8_a3_a_reused_refresh_token_closes_the_thiefs_socket_too(city: Town) -> None:
    stolen = await member(city)
    mine = await refresh(city, stolen["refreshToken"])
    socket = await live(city, mine["token"])
    await refresh(city, (await refresh(city, mine["refreshToken"]))["refreshToken"])
    assert (await refresh(city, stolen["refreshToken"]))["token"] is None
    assert await rest_of(socket) == (["complete"], 4401)


async def test_g8_signing_out_everywhere_closes_every_socket(city: Town) -> None:
    sockets = [await live(city, (await member(city))["token"]) for _ in range(2)]
    async with city.sessions.begin() as session:
        ended = await end_sessions(session, city.extras["customer_id"], EndReason.SIGNED_OUT_EVERYWHERE)
    assert ended == 2
    for socket in sockets:
        assert await rest_of(socket) == (["complete"], 4401)


async def test_g8_a_session_that_ended_unheard_ends_with_the_next_event(city: Town) -> None:
    """A notification may be lost: each event asks again whether the session lives."""
    tokens = await member(city)
    socket = await live(city, tokens["token"])
    async with city.sessions.begin() as session:
        await session.execute(text("UPDATE customer_sessions SET ended_at = now()"))
        await session.execute(text("UPDATE meters SET label = 'Shop'"))
        await notify(session, LIVE, city.home.meter_id)
    assert json.loads(await socket.recv())["type"] == "complete"
    await socket.close()


async def test_g8_a_socket_is_closed_when_its_token_has_expired(town: Town) -> None:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": town.home.customer_id, "iat": now, "exp": now + 2}
    token = jwt.encode(claims, "t" * 40)
    busy, idle = await live(town, token), await opened(town, token)
    assert await rest_of(busy) == (["complete"], 4403)
    assert await rest_of(idle) == ([], 4403)


async def test_g8_a_signed_out_token_opens_no_socket(city: Town) -> None:
    tokens = await member(city)
    await city.gql(SIGN_OUT, token=tokens["token"])
    with pytest.raises(ConnectionClosed) as closed:
        await opened(city, tokens["token"])
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403
