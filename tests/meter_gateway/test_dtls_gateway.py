"""LwM2M over DTLS at the gateway's front door: who may speak for whom, and what an old session can still do."""

import asyncio
import random
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest
from sqlalchemy import select

from standpipe.meter_gateway.lwm2m import registrations
from standpipe.meter_gateway.lwm2m.tables import MeterRegistration
from standpipe.meters import credit, models
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import MeterCommand
from standpipe.platform.database import Sessions, engine_of
from standpipe.readings.models import Reading
from tests.meter_gateway.test_hostile_radio import bound_client
from tests.support.database import free_port
from tests.support.dtls_meter import Meter
from tests.support.lengths import rounds
from tests.support.radio import Field, give_key, make_field, make_meter
from tests.support.rating import rate_due
from tests.support.town import DTLS_KEY, METER_SECRET, Home, make_home, until

FLOOD = rounds(600, 3_000, "CHAOS_DATAGRAMS")
"""``make chaos`` sends 100,000."""


async def another_home(field: Field) -> Home:
    async with field.sessions() as session:
        from_home = await session.get_one(models.Meter, field.home.meter_id)
    home = await make_home(
        field.sessions,
        field.settings,
        from_home.utility_id,
        from_home.tariff_id,
        installed_at=from_home.installed_at,
        zone=from_home.time_zone,
    )
    await give_key(field.sessions, home, key=bytes(range(50, 66)))
    return home


async def test_m4_a_session_acts_for_its_own_meter_and_no_other(secure: Field, sessions: Sessions) -> None:
    other_home = await another_home(secure)
    port = secure.settings.coap.dtls_port
    own, other = Meter(port, secure.home), Meter(port, other_home, bytes(range(50, 66)))
    assert await own.handshake()
    assert await other.handshake()
    pack = cbor2.dumps([{0: "/3424/0/1", 2: 1.5}])
    # Before it has registered, a session may push for nobody, not even for whom it is.
    assert (await own.asks(aiocoap.POST, "/dp", payload=pack, content_format=112)).code == aiocoap.NOT_FOUND
    location = await own.registers()
    assert (await other.asks(aiocoap.POST, f"/rd?ep={secure.home.serial}")).code == aiocoap.FORBIDDEN
    assert (await other.asks(aiocoap.POST, location)).code == aiocoap.NOT_FOUND
    assert (await other.asks(aiocoap.DELETE, location)).code == aiocoap.NOT_FOUND
    assert (await other.asks(aiocoap.POST, "/dp", payload=pack, content_format=112)).code == aiocoap.NOT_FOUND
    # LwM2M 1.1 lets a client leave its name to the transport.
    # Some write down the port that they ask at.
    assert (await other.asks(aiocoap.POST, "/rd?lwm2m=1.1", uri_port=port)).code == aiocoap.CREATED
    assert (await other.asks(aiocoap.POST, "/dp", payload=pack, content_format=112)).code == aiocoap.CHANGED
    # A contact may hold the meter for a moment.
    await until(lambda: _rated(sessions))
    async with sessions() as session:
        kept = {row.meter_id: row.location for row in await session.scalars(select(MeterRegistration))}
        readings = (await session.scalars(select(Reading))).all()
    assert location.endswith(kept[secure.home.meter_id])
    assert {reading.meter_id for reading in readings} == {other_home.meter_id}
    for client in (own, other):
        client.close()


async def test_m4_a_meter_with_a_key_is_not_heard_without_dtls(secure: Field) -> None:
    meter = Meter(secure.settings.coap.dtls_port, secure.home)
    assert await meter.handshake()
    location = await meter.registers()
    async with bound_client(secure.settings.coap.port, free_port()) as ask:
        assert (await ask(aiocoap.POST, f"/rd?ep={secure.home.serial}")).code == aiocoap.FORBIDDEN
        assert (await ask(aiocoap.POST, location)).code == aiocoap.NOT_FOUND
        assert (await ask(aiocoap.DELETE, location)).code == aiocoap.NOT_FOUND
    meter.close()


