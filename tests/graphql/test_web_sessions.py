"""A browser's session: cookies that no script reads, used only by pages of our own origin (G5)."""

import json
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from standpipe.graphql.cookies import WebCookies
from standpipe.households.models import CustomerSession
from tests.support.sign_in import FINISH, NEW, REFRESH, TOKENS, VIEWER, code_of, make_city, post, start
from tests.support.town import Town

ACCESS, REFRESH_COOKIE = "standpipe-access", "standpipe-refresh"
OWN = {"x-standpipe-client": "web/1", "sec-fetch-site": "same-origin"}
REFRESH_BARE = f"mutation {{ sessionRefresh {{ {TOKENS} }} }}"
SIGN_OUT = "mutation { signOut { signedOut userErrors { code } } }"


@pytest.fixture
async def city(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    async with make_city(database_url, tmp_path) as town:
        yield town


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies, as the town's own does, but is a stranger to it."""
    async with httpx.AsyncClient(timeout=20) as http:
        yield http


async def sign_in(town: Town, browser: httpx.AsyncClient, headers: dict[str, str] = OWN) -> httpx.Response:
    await start(town)
    code = await code_of(town)
    return await post(town, FINISH, headers, browser, p=NEW, c=code, web=True, label="Library computer")


async def ask(town: Town, browser: httpx.AsyncClient, query: str = VIEWER, headers: dict[str, str] = OWN) -> Any:
    return (await post(town, query, headers, browser)).json()["data"]


async def test_a_web_session_is_cookies_and_nothing_in_the_body(city: Town, browser: httpx.AsyncClient) -> None:
    response = await sign_in(city, browser)
    payload = response.json()["data"]["signInFinish"]
    assert payload["token"] is None
    assert payload["refreshToken"] is None
    assert (payload["expiresInS"], payload["userErrors"]) == (900, [])
    assert 6 * 86_400 < payload["refreshExpiresInS"] <= 7 * 86_400
    assert set(browser.cookies) == {ACCESS, REFRESH_COOKIE}
    for line in response.headers.get_list("set-cookie"):
        assert all(part in line for part in ("HttpOnly", "SameSite=strict", "Path=/"))
        # Plain http on this machine alone; anywhere else they are Secure.
        assert "Secure" not in line
        (cookie,) = SimpleCookie(line).values()
        assert cookie.value not in response.text
    seen = (await ask(city, browser))["viewer"]
    assert seen["phone"] == NEW
    assert [(item["kind"], item["label"], item["current"]) for item in seen["sessions"]] == [
        ("WEB", "Library computer", True)
    ]


@pytest.mark.parametrize(
    ("url", "secure"),
    [
        ("https://water.example", True),
        ("http://water.example", True),
        ("https://127.0.0.1:8443", True),
        ("http://127.0.0.1:8000", False),
        ("http://localhost:8000", False),
        ("http://[::1]:8000", False),
    ],
)
def test_cookies_are_secure_but_on_this_machine(url: str, secure: bool) -> None:
    cookies = WebCookies(url)
    assert cookies.secure is secure
    assert cookies.access.startswith("__Host-") is secure


async def test_refreshing_and_signing_out_work_with_the_cookie(city: Town, browser: httpx.AsyncClient) -> None:
    await sign_in(city, browser)
    before = dict(browser.cookies)
    # Of the access token only the refresh token is left: its time is over.
    browser.cookies.delete(ACCESS)
    assert (await ask(city, browser))["viewer"] is None
    payload = (await ask(city, browser, REFRESH_BARE))["sessionRefresh"]
    assert (payload["token"], payload["refreshToken"], payload["userErrors"]) == (None, None, [])
    assert browser.cookies[REFRESH_COOKIE] != before[REFRESH_COOKIE]
    assert (await ask(city, browser))["viewer"]["phone"] == NEW
    browser.cookies.delete(ACCESS)
    assert (await ask(city, browser, SIGN_OUT))["signOut"] == {"signedOut": True, "userErrors": []}
    assert not set(browser.cookies)
    browser.cookies.update(before)
    # A session that has ended is none, and does not stand in the way of the next.
    assert (await ask(city, browser))["viewer"] is None
    browser.cookies.clear()
    browser.cookies.update({REFRESH_COOKIE: before[REFRESH_COOKIE]})
    assert (await ask(city, browser, REFRESH_BARE))["sessionRefresh"]["userErrors"][0]["code"] == "INVALID"
    await sign_in(city, browser)
    assert (await ask(city, browser))["viewer"]["phone"] == NEW


async def test_a3_a_refresh_cookie_that_comes_again_ends_the_session(city: Town, browser: httpx.AsyncClient) -> None:
    await sign_in(city, browser)
    stolen = browser.cookies[REFRESH_COOKIE]
    for _ in range(2):
        await ask(city, browser, REFRESH_BARE)
        assert (await ask(city, browser))["viewer"] is not None
    answer = (await post(city, REFRESH, {}, city.http, t=stolen)).json()["data"]["sessionRefresh"]
    assert answer["userErrors"][0]["code"] == "INVALID"
    assert (await ask(city, browser))["viewer"] is None


FOREIGN = [
    {},
    {"sec-fetch-site": "same-origin"},
    {"x-standpipe-client": "web/1"},
    {"x-standpipe-client": "", "sec-fetch-site": "same-origin"},
    {"x-standpipe-client": "web/1", "sec-fetch-site": "cross-site"},
    {"x-standpipe-client": "web/1", "sec-fetch-site": "same-site"},
    {"x-standpipe-client": "web/1", "sec-fetch-site": "none"},
    {"x-standpipe-client": "web/1", "origin": "https://evil.example"},
    {"x-standpipe-client": "web/1", "origin": "null"},
    {"x-standpipe-client": "web/1", "origin": "http://127.0.0.1:1"},
    {"x-standpipe-client": "web/1", "origin": "http://127.0.0.1:99999999"},
    {"x-standpipe-client": "web/1", "origin": "https://evil.example", "sec-fetch-site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_g5_a_cookie_from_elsewhere_is_refused(
    city: Town, browser: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    await sign_in(city, browser)
    response = await post(city, VIEWER, headers, browser)
    assert response.status_code == 403
    assert response.json()["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    assert NEW not in response.text
    by_get = await browser.get(f"{city.api}/graphql", params={"query": VIEWER}, headers=headers)
    assert by_get.status_code == 403
    # The refresh token alone: nothing is carried on, and nothing ended.
    browser.cookies.delete(ACCESS)
    for query, field in ((REFRESH_BARE, "sessionRefresh"), (SIGN_OUT, "signOut")):
        refused = await post(city, query, headers, browser)
        assert refused.json()["data"][field]["userErrors"][0]["code"] == "FORBIDDEN"
        assert "set-cookie" not in refused.headers
    assert await city.count(CustomerSession, CustomerSession.ended_at.is_(None)) == 1


async def test_g5_old_browsers_are_known_by_their_origin(city: Town, browser: httpx.AsyncClient) -> None:
    headers = {"x-standpipe-client": "web/1", "origin": city.api}
    await sign_in(city, browser, headers)
    assert (await ask(city, browser, headers=headers))["viewer"]["phone"] == NEW


@pytest.mark.parametrize("headers", FOREIGN)
async def test_g5_nobody_elses_page_signs_a_browser_in(
    city: Town, browser: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await sign_in(city, browser, headers)
    assert response.json()["data"]["signInFinish"]["userErrors"][0]["code"] == "FORBIDDEN"
    assert not set(browser.cookies)
    assert await city.count(CustomerSession) == 0


async def test_g5_forms_and_plain_text_with_a_cookie_do_nothing(city: Town, browser: httpx.AsyncClient) -> None:
    await sign_in(city, browser)
    body = json.dumps({"query": SIGN_OUT})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = await browser.post(f"{city.api}/graphql", content=body, headers=OWN | {"content-type": kind})
        assert 400 <= response.status_code < 500
    by_get = await browser.get(f"{city.api}/graphql", params={"query": SIGN_OUT}, headers=OWN)
    assert 400 <= by_get.status_code < 500
    assert await city.count(CustomerSession, CustomerSession.ended_at.is_(None)) == 1


async def test_a_person_who_opens_the_address_is_no_customer(city: Town, browser: httpx.AsyncClient) -> None:
    await sign_in(city, browser)
    headers = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none"}
    response = await browser.get(f"{city.api}/graphql", params={"query": VIEWER}, headers=headers)
    assert response.json()["data"] == {"viewer": None}


async def test_a_header_goes_before_the_cookie_and_needs_no_page(city: Town, browser: httpx.AsyncClient) -> None:
    await sign_in(city, browser)
    seen = await ask(city, browser, headers={"authorization": f"Bearer {city.home.token}"})
    assert seen["viewer"]["phone"] != NEW
    bad = await post(city, VIEWER, OWN | {"authorization": "Bearer garbage"}, browser)
    assert bad.status_code == 401
    # Nor does it end, or carry on, the cookie's session.
    for query in (SIGN_OUT, REFRESH_BARE):
        answer = await post(city, query, {"authorization": f"Bearer {city.home.token}"}, browser)
        assert "set-cookie" not in answer.headers
    assert (await ask(city, browser))["viewer"]["phone"] == NEW


async def socket_with(town: Town, cookie: str, headers: dict[str, str]) -> dict[str, Any]:
    """What a WebSocket with this cookie is first told."""
    address = town.api.replace("http", "ws", 1) + "/graphql"
    dressed = {"cookie": f"{ACCESS}={cookie}"} | headers
    async with connect(address, subprotocols=["graphql-transport-ws"], additional_headers=dressed) as socket:
        await socket.send(json.dumps({"type": "connection_init"}))
        message: dict[str, Any] = json.loads(await socket.recv())
        return message


async def test_g8_a_socket_takes_the_cookie_of_a_page_of_ours_alone(city: Town, browser: httpx.AsyncClient) -> None:
    await sign_in(city, browser)
    cookie = browser.cookies[ACCESS]
    assert (await socket_with(city, cookie, {"origin": city.api}))["type"] == "connection_ack"
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}):
        with pytest.raises(InvalidStatus):
            await socket_with(city, cookie, headers)
    for headers in ({}, {"origin": city.api, "sec-fetch-site": "cross-site"}):
        with pytest.raises(ConnectionClosed) as closed:
            await socket_with(city, cookie, headers)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403
