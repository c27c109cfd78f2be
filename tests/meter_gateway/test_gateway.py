"""The gateway over real UDP: the real server, real PostgreSQL, and a simulated meter that sleeps and loses answers."""

import asyncio
import random
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiocoap
import pytest
from sqlalchemy import select

from standpipe.meter_gateway.lwm2m.server import run_gateway
from standpipe.meter_gateway.lwm2m.tables import MeterRegistration
from standpipe.meters.models import CommandKind, CreditGrant
from standpipe.meters.reports import CommandResult, MeterReport, StatusReport, ValveReason, ValveState
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, SettingsError
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.readings.models import Reading
from standpipe_demo.simulator.meter_device import SimulatedMeter
from tests.support.delivery import next_to_send
from tests.support.radio import OBJECT_ID, Field, Radio, exchange, make_field, make_meter
from tests.support.rating import rate_due, take_report
from tests.support.town import changed, make_settings, until


@pytest.mark.parametrize("report_format", ["senml-cbor", "tlv"])
async def test_a_waking_tells_the_kept_hours_takes_the_credit_and_confirms_it(
    database_url: str, sessions: Sessions, tmp_path: Path, report_format: str
) -> None:
    async with make_field(database_url, sessions, tmp_path, report_format=report_format, credit_remaining=100) as field:
        await field.grant(5_000)
        assert await field.meter.wake()
        assert await field.statuses() == [("CREDIT", "CONFIRMED")]
        state = await field.state()
        assert state is not None
        assert state.credit_accepted == field.meter.state.credit_accepted == 5_000
        assert state.valve == "OPEN"
        assert field.meter.state.unsent == []
        await rate_due(sessions)
        async with sessions() as session:
            readings = (await session.scalars(select(Reading).order_by(Reading.read_at))).all()
            grant = (await session.scalars(select(CreditGrant))).one()
        assert len([reading for reading in readings if reading.read_at.minute == 0]) >= 5
        assert grant.sent_at is not None
        assert grant.confirmed_at is not None


async def test_m1_answer_lost_credits_once(field: Field) -> None:
    await field.grant(5_000)
    # Nor is anything answered after it in this waking: the meter would say at once what it has.
    field.meter.fall_silent_at_command()
    while not field.meter.state.credit_accepted:
        # On a busy machine it may fall asleep before the command is out.
        await field.meter.wake()
    await until(lambda: _has(field, ("CREDIT", "UNKNOWN")))
    assert field.meter.state.credit_accepted == 5_000
    await field.meter.wake()
    assert await field.statuses() == [("CREDIT", "CONFIRMED")]
    assert field.meter.state.credit_accepted == 5_000


async def test_m1_the_command_itself_lost_is_sent_again_with_the_same_number(field: Field) -> None:
    await field.grant(5_000)
    # Marked as sent by a gateway that died before the datagram left.
    async with field.sessions.begin() as session:
        sent = await next_to_send(session, field.home.meter_id, datetime.now(UTC))
    assert sent is not None
    await field.meter.wake()
    assert await field.statuses() == [("CREDIT", "CONFIRMED")]
    assert field.meter.state.last_sequence == sent.sequence
    assert field.meter.state.credit_accepted == 5_000


async def test_m2_gateway_gone_between_send_and_answer(field: Field) -> None:
    await field.grant(5_000)
    field.meter.lose_answers_to("command", 1)
    waking = asyncio.create_task(field.meter.wake())
    await until(lambda: _has(field, ("CREDIT", "SENT")))
    await field.stop()
    await waking
    await field.start()

    async def confirmed() -> bool:
        # A gateway that has only just started may be slower than one waking is long: the meter wakes again.
        await field.meter.wake()
        return await field.statuses() == [("CREDIT", "CONFIRMED")]

    await until(confirmed)
    assert field.meter.state.credit_accepted == 5_000


async def test_m3_a_meter_that_restarts_keeps_its_credit_and_its_numbers(field: Field) -> None:
    await field.grant(5_000)
    await field.meter.wake()
    field.meter.reboot()
    await field.grant(700, "k2")
    await field.meter.wake()
    assert field.meter.state.credit_accepted == 5_700
    assert await field.statuses() == [("CREDIT", "CONFIRMED"), ("CREDIT", "CONFIRMED")]


