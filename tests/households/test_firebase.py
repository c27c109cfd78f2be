"""Firebase ID tokens as bearer tokens: the vendor's own SDK against a stand-in for Google, through GraphQL."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import select, update

from standpipe.app import make_app
from standpipe.households.models import Customer, CustomerIdentity
from standpipe.payments.models import TopUp
from standpipe.platform.database import Sessions
from standpipe.platform.errors import SettingsError
from standpipe.wiring import Database
from standpipe_demo.simulator import fake_phone
from standpipe_demo.simulator.fake_google import GoogleState
from tests.support.command import standpipe_process
from tests.support.database import free_port
from tests.support.google import Google, firebase_town
from tests.support.town import Town, make_settings

PHONE = "+254712000333"
EMULATOR = "FIREBASE_AUTH_EMULATOR_HOST"
VIEWER = "{ viewer { phone } }"
START = (
    'mutation($k: ID!, $m: ID!) { topUpStart(input: {idempotencyKey: $k, meterId: $m, methodId: "sandbox", '
    'pay: {amount: "15.00", currency: "KES"}}) { topUp { id } userErrors { code } } }'
)


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Town, Google]]:
    async with firebase_town(database_url, tmp_path) as made:
        yield made


async def asked(town: Town, token: str, query: str = VIEWER, **variables: Any) -> tuple[int, dict[str, Any]]:
    response = await town.http.post(
        f"{town.api}/graphql",
        json={"query": query, "variables": variables},
        headers={"authorization": f"Bearer {token}"},
    )
    answer = response.json()
    answer.pop("extensions", None)
    return response.status_code, answer


async def refused(town: Town, token: str) -> str:
    """The words of a refusal; the token must open nothing."""
    status, answer = await asked(town, token)
    assert (status, answer["errors"][0]["extensions"]["code"]) == (401, "UNAUTHENTICATED"), answer
    return str(answer["errors"][0]["message"])


async def start(town: Town, token: str, key: str = "k") -> dict[str, Any]:
    return (await asked(town, token, START, k=key, m=town.home.meter_id))[1]


async def be_the_owner(town: Town) -> None:
    """The town's customer has the phone number of the tests."""
    async with town.sessions.begin() as session:
        await session.execute(update(Customer).where(Customer.id == town.home.customer_id).values(phone=PHONE))


async def customers(sessions: Sessions) -> list[str]:
    async with sessions() as session:
        return list(await session.scalars(select(Customer.id).where(Customer.phone == PHONE)))


async def test_a_phone_sign_in_opens_the_account_once(place: tuple[Town, Google]) -> None:
    town, google = place
    token = await google.token(PHONE)
    answers = await asyncio.gather(*(asked(town, token) for _ in range(12)))
    assert all(answer == (200, {"data": {"viewer": {"phone": PHONE}}}) for answer in answers), answers
    assert len(await customers(town.sessions)) == 1
    assert await town.count(CustomerIdentity) == 1
    # Another sign-in of the same person, later, is the same customer, and asks Google nothing.
    lookups = google.state.lookups
    assert (await asked(town, await google.token(PHONE)))[0] == 200
    assert google.state.lookups == lookups
    assert await town.count(CustomerIdentity) == 1


async def test_googles_certificates_are_fetched_once_and_kept(place: tuple[Town, Google]) -> None:
    town, google = place
    token = await google.token(PHONE)
    for _ in range(20):
        assert (await asked(town, token))[0] == 200
    # A storm of tokens with key ids that nobody knows does not make us ask either.
    for number in range(20):
        claims = google.state.claims(google.state.account(PHONE, None))
        await refused(town, jwt.encode(claims, google.state.key, "RS256", headers={"kid": f"unknown-{number}"}))
    assert google.state.fetches == 1