async def test_m6_an_answer_from_an_old_session_completes_no_new_command(secure: Field, sessions: Sessions) -> None:
    port = secure.settings.coap.dtls_port
    await secure.grant(5_000)
    meter = Meter(port, secure.home)
    assert await meter.handshake()
    await meter.registers()
    command = await meter.request("/42769/0/0")
    assert await _status(sessions) == "SENT"
    old_session = meter.connection
    # The meter reboots and has another session; its answer to the old command comes only now.
    meter.restart()
    assert await meter.handshake()
    await meter.answers(command, aiocoap.CHANGED)
    meter.connection, new_session = old_session, meter.connection
    await meter.answers(command, aiocoap.CHANGED)
    meter.connection = new_session
    await meter.registers()
    # Without a statement that says "not taken" the command is not even sent again.
    await until(lambda: _is(sessions, "UNKNOWN"))
    async with sessions() as session:
        sent = (await session.scalars(select(MeterCommand))).one()
    assert (sent.acknowledged_at, sent.confirmed_at) == (None, None)
    meter.close()
    # The real meter says what it has, and takes the same number.
    assert await secure.meter.wake()
    assert await secure.statuses() == [("CREDIT", "CONFIRMED")]
    assert secure.meter.state.last_sequence == sent.sequence


async def test_m6_an_answer_from_another_meter_s_session_completes_no_command(
    secure: Field, sessions: Sessions
) -> None:
    port = secure.settings.coap.dtls_port
    other = Meter(port, await another_home(secure), bytes(range(50, 66)))
    assert await other.handshake()
    await secure.grant(5_000)
    meter = Meter(port, secure.home)
    assert await meter.handshake()
    await meter.registers()
    command = await meter.request("/42769/0/0")
    await other.answers(command, aiocoap.CHANGED)
    await until(lambda: _is(sessions, "UNKNOWN"))
    for client in (meter, other):
        client.close()


async def test_m6_a_late_answer_in_the_same_session_completes_no_new_request(secure: Field, sessions: Sessions) -> None:
    await secure.grant(5_000)
    meter = Meter(secure.settings.coap.dtls_port, secure.home)
    assert await meter.handshake()
    location = await meter.registers()
    first = await meter.request("/42769/0/0")
    await until(lambda: _is(sessions, "UNKNOWN"))
    assert (await meter.asks(aiocoap.POST, location)).code == aiocoap.CHANGED
    volume = await meter.request("/3424/0")
    await meter.answers(first, aiocoap.CHANGED)
    await meter.answers(volume, aiocoap.NOT_FOUND)
    # What is asked next, after the objects: whether the volume can be observed.
    await meter.request("/3424/0/1")
    assert await _status(sessions) == "UNKNOWN"
    meter.close()


async def test_m17_a_contact_under_way_asks_no_more_where_the_meter_has_left(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    # With the standard's patience, whoever asked at the old address would wait there for a minute and a half.
    patience = {"coap_ack_timeout_s": 20.0, "coap_max_retransmit": 4}
    async with make_field(database_url, sessions, tmp_path, dtls=True, settings=patience) as field:
        meter = Meter(field.settings.coap.dtls_port, field.home)
        assert await meter.handshake()
        await meter.registers()
        async with sessions.begin() as session:
            # Whoever grants holds the meter: the contact waits with what it has read, and then has a credit to send.
            await credit.grant(
                session, meter_id=field.home.meter_id, credit_key="k", source_id="k", amount_minor=5_000,
                now=datetime.now(UTC),
            )  # fmt: skip
            await meter.answers(await meter.request("/42769/0/1"), aiocoap.NOT_FOUND)
            waking = asyncio.create_task(field.meter.wake())
            await until(lambda: _moved(sessions, meter))
        assert await waking
        assert await field.statuses() == [("CREDIT", "CONFIRMED")]
        meter.close()


async def _moved(sessions: Sessions, meter: Meter) -> bool:
    async with sessions() as session:
        remote = (await session.scalars(select(MeterRegistration.remote))).one()
    return f":{meter.port}/" not in remote


async def test_m7_a_flood_at_the_dtls_port_while_healthy_meters_are_served(secure: Field) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    try:
        meter = Meter(secure.settings.coap.dtls_port, secure.home)
        assert await meter.handshake()
        await meter.registers()
        seeds = list(meter.sent)
        chance = random.Random(11)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            noise.connect(("127.0.0.1", secure.settings.coap.dtls_port))

            async def bombard() -> None:
                for number in range(FLOOD):
                    data = bent(chance, seeds)
                    if number % 2:
                        noise.send(data)
                    else:
                        # From the healthy meter's own address, as who forges a sender would.
                        await meter.raw(data)
                    if number % 20 == 0:
                        await asyncio.sleep(0.002)

            await bombard()
        assert (await meter.asks(aiocoap.POST, "/dp", payload=cbor2.dumps([]), content_format=112)).code.class_ == 2
        meter.close()
        await secure.grant(5_000)
        assert await secure.meter.wake()
        assert await secure.statuses() == [("CREDIT", "CONFIRMED")]
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert errors == []


def bent(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Garbage, or a datagram of a real handshake and session that somebody bent."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.randint(1, 300))
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 40))
            case _ if len(data) > 20:
                del data[at]
    return bytes(data)


