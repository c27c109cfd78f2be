"""Pushes by the real firebase-admin against a fake FCM on a loopback port."""

import asyncio
import json

import httpx
import pytest

from standpipe.notifications.push import PushMessage, PushSender
from standpipe.platform.errors import SettingsError
from standpipe_demo.simulator.fake_phone import make_app, write_service_account
from tests.support.loopback import loopback


def _message(token: str | None = "token-1", fid: str | None = None) -> PushMessage:  # noqa: S107 - no password.
    return PushMessage(
        token, fid, "Water is running low", "Home: KSh 12 left", "LOW_BALANCE:mtr_1", {"kind": "LOW_BALANCE"}
    )


@pytest.fixture
async def phone(tmp_path):
    """The fake phone's URL, its app, and a service account that it trusts."""
    account = tmp_path / "service-account.json"
    write_service_account(account, "http://127.0.0.1:1/token")
    app = make_app(account)
    async with loopback(app) as url:
        account.write_text(json.dumps(json.loads(account.read_text()) | {"token_uri": f"{url}/token"}))
        yield url, app, account


@pytest.fixture
async def sender(phone):
    url, _, account = phone
    sender = PushSender(account, url)
    yield sender
    await sender.close()


async def _messages(url: str) -> list[dict]:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{url}/messages")).json()["messages"]


async def test_a_push_arrives_with_its_collapse_key(sender, phone):
    outcome = await sender.send(_message())
    assert outcome.message_id is not None
    assert outcome.message_id.startswith("projects/standpipe-demo/messages/")
    (shown,) = await _messages(phone[0])
    assert (shown["to"], shown["collapse_key"], shown["body"]) == ("token-1", "LOW_BALANCE:mtr_1", "Home: KSh 12 left")
    assert shown["data"] == {"kind": "LOW_BALANCE"}


async def test_a_push_reaches_an_installation_id(sender, phone):
    assert (await sender.send(_message(None, "fid-7"))).message_id is not None
    assert (await _messages(phone[0]))[0]["to"] == "fid-7"


async def test_n6_an_unregistered_token_is_gone(sender):
    outcome = await sender.send(_message("token-gone"))
    assert outcome.address_gone
    assert (outcome.message_id, outcome.retry_after_s) == (None, None)


async def test_n7_a_429_waits_as_long_as_google_says(sender, phone):
    async with httpx.AsyncClient() as http:
        await http.post(f"{phone[0]}/_control/throttle?seconds=77")
    outcome = await sender.send(_message())
    assert (outcome.message_id, outcome.retry_after_s, outcome.address_gone) == (None, 77.0, False)
    assert (await sender.send(_message())).message_id is not None


async def test_n7_a_failed_grant_is_tried_again_later(phone, tmp_path):
    url, _, account = phone
    dead = tmp_path / "dead.json"
    dead.write_text(json.dumps(json.loads(account.read_text()) | {"token_uri": "http://127.0.0.1:1/token"}))
    sender = PushSender(dead, url)
    outcomes = await asyncio.gather(*(sender.send(_message(f"token-{n}")) for n in range(3)))
    await sender.close()
    assert all(outcome.retry_after_s and not outcome.address_gone for outcome in outcomes)


async def test_n7_a_503_is_one_attempt_that_we_repeat(sender, phone):
    _, app, _ = phone
    app.state.phone.unavailable = 3
    outcome = await sender.send(_message())
    assert outcome.message_id is None
    assert outcome.retry_after_s is not None
    assert app.state.phone.unavailable == 2, "the SDK tried again inside one call"


async def test_a_token_that_google_no_longer_takes_is_renewed_without_blocking_the_loop(sender, phone):
    _, app, _ = phone
    assert (await sender.send(_message())).message_id is not None
    app.state.phone.tokens.clear()
    # The fake shares this loop: a renewal that blocked it could never be answered.
    assert (await asyncio.wait_for(sender.send(_message()), 5)).message_id is not None


async def test_a_credentials_file_that_is_none_is_a_settings_error(tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    with pytest.raises(SettingsError):
        PushSender(wrong, "http://127.0.0.1:1")