async def test_a_known_number_links_its_account_and_keeps_it(place: tuple[Town, Google]) -> None:
    town, google = place
    await be_the_owner(town)
    token = await google.token(PHONE)
    status, answer = await asked(town, token, "{ viewer { meters { nodes { id } } } }")
    assert (status, answer["data"]["viewer"]["meters"]["nodes"]) == (200, [{"id": town.home.meter_id}])
    # A known identity stays who it is, with a number that has changed since, or without one.
    claims = google.state.claims(google.state.account(PHONE, None))
    claims |= {"phone_number": "+254712999999", "firebase": {"identities": {"phone": ["+254712999999"]}}}
    for token in (google.state.sign(claims), google.state.sign(claims | {"phone_number": None, "firebase": {}})):
        assert (await asked(town, token))[1]["data"]["viewer"]["phone"] == PHONE
    assert (await start(town, token))["data"]["topUpStart"]["userErrors"] == []


async def test_an_email_address_links_nothing(place: tuple[Town, Google]) -> None:
    town, google = place
    await be_the_owner(town)
    assert "no verified phone number" in await refused(town, await google.token(email="owner@example.com"))
    # A number that is only written into the token, as a project's custom claim, is not proven.
    claims = google.state.claims(google.state.account(None, "owner@example.com")) | {"phone_number": PHONE}
    assert "no verified phone number" in await refused(town, google.state.sign(claims))
    # Nor is a tenant's sign-in, whose accounts are others'.
    claims = google.state.claims(google.state.account(PHONE, None))
    claims["firebase"]["tenant"] = "another-company"
    assert "tenant" in await refused(town, google.state.sign(claims))
    assert await town.count(CustomerIdentity) == 0


async def test_a_country_that_is_not_served_opens_no_account(database_url: str, tmp_path: Path) -> None:
    async with firebase_town(database_url, tmp_path, sms_countries="KE") as (town, google):
        assert "not offered" in await refused(town, await google.token("+33612345678"))
        assert (await asked(town, await google.token(PHONE)))[0] == 200