async def test_m7_bent_messages_within_a_session_are_refused_and_the_session_lives(secure: Field) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    meter = Meter(secure.settings.coap.dtls_port, secure.home)
    assert await meter.handshake()
    await meter.registers()
    chance = random.Random(12)
    for number in range(300):
        await meter.send(chance.randbytes(chance.randint(1, 60)))
        # An Uri-Path that is not UTF-8.
        await meter.send(bytes.fromhex("4002") + (40_000 + number).to_bytes(2, "big") + b"\xb2\xff\xfe")
        await asyncio.sleep(0)
    assert (await meter.asks(aiocoap.POST, "/dp", payload=cbor2.dumps([]), content_format=112)).code.class_ == 2
    meter.close()
    asyncio.get_running_loop().set_exception_handler(None)
    assert errors == []


async def test_a_gateway_that_ends_says_good_bye_and_the_meter_begins_anew(secure: Field) -> None:
    meter = Meter(secure.settings.coap.dtls_port, secure.home)
    assert await meter.handshake()
    await secure.stop()
    await meter.hears_good_bye()
    await secure.start()
    meter.restart()
    assert await meter.handshake()
    meter.close()


async def test_m2_after_a_restart_a_contact_waits_until_the_meter_has_another_session(
    secure: Field, sessions: Sessions
) -> None:
    assert await secure.meter.wake()
    await secure.stop()
    await secure.start()
    # The registration is still good and the meter may be awake, but there is no session to reach it by.
    await secure.grant(5_000)
    await until(lambda: _asleep(secure))
    assert await _status(sessions) == "QUEUED"
    assert await secure.meter.wake()
    assert secure.meter._radio.handshakes == 2
    assert await secure.statuses() == [("CREDIT", "CONFIRMED")]


async def test_a_lossy_radio_shakes_hands_all_the_same(secure: Field) -> None:
    meter = make_meter(
        secure.settings, secure.home, secure.folder / "lossy", lose_datagram_rate=0.1, dtls_key_hex=DTLS_KEY.hex()
    )
    assert any([await meter.wake() for _ in range(4)])


@pytest.mark.parametrize("client", ["coap-client-openssl", "coap-client-gnutls"])
async def test_libcoap_s_client_registers(secure: Field, client: str) -> None:
    if shutil.which(client) is None:
        pytest.skip(f"NO INDEPENDENT COAP PEER {client}: install libcoap3-bin")
    base = f"coaps://127.0.0.1:{secure.settings.coap.dtls_port}"
    key = "".join(chr(byte) for byte in DTLS_KEY)
    child = await asyncio.create_subprocess_exec(
        *(client, "-v", "6", "-m", "post", "-u", secure.home.serial, "-k", key, "-B", "5"),
        f"{base}/rd?ep={secure.home.serial}&lwm2m=1.1&b=U&lt=300",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(child.communicate(), 20)
    async with secure.sessions() as session:
        found = (await session.scalars(select(MeterRegistration))).all()
    assert [row.meter_id for row in found] == [secure.home.meter_id], out.decode(errors="replace")


async def _status(sessions: Sessions) -> str:
    async with sessions() as session:
        return (await session.scalars(select(MeterCommand))).one().status


async def _is(sessions: Sessions, status: str) -> bool:
    return await _status(sessions) == status


async def _rated(sessions: Sessions) -> bool:
    await rate_due(sessions)
    async with sessions() as session:
        return bool((await session.scalars(select(Reading))).all())


async def _asleep(field: Field) -> bool:
    async with engine_of(field.sessions).connect() as conn:
        known = await registrations.by_meter(conn, KeyRing([METER_SECRET]), field.home.meter_id)
    return not known.registration.awake