async def test_m4_an_unknown_endpoint_is_refused_and_a_statement_of_another_key_is_not_believed(
    plain: Field, tmp_path: Path
) -> None:
    stranger = SimulatedMeter(
        replace(plain.meter.config, endpoint="NOBODY"),
        store_dir=tmp_path / "other",
        gateway=("127.0.0.1", plain.settings.coap.port),
        object_id=OBJECT_ID,
        clock=Clock(),
        awake_s=0.1,
    )
    assert not await stranger.wake()
    await plain.grant(5_000)
    # On plain UDP anybody may register in the meter's name; what they cannot do is confirm its credit.
    impostor = make_meter(plain.settings, plain.home, tmp_path / "impostor", prepaid_key_hex=bytes(31).hex())
    await impostor.wake()
    assert await plain.statuses() == [("CREDIT", "ACKNOWLEDGED")]
    state = await plain.state()
    assert state is not None
    assert state.stated_at is None
    await plain.meter.wake()
    assert await plain.statuses() == [("CREDIT", "CONFIRMED")]


async def test_m3_a_meter_that_lost_its_memory_is_not_given_all_its_credit_again(field: Field, tmp_path: Path) -> None:
    await field.grant(5_000)
    await field.meter.wake()
    assert await field.statuses() == [("CREDIT", "CONFIRMED")]
    await field.grant(1_000, "k2")
    wiped = make_meter(
        field.settings, field.home, tmp_path / "wiped", dtls_key_hex=field.meter.config.dtls_key_hex,
        credit_accepted=0, credit_remaining=0, last_sequence=0, report_counter=0,
    )  # fmt: skip
    for _ in range(8):  # Its count of statements passes the old one's on the way.
        await wiped.wake()
    assert wiped.state.credit_accepted == 0
    assert (await field.statuses())[-1] == ("CREDIT", "QUEUED")
    state = await field.state()
    assert state is not None
    assert state.credit_accepted == 5_000
    # The old memory back, all is as it was.
    await field.meter.wake()
    assert field.meter.state.credit_accepted == 6_000


async def test_m5_a_replayed_statement_is_refused(field: Field) -> None:
    await field.meter.wake()
    state = await field.state()
    assert state is not None
    old = StatusReport(
        report_counter=state.report_counter - 1,
        last_sequence=9,
        result=CommandResult.DONE,
        credit_accepted=10**6,
        credit_remaining=10**6,
        register_ml=0,
        valve=ValveState.OPEN,
        valve_reason=ValveReason.NORMAL,
        stated_at=datetime.now(UTC),
    )
    async with field.sessions() as session:
        with pytest.raises(InvalidInputError):
            await take_report(session, MeterReport(field.home.meter_id, datetime.now(UTC), (), old), datetime.now(UTC))
    # The same number again is the same statement: it says nothing new.
    async with field.sessions.begin() as session:
        same = replace(old, report_counter=state.report_counter)
        await take_report(session, MeterReport(field.home.meter_id, datetime.now(UTC), (), same), datetime.now(UTC))
    after = await field.state()
    assert after is not None
    assert after.credit_accepted == state.credit_accepted