def _public_key(state: GoogleState) -> bytes:
    return state.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _hand_made(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    """A token that PyJWT would not make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signed = b".".join(parts)
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = b"" if secret is None else base64.urlsafe_b64encode(algorithm.sign(signed, secret)).rstrip(b"=")
    return b".".join((signed, signature)).decode()


Forgery = Callable[[GoogleState, dict[str, Any]], str]
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
FORGERIES: dict[str, Forgery] = {
    "alg none": lambda google, claims: jwt.encode(claims, None, "none", headers={"kid": google.key_id}),
    "the emulator's": lambda _google, claims: _hand_made({"alg": "none", "typ": "JWT"}, claims, None),
    "None, spelt otherwise": lambda google, claims: _hand_made({"alg": "nOnE", "kid": google.key_id}, claims, None),
    "no algorithm": lambda google, claims: _hand_made({"kid": google.key_id}, claims, None),
    "HS256 with the certificate": lambda google, claims: _hand_made(
        {"alg": "HS256", "kid": google.key_id}, claims, google.certificate
    ),
    "HS256 with the public key": lambda google, claims: _hand_made(
        {"alg": "HS256", "kid": google.key_id}, claims, _public_key(google)
    ),
    "RS256 in name, HS256 in fact": lambda google, claims: _hand_made(
        {"alg": "RS256", "kid": google.key_id}, claims, _public_key(google)
    ),
    "RS256 and no signature": lambda google, claims: _hand_made({"alg": "RS256", "kid": google.key_id}, claims, None),
    "a stranger's key": lambda google, claims: jwt.encode(claims, STRANGER, "RS256", headers={"kid": google.key_id}),
    "an unknown kid": lambda google, claims: jwt.encode(claims, google.key, "RS256", headers={"kid": "unknown"}),
    "no kid": lambda google, claims: jwt.encode(claims, google.key, "RS256"),
    "a kid that is a list": lambda google, claims: _hand_made({"alg": "RS256", "kid": [google.key_id]}, claims, None),
    "a kid that is an object": lambda _google, claims: _hand_made({"alg": "RS256", "kid": {"a": 1}}, claims, None),
    "PS256": lambda google, claims: jwt.encode(claims, google.key, "PS256", headers={"kid": google.key_id}),
    "another project's audience": lambda google, claims: google.sign(claims | {"aud": "another-project"}),
    "a list of audiences": lambda google, claims: google.sign(claims | {"aud": [google.project, "another-project"]}),
    "another project's issuer": lambda google, claims: google.sign(
        claims | {"iss": "https://securetoken.google.com/another-project"}
    ),
    "our issuer and more": lambda google, claims: google.sign(claims | {"iss": claims["iss"] + "/x"}),
    "a session cookie's issuer": lambda google, claims: google.sign(
        claims | {"iss": f"https://session.firebase.google.com/{google.project}"}
    ),
    "our own issuer": lambda google, claims: google.sign(claims | {"iss": "standpipe", "aud": "standpipe-customer"}),
    "a custom token's audience": lambda google, claims: google.sign(
        claims | {"aud": "https://identitytoolkit.googleapis.com/google.identity.identitytoolkit.v1.IdentityToolkit"}
    ),
    "expired": lambda google, claims: google.sign(claims | {"exp": int(time.time()) - 60}),
    "from the future": lambda google, claims: google.sign(claims | {"iat": int(time.time()) + 600}),
    "no expiry": lambda google, claims: google.sign({name: claims[name] for name in claims if name != "exp"}),
    "no subject": lambda google, claims: google.sign({name: claims[name] for name in claims if name != "sub"}),
    "an empty subject": lambda google, claims: google.sign(claims | {"sub": ""}),
    "a subject that is too long": lambda google, claims: google.sign(claims | {"sub": "x" * 129}),
    "changed after signing": lambda google, claims: google.sign(claims).replace(".", ".e30", 1),
    "cut short": lambda google, claims: google.sign(claims)[:-20],
    "four parts": lambda google, claims: google.sign(claims) + ".x",
}


async def test_a1_what_google_has_not_signed_for_us_opens_nothing(
    place: tuple[Town, Google], monkeypatch: pytest.MonkeyPatch
) -> None:
    town, google = place
    await be_the_owner(town)
    claims = google.state.claims(google.state.account(PHONE, None))
    for name, forge in FORGERIES.items():
        token = forge(google.state, dict(claims))
        assert await refused(town, token), name
    assert await town.count(CustomerIdentity) == 0
    good = google.state.sign(claims)
    assert (await asked(town, good))[0] == 200
    # Where the emulator's address comes into the environment after the start, even the SDK would believe these.
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9099")
    for name, forge in FORGERIES.items():
        assert await refused(town, forge(google.state, dict(claims))), name
    await refused(town, good)


async def test_a1_the_server_refuses_to_start_beside_the_emulator(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9099")
    more = {"token_secret": "t" * 40, "http_port": str(free_port())}
    done = await asyncio.to_thread(standpipe_process, database_url, tmp_path, "serve", **more)
    assert done.returncode == 2
    assert EMULATOR in done.stderr
    assert "forged" in done.stderr
    assert "Traceback" not in done.stderr


async def test_settings_by_half_are_refused_and_off_is_off(
    database_url: str, sessions: Sessions, tmp_path: Path, town: Town
) -> None:
    database = Database(database_url, sessions)
    with pytest.raises(SettingsError, match="STANDPIPE_FIREBASE_CREDENTIALS is not set"):
        make_app(make_settings(firebase_project_id="p"), database)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(SettingsError, match="STANDPIPE_FIREBASE_CREDENTIALS"):
        make_app(make_settings(firebase_project_id="p", firebase_credentials=tmp_path / "broken.json"), database)
    google = GoogleState(fake_phone.PROJECT, {})
    await refused(town, google.sign(google.claims(google.account(PHONE, None))))


@pytest.mark.parametrize("action", ["revoke", "disable", "forget"])
async def test_a_revoked_sign_in_moves_no_money(place: tuple[Town, Google], action: str) -> None:
    town, google = place
    await be_the_owner(town)
    token = await google.token(PHONE, age_s="60")
    assert (await start(town, token))["data"]["topUpStart"]["userErrors"] == []
    await google.control(action, uid=google.state.account(PHONE, None)["localId"])
    answer = await start(town, token, key="another")
    assert answer["data"] == {"topUpStart": None}
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert "revoked" in answer["errors"][0]["message"]
    assert await town.count(TopUp) == 1
    # Looking is let be until the token ends, at most an hour; a first sign-in is not.
    assert (await asked(town, token))[0] == 200
    async with town.sessions.begin() as session:
        await session.execute(CustomerIdentity.__table__.delete())
    if action != "revoke":
        await refused(town, token)


async def test_money_waits_while_google_does_not_answer(database_url: str, tmp_path: Path) -> None:
    async with firebase_town(database_url, tmp_path, firebase_timeout_s=0.5) as (town, google):
        await be_the_owner(town)
        token = await google.token(PHONE)
        assert (await asked(town, token))[0] == 200
        for trouble in ({"action": "silent", "on": "1"}, {"action": "unavailable", "times": "99"}):
            await google.control(**trouble)
            answer = await start(town, token)
            assert answer["data"] == {"topUpStart": None}
            assert answer["errors"][0]["extensions"] == {"code": "SIGN_IN_UNAVAILABLE", "retryable": True}
            assert "try again" in answer["errors"][0]["message"]
            assert (await asked(town, token))[0] == 200
            await google.control("silent")
        assert await town.count(TopUp) == 0
        await google.control("unavailable", times="0")
        assert (await start(town, token))["data"]["topUpStart"]["userErrors"] == []


async def test_without_googles_certificates_nobody_is_signed_in_or_out(place: tuple[Town, Google]) -> None:
    town, google = place
    token = await google.token(PHONE)
    await google.control("unavailable")
    status, answer = await asked(town, token)
    assert (status, answer["errors"][0]["extensions"]) == (503, {"code": "SIGN_IN_UNAVAILABLE", "retryable": True})
    # Our own sign-in needs no Google.
    assert (await asked(town, town.home.token))[0] == 200
    assert (await asked(town, token))[0] == 200


async def test_a_hundred_requests_while_google_is_silent_keep_nobody_from_reading(
    database_url: str, tmp_path: Path
) -> None:
    async with firebase_town(database_url, tmp_path, firebase_timeout_s=0.5) as (town, google):
        await be_the_owner(town)
        token = await google.token(PHONE)
        assert (await asked(town, token))[0] == 200
        await google.control("silent", on="1")
        waiting = [asyncio.create_task(start(town, token, key=str(number))) for number in range(60)]
        readers = await asyncio.gather(*(asked(town, token) for _ in range(20)))
        assert {status for status, _ in readers} == {200}
        answers = await asyncio.gather(*waiting)
        assert {answer["errors"][0]["extensions"]["code"] for answer in answers} == {"SIGN_IN_UNAVAILABLE"}
        assert await town.count(TopUp) == 0


async def test_an_app_left_running_does_not_reopen_a_deleted_account(place: tuple[Town, Google]) -> None:
    town, google = place
    token = await google.token(PHONE, age_s="60")
    assert (await asked(town, token))[0] == 200
    confirm = f'mutation {{ accountDelete(input: {{confirm: "{PHONE}"}}) {{ deleted }} }}'
    assert (await asked(town, token, confirm))[1]["data"]["accountDelete"] == {"deleted": True}
    await town.drain()
    assert "was deleted" in await refused(town, token)
    assert await customers(town.sessions) == []
    # Who signs in again begins anew.
    claims = google.state.claims(google.state.account(PHONE, None))
    again = google.state.sign(claims | {"auth_time": claims["auth_time"] + 5})
    assert (await asked(town, again))[1]["data"]["viewer"]["phone"] == PHONE
    assert len(await customers(town.sessions)) == 1
