"""Who makes tokens: the software issuer, one elsewhere that loses answers, and an operator at the command line."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from standpipe.customers.operators import add_operator
from standpipe.db.engine import Sessions
from standpipe.errors import InvalidInputError
from standpipe.meters import keypads
from standpipe.meters.models import CreditGrant
from standpipe.simulator.fake_hsm import HsmState, make_app
from standpipe.simulator.meter_keypad import decoder_key, type_token
from standpipe.simulator.meter_model import fresh_state
from standpipe.sts.keys import KeyTerms, pan_of
from standpipe.sts.tokens import Token
from standpipe.vending.issuing import issue_tokens
from standpipe.vending.models import KeypadToken
from standpipe.vending.offers import offer_due
from standpipe.vending.remote import RemoteIssuer
from tests.support.command import standpipe
from tests.support.loopback import loopback
from tests.support.radio import config_of
from tests.support.tokens import GROUP, TERMS, VENDING_KEYS, give_keypad, issuer, keypad_config
from tests.support.town import Town
from tests.support.volume import UNIT_ML, volume_town

KEYS = {f"{group}:{revision}": key for (group, revision), key in VENDING_KEYS.items()}
HSM_KEY = "k" * 40


@pytest.fixture
async def home(town: Town) -> Town:
    """A town whose meter has a keypad, and a top-up that waits for the radio."""
    made = await volume_town(town)
    await give_keypad(made.sessions, made.home.serial)
    await made.pay_by_card("50.00")
    await made.poll()
    await made.drain()
    return made


async def offered(town: Town) -> None:
    anchor = town.settings.clock.anchor_at + timedelta(hours=3)
    clock = town.settings.model_copy(update={"clock_anchor_at": anchor}).clock
    assert await offer_due(town.sessions, clock, timedelta(hours=2)) == 1


async def tokens(sessions: Sessions) -> list[KeypadToken]:
    async with sessions() as session:
        return list(await session.scalars(select(KeypadToken).order_by(KeypadToken.id)))


async def due_now(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(update(KeypadToken).values(due_at=func.now()))


async def test_an_issuer_that_loses_its_answer_gives_the_same_token_when_asked_again(home: Town) -> None:
    hsm = HsmState(dict(KEYS), withhold=1)
    await offered(home)
    async with loopback(make_app(hsm, api_key=HSM_KEY)) as url:
        remote = RemoteIssuer(url=url, api_key=HSM_KEY)
        assert await issue_tokens(home.sessions, remote, home.settings.clock) == 1
        (token,) = await tokens(home.sessions)
        assert (token.digits, token.dead_at) == (None, None)
        await due_now(home.sessions)
        await issue_tokens(home.sessions, remote, home.settings.clock)
        await remote.close()
    (token,) = await tokens(home.sessions)
    assert hsm.asked == [token.id, token.id]
    assert token.digits == hsm.made[token.id][1]
    assert token.digits is not None
    found = Token.from_digits(token.digits[0], decoder_key(keypad_config()))
    assert (found.tid, found.field) == (token.tid, 8)


@pytest.mark.parametrize("trouble", ["wrong key", "no such vending key", "nobody there"])
async def test_a_token_that_cannot_be_had_waits_for_a_person_and_the_radio_goes_on(home: Town, trouble: str) -> None:
    await offered(home)
    hsm = HsmState({} if trouble == "no such vending key" else dict(KEYS))
    async with loopback(make_app(hsm, api_key=HSM_KEY)) as url:
        at = "http://127.0.0.1:9" if trouble == "nobody there" else url
        remote = RemoteIssuer(url=at, api_key="other" if trouble == "wrong key" else HSM_KEY, timeout_s=2)
        for _ in range(13):
            await due_now(home.sessions)
            await issue_tokens(home.sessions, remote, home.settings.clock)
        await remote.close()
    (token,) = await tokens(home.sessions)
    assert (token.digits, token.dead_at is None) == (None, False)
    assert token.last_error
    async with home.sessions() as session:
        grant = (await session.scalars(select(CreditGrant))).one()
    assert (grant.token_issued_at, grant.volume_ml) == (None, 8 * UNIT_ML)


async def test_what_the_radio_delivered_meanwhile_needs_no_token(home: Town) -> None:
    await offered(home)
    async with home.sessions.begin() as session:
        await session.execute(update(CreditGrant).values(confirmed_at=home.settings.clock.now()))
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    (token,) = await tokens(home.sessions)
    assert (token.digits, token.due_at, token.dead_at) == (None, None, None)


async def test_meters_that_can_have_no_keypad_are_refused(home: Town, town: Town) -> None:
    async def enrol(serial: str, terms: KeyTerms) -> None:
        async with home.sessions.begin() as session:
            await keypads.enrol(session, operator="amina", serial=serial, terms=terms, now=home.settings.clock.now())

    other = KeyTerms(pan=pan_of("600727", "11"), supply_group=GROUP)
    with pytest.raises(InvalidInputError, match="VOLUME"):
        await enrol(town.home.serial, other)
    with pytest.raises(InvalidInputError, match="key-change"):
        await enrol(home.home.serial, other)
    await enrol(home.home.serial, TERMS)
    second = await volume_town(town)
    with pytest.raises(InvalidInputError, match="another meter's"):
        await enrol(second.home.serial, TERMS)


async def test_an_operator_asks_for_tokens_and_changes_the_key(home: Town, database_url: str, tmp_path: Path) -> None:
    async with home.sessions.begin() as session:
        key = await add_operator(session, "amina", by="root")
    serial = home.home.serial

    def run(*words: str, code: int = 0) -> str:
        done = standpipe(database_url, tmp_path, "token", *words, operator_key=key)
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout + done.stderr

    def listed() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(run("list", serial, "--json"))
        return found

    run("clear-tamper", serial)
    run("key-change", serial, "--revision", "2")
    assert [row["state"] for row in listed()] == ["WAITING", "WAITING"]
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    config = config_of(home.home, currency="VOL", blocks=(), keypad=keypad_config())
    meter = fresh_state(config)
    meter.is_tampered = True
    new_key, clear = listed()
    assert (new_key["purpose"], clear["purpose"]) == ("KEY_CHANGE", "CLEAR_TAMPER")
    assert type_token(config, meter, clear["digits"]) == "ACCEPTED"
    assert meter.is_tampered is False
    shown = [type_token(config, meter, part) for part in new_key["digits"].split(" / ")]
    assert shown == ["KEY_SECTION"] * 3 + ["KEY_CHANGED"]
    assert "revision 2" in run("key-changed", serial)
    # Under the new key: the credit that waits, and the one before is no token of this meter any more.
    await offered(home)
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    credit = listed()[0]
    assert type_token(config, meter, credit["digits"]) == "ACCEPTED"
    assert meter.credit_remaining_minor == 8 * UNIT_ML
    assert type_token(config, meter, clear["digits"]) == "REJECTED"
    assert "--sure" in run("clear-credit", serial, code=2)
    run("clear-credit", serial, "--sure")
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    assert type_token(config, meter, listed()[0]["digits"]) == "ACCEPTED"
    assert meter.credit_remaining_minor == 0
    assert "no meter" in run("list", "nobody", code=1)