async def test_m7_garbage_datagrams_while_a_healthy_meter_is_served(plain: Field) -> None:
    await plain.grant(5_000)
    chance = random.Random(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
        target = ("127.0.0.1", plain.settings.coap.port)

        async def bombard() -> None:
            for number in range(3_000):
                noise.sendto(chance.randbytes(chance.randint(0, 200)), target)
                if number % 100 == 0:
                    await asyncio.sleep(0)

        served, _ = await asyncio.gather(plain.meter.wake(), bombard())
    assert served or await plain.meter.wake()
    assert await plain.statuses() == [("CREDIT", "CONFIRMED")]


async def test_m8_an_unauthenticated_request_gets_no_more_than_three_times_its_size(plain: Field) -> None:
    empty = bytes.fromhex("40010001")
    core = bytes.fromhex("4001000b") + b"\xbb.well-known\x04core"
    bare = bytes.fromhex("4002000c") + b"\xb2rd"
    unknown = bytes.fromhex("4002000d") + b"\xb2rd\x4bep=nobody12"
    push = bytes.fromhex("4002000e") + b"\xb2dp\x11\x70\xff\x80"
    for request in (empty, core, bare, unknown, push):
        reply = await exchange(plain.settings.coap.port, request)
        assert len(reply) <= 3 * len(request), request


async def test_m10_a_top_up_supersedes_a_waiting_close(field: Field) -> None:
    await field.order(CommandKind.VALVE, 1)
    await field.grant(5_000)
    await field.meter.wake()
    assert await field.statuses() == [("VALVE", "SUPERSEDED"), ("CREDIT", "CONFIRMED")]
    assert field.meter.state.valve == 0


async def test_valve_and_threshold_commands_are_carried_out_in_order(field: Field) -> None:
    await field.grant(5_000)
    await field.order(CommandKind.THRESHOLD, 750)
    await field.order(CommandKind.VALVE, 1)
    await field.meter.wake()
    assert [status for _, status in await field.statuses()] == ["CONFIRMED"] * 3
    assert (field.meter.state.valve, field.meter.state.threshold_minor) == (1, 750)


async def test_a_valve_command_past_its_deadline_is_not_carried_out(field: Field) -> None:
    await field.order(CommandKind.VALVE, 1, deadline_s=-1)
    await field.meter.wake()
    assert await field.statuses() == [("VALVE", "EXPIRED")]


async def test_two_top_ups_while_the_meter_sleeps_are_one_command_and_both_credits(field: Field) -> None:
    await field.grant(5_000)
    await field.grant(700, "k2")
    await field.meter.wake()
    assert await field.statuses() == [("CREDIT", "SUPERSEDED"), ("CREDIT", "CONFIRMED")]
    assert field.meter.state.credit_accepted == 5_700
    async with field.sessions() as session:
        assert all(grant.confirmed_at for grant in await session.scalars(select(CreditGrant)))


async def test_a_command_that_comes_while_the_meter_is_awake_goes_out_at_once(field: Field) -> None:
    assert isinstance(field.meter, Radio)
    field.meter.stays_awake = True
    waking = asyncio.create_task(field.meter.wake())
    await until(lambda: _registered(field))
    await field.grant(5_000)
    await until(lambda: _has(field, ("CREDIT", "CONFIRMED")))
    field.meter.stays_awake = False
    await waking


async def test_m13_an_acknowledgement_without_a_statement_is_not_delivery(field: Field) -> None:
    await field.grant(5_000)
    await field.meter.wake()
    await field.grant(700, "k2")
    # The meter acknowledges the command, and its statement never arrives.
    field.meter.lose_statements_after_command()
    await field.meter.wake()
    # Written down when the status report that should have followed is given up.
    await until(lambda: _has_last(field, ("CREDIT", "ACKNOWLEDGED")))
    async with field.sessions() as session:
        grant = (await session.scalars(select(CreditGrant).where(CreditGrant.credit_key == "k2"))).one()
    assert grant.confirmed_at is None
    await field.meter.wake()
    await until(lambda: _has_last(field, ("CREDIT", "CONFIRMED")))


async def test_m17_another_port_is_served_after_the_next_update(field: Field) -> None:
    await field.meter.wake()
    before = await _remote(field)
    field.meter.move_to_another_port()
    await field.grant(5_000)
    await field.meter.wake()
    assert await _remote(field) != before
    assert await field.statuses() == [("CREDIT", "CONFIRMED")]


async def test_registration_queries_as_clients_write_them(plain: Field) -> None:
    context = await aiocoap.Context.create_client_context(transports=["udp6"])
    base = f"coap://127.0.0.1:{plain.settings.coap.port}/rd"
    try:
        for query, queue_mode in (("b=U", False), ("b=UQ", True), ("b=U&Q", True), ("Q", True)):
            request = aiocoap.Message(code=aiocoap.POST, uri=f"{base}?ep={plain.home.serial}&lt=300&{query}")
            response = await context.request(request).response
            assert response.code == aiocoap.CREATED
            async with plain.sessions() as session:
                registration = (await session.scalars(select(MeterRegistration))).one()
            assert registration.queue_mode is queue_mode
            assert response.opt.location_path == ("rd", registration.location)
        for query in ("", "ep=", f"ep={plain.home.serial}&lt=-1", f"ep={plain.home.serial}&lt=x"):
            response = await context.request(aiocoap.Message(code=aiocoap.POST, uri=f"{base}?{query}")).response
            assert not response.code.is_successful()
        location = f"{base}/{registration.location}"
        for code, expected in ((aiocoap.POST, "2.04"), (aiocoap.DELETE, "2.02"), (aiocoap.POST, "4.04")):
            response = await context.request(aiocoap.Message(code=code, uri=location)).response
            assert response.code.dotted == expected
    finally:
        await context.shutdown()


async def test_without_a_transport_or_a_free_port_the_gateway_says_so(
    field: Field, database_url: str, sessions: Sessions
) -> None:
    listener = Listener(database_url, COMMANDS)
    for settings, words in (
        (make_settings(coap_dtls=False), "STANDPIPE_COAP_DTLS and STANDPIPE_COAP_PLAIN_UDP"),
        (field.settings, "STANDPIPE_COAP_DTLS_PORT"),
        (changed(field.settings, coap_dtls=False), "STANDPIPE_COAP_PORT"),
    ):
        with pytest.raises(SettingsError, match=words):
            await run_gateway(settings, sessions, listener)


async def _has(field: Field, wanted: tuple[str, str]) -> bool:
    return wanted in await field.statuses()


async def _has_last(field: Field, wanted: tuple[str, str]) -> bool:
    return (await field.statuses())[-1] == wanted


async def _registered(field: Field) -> bool:
    state = await field.state()
    return state is not None and state.stated_at is not None


async def _remote(field: Field) -> str:
    async with field.sessions() as session:
        return (await session.scalars(select(MeterRegistration.remote))).one()
