"""Who makes tokens: the software issuer, one elsewhere that loses answers, and an operator at the command line."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from standpipe.meter_gateway.prepaid import StatusFrame
from standpipe.meter_gateway.translation import status_report_of
from standpipe.meters import keypads
from standpipe.meters.commands import lock_meter
from standpipe.meters.credit import grant_volume
from standpipe.meters.models import CreditGrant, WalletKind
from standpipe.meters.reports import MeterReport
from standpipe.notifications.models import Alert
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.sts.amounts import MAX_EXACT_UNITS
from standpipe.sts.keys import KeyTerms, pan_of
from standpipe.sts.tokens import Token
from standpipe.utilities.operators import add_operator
from standpipe.vending.issuer import IssuerRefusedError, TokenRequest
from standpipe.vending.issuing import issue_tokens
from standpipe.vending.management import key_changed, request_management, try_again, withdraw
from standpipe.vending.models import KeypadToken, Purpose
from standpipe.vending.offers import offer_due
from standpipe.vending.remote import RemoteIssuer
from standpipe.vending.views import grouped
from standpipe_demo.simulator.fake_hsm import HsmState, make_app
from standpipe_demo.simulator.meter_keypad import decoder_key, type_token
from standpipe_demo.simulator.meter_model import MeterConfig, MeterState, fresh_state
from tests.support.command import standpipe
from tests.support.delivery import next_to_send
from tests.support.loopback import loopback
from tests.support.radio import config_of
from tests.support.rating import take_report
from tests.support.tokens import GROUP, TERMS, VENDING_KEYS, give_keypad, issuer, keypad_config
from tests.support.town import Town
from tests.support.volume import UNIT_ML, refunded, volume_town

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
    assert hsm.asked == [f"{token.id}:1"] * 2
    assert token.digits == hsm.made[f"{token.id}:1"][1]
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
    assert (grant.token_issued_at, grant.amount) == (None, 8 * UNIT_ML)


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
    assert meter.credit_remaining == 8 * UNIT_ML
    assert type_token(config, meter, clear["digits"]) == "REJECTED"
    assert "--sure" in run("clear-credit", serial, code=2)
    run("clear-credit", serial, "--sure")
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    assert type_token(config, meter, listed()[0]["digits"]) == "ACCEPTED"
    assert meter.credit_remaining == 0
    assert "No meter has the serial" in run("list", "nobody", code=1)


async def keypad_meter(home: Town) -> tuple[MeterConfig, MeterState]:
    config = config_of(home.home, currency="VOL", blocks=(), keypad=keypad_config())
    return config, fresh_state(config)


async def test_a_token_offered_before_a_key_change_is_made_anew_under_the_new_key(home: Town) -> None:
    await offered(home)
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    (old,) = await tokens(home.sessions)
    await home.drain()
    more = {"operator": "amina", "serial": home.home.serial}
    async with home.sessions.begin() as session:
        now = home.settings.clock.now()
        await request_management(session, purpose=Purpose.KEY_CHANGE, now=now, key_revision=2, **more)
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    config, meter = await keypad_meter(home)
    change = next(token for token in await tokens(home.sessions) if token.purpose == "KEY_CHANGE")
    for part in change.digits or []:
        type_token(config, meter, part)
    assert type_token(config, meter, (old.digits or [""])[0]) == "REJECTED"
    async with home.sessions.begin() as session:
        assert await key_changed(session, **more) == 2
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    new = next(token for token in await tokens(home.sessions) if token.purpose == "CREDIT")
    assert (new.id, new.tid) == (old.id, old.tid)
    assert type_token(config, meter, (new.digits or [""])[0]) == "ACCEPTED"
    assert type_token(config, meter, (new.digits or [""])[0]) == "USED"
    await home.drain()
    async with home.sessions() as session:
        told = [row.params["token"] for row in await session.scalars(select(Alert)) if "token" in row.params]
    assert told == [grouped(digits) for digits in (*(old.digits or []), *(new.digits or []))]


async def test_a_mistyped_revision_makes_room_for_the_right_one(home: Town) -> None:
    async def change(revision: int) -> None:
        async with home.sessions.begin() as session:
            await request_management(
                session, operator="amina", serial=home.home.serial, purpose=Purpose.KEY_CHANGE,
                now=home.settings.clock.now(), key_revision=revision,
            )  # fmt: skip

    await change(9)
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    await change(2)
    await issue_tokens(home.sessions, issuer(), home.settings.clock)
    wrong, right = await tokens(home.sessions)
    assert (wrong.digits, wrong.due_at) == (None, None)
    assert len(right.digits or []) == 4
    with pytest.raises(InvalidInputError, match="on its way"):
        await change(3)


async def test_a_token_that_could_not_be_had_is_asked_for_again_or_withdrawn(home: Town) -> None:
    await offered(home)
    hsm = HsmState({})
    async with loopback(make_app(hsm, api_key=HSM_KEY)) as url:
        remote = RemoteIssuer(url=url, api_key=HSM_KEY)
        for _ in range(13):
            await due_now(home.sessions)
            await issue_tokens(home.sessions, remote, home.settings.clock)
        (token,) = await tokens(home.sessions)
        hsm.vending_keys.update(KEYS)
        async with home.sessions.begin() as session:
            await try_again(session, operator="amina", token_id=token.id)
        hsm.vending_keys.clear()
        for _ in range(13):
            await due_now(home.sessions)
            await issue_tokens(home.sessions, remote, home.settings.clock)
        await remote.close()
    top_up_id = (await grant_of(home)).source_id
    with pytest.raises(InvalidInputError, match="may hold this water"):
        await refunded(home, top_up_id, 4_640)
    async with home.sessions.begin() as session:
        await withdraw(session, operator="amina", token_id=token.id, note="the issuer has made none")
    anchor = home.settings.clock.anchor_at + timedelta(hours=3)
    later = home.settings.model_copy(update={"clock_anchor_at": anchor}).clock
    assert await offer_due(home.sessions, later, timedelta(hours=2)) == 0
    assert await refunded(home, top_up_id, 4_640) == "READY"


async def grant_of(home: Town) -> CreditGrant:
    async with home.sessions() as session:
        return (await session.scalars(select(CreditGrant))).first() or pytest.fail("no credit")


async def test_words_of_an_issuer_that_no_column_holds_stop_nothing(home: Town) -> None:
    await offered(home)

    class Rude:
        name = "rude"

        async def issue(self, request: TokenRequest) -> tuple[str, ...]:
            raise IssuerRefusedError("bad\0key")

        async def close(self) -> None:
            """Nothing is open."""

    await issue_tokens(home.sessions, Rude(), home.settings.clock)
    (token,) = await tokens(home.sessions)
    assert "bad\N{REPLACEMENT CHARACTER}key" in (token.last_error or "")


async def test_what_a_token_cannot_say_exactly_goes_by_radio_alone(home: Town) -> None:
    async with home.sessions.begin() as session:
        meter = await lock_meter(session, home.home.meter_id)
        now = home.settings.clock.now()
        for key, units in (("most", MAX_EXACT_UNITS), ("more", MAX_EXACT_UNITS + 1)):
            await grant_volume(session, meter, credit_key=key, source_id=key, volume_ml=units * UNIT_ML, now=now)
    anchor = home.settings.clock.anchor_at + timedelta(hours=3)
    clock = home.settings.model_copy(update={"clock_anchor_at": anchor}).clock
    await offer_due(home.sessions, clock, timedelta(hours=2))
    assert {token.credit_key for token in await tokens(home.sessions)} >= {"most"}
    assert "more" not in {token.credit_key for token in await tokens(home.sessions)}


async def test_what_was_on_its_way_when_a_keypad_was_enrolled_is_sent_with_a_mark_and_can_be_typed(town: Town) -> None:
    made = await volume_town(town)
    await made.pay_by_card("50.00")
    await made.poll()
    await give_keypad(made.sessions, made.home.serial)
    async with made.sessions.begin() as session:
        command = await next_to_send(session, made.home.meter_id, made.settings.clock.now())
    assert command is not None
    assert (command.value, command.tid_mark) == (8 * UNIT_ML, (await grant_of(made)).tid)
    await offered(made)


@pytest.mark.parametrize("more", [{"base_year": 1993}, {"key_expiry": 3}])
async def test_terms_under_which_no_token_would_work_are_refused(town: Town, more: dict[str, int]) -> None:
    made = await volume_town(town)
    with pytest.raises(InvalidInputError, match=r"run out|expired"):
        await give_keypad(made.sessions, made.home.serial, replace(TERMS, **more))  # type: ignore[arg-type]


async def test_a_keypad_meter_that_does_not_say_what_was_typed_is_not_believed(home: Town) -> None:
    frame = StatusFrame(1, 0, 0, 0, 0, 8 * UNIT_ML, 8 * UNIT_ML, 0, int(home.settings.clock.now().timestamp()))
    report = MeterReport(home.home.meter_id, home.settings.clock.now(), (), status_report_of(frame, WalletKind.VOLUME))
    async with home.sessions.begin() as session:
        with pytest.raises(InvalidInputError, match="how much was typed"):
            await take_report(session, report, home.settings.clock.now())
