"""A1: access tokens that are not ours, not for here, or not any more."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import text
from websockets.exceptions import ConnectionClosed

from standpipe.households.tokens import AUDIENCE, ISSUER
from tests.support.sign_in import VIEWER, post
from tests.support.sockets import opened
from tests.support.town import Town

SECRET = "t" * 40


def claims(town: Town, **other: Any) -> dict[str, Any]:
    now_s = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": town.home.customer_id, "iat": now_s, "exp": now_s + 60}
    return {name: value for name, value in (good | other).items() if value is not None}


def unsigned(town: Town, algorithm: str) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims(town))}."


def forgeries(town: Town) -> dict[str, str]:
    now_s = int(time.time())
    good = jwt.encode(claims(town), SECRET, algorithm="HS256")
    head, _, signature = good.split(".")
    other_body = jwt.encode(claims(town, sub="cus_other"), SECRET, algorithm="HS256").split(".")[1]
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "none": jwt.encode(claims(town), None, algorithm="none"),
        "None": unsigned(town, "None"),
        "unsigned HS256": unsigned(town, "HS256"),
        "another secret": jwt.encode(claims(town), "u" * 40, algorithm="HS256"),
        "another algorithm": jwt.encode(claims(town), SECRET * 2, algorithm="HS512"),
        "a key pair": jwt.encode(claims(town), key, algorithm="RS256"),
        "wrong audience": jwt.encode(claims(town, aud="someone-else"), SECRET, algorithm="HS256"),
        "no audience": jwt.encode(claims(town, aud=None), SECRET, algorithm="HS256"),
        "wrong issuer": jwt.encode(claims(town, iss="https://securetoken.google.com/x"), SECRET, algorithm="HS256"),
        "expired": jwt.encode(claims(town, iat=now_s - 120, exp=now_s - 1), SECRET, algorithm="HS256"),
        "never expires": jwt.encode(claims(town, exp=None), SECRET, algorithm="HS256"),
        "of tomorrow": jwt.encode(claims(town, iat=now_s + 9_000, exp=now_s + 9_900), SECRET, algorithm="HS256"),
        "nobody": jwt.encode(claims(town, sub=None), SECRET, algorithm="HS256"),
        "an unknown customer": jwt.encode(claims(town, sub="cus_unknown"), SECRET, algorithm="HS256"),
        "an unknown session": jwt.encode(claims(town, sid="ses_unknown"), SECRET, algorithm="HS256"),
        "another body": f"{head}.{other_body}.{signature}",
        "cut short": good[:-4],
        "empty": "",
        "no token": "garbage",
        "very long": "a" * 4_000,
    }


async def test_a1_tokens_that_do_not_verify_are_refused_at_once(town: Town) -> None:
    good = await post(town, VIEWER, {"authorization": f"bearer {jwt.encode(claims(town), SECRET)}"})
    assert good.json()["data"]["viewer"] is not None
    for name, token in forgeries(town).items():
        response = await post(town, VIEWER, {"authorization": f"Bearer {token}".strip()})
        assert response.status_code == 401, name
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}, name
    for header in ("Basic YTpi", "Bearer", "", "Token x"):
        assert (await post(town, VIEWER, {"authorization": header})).status_code == 401


async def test_a1_the_same_on_a_websocket(town: Town) -> None:
    for name, token in forgeries(town).items():
        with pytest.raises(ConnectionClosed) as closed:
            await opened(town, token)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403, name


async def test_a_token_of_one_customer_does_not_hold_with_another_ones_session(town: Town) -> None:
    forged = jwt.encode(claims(town, sid="ses_00000000000000000000000000"), SECRET)
    assert (await post(town, VIEWER, {"authorization": f"Bearer {forged}"})).status_code == 401


async def test_where_nobody_can_say_who_asks_it_is_not_a_500(town: Town) -> None:
    async with town.sessions.begin() as session:
        await session.execute(text("ALTER TABLE customers RENAME TO elsewhere"))
    response = await post(town, VIEWER, {"authorization": f"Bearer {town.home.token}"})
    assert response.status_code == 503
    assert response.json()["errors"][0]["extensions"] == {"code": "UNAVAILABLE", "retryable": True}
    with pytest.raises(ConnectionClosed):
        await opened(town, town.home.token)
