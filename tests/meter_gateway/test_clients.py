"""LwM2M clients as they really differ: how they register, which formats they speak, whether they Send."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiocoap
import cbor2
import pytest
from aiocoap.resource import Resource, Site
from sqlalchemy import func, select, update

from standpipe.meter_gateway.lwm2m.peer import MeterPeer, MeterRefusedError, tuning
from standpipe.meter_gateway.lwm2m.tables import MeterRegistration
from standpipe.meters.field_models import MeterCondition, MeterMeasure
from standpipe.meters.models import Meter as MeterRow
from standpipe.meters.models import MeterState
from standpipe.platform.database import Sessions
from standpipe.readings.models import Reading
from tests.meter_gateway.test_hostile_radio import bound_client
from tests.support.database import free_port
from tests.support.dtls_meter import Meter
from tests.support.radio import Field, give_key
from tests.support.rating import rate_due
from tests.support.town import until

LINKS = b"</>;rt=oma.lwm2m,</1/0>,</3/0>,</3424/0>,</4/0>,</3411/0>,</10274/0>,</10275/0>,</3425/1>"


@asynccontextmanager
async def meter_of(field: Field) -> AsyncIterator[Meter]:
    meter = Meter(field.settings.coap.dtls_port, field.home)
    try:
        assert await meter.handshake()
        yield meter
    finally:
        meter.close()


async def serves(meter: Meter, answers: dict[str, tuple[bytes, int]], asked: list[str]) -> None:
    """Answer what the gateway reads, noting the paths, until cancelled."""
    while True:
        message = await meter.receive_or_wait()
        if not message.code.is_request():
            continue
        path = "/" + "/".join(message.opt.uri_path)
        asked.append(path)
        if path in answers and message.opt.observe is None:
            payload, content_format = answers[path]
            await meter.answers(message, aiocoap.CONTENT, payload=payload, content_format=content_format)
        else:
            await meter.answers(message, aiocoap.NOT_FOUND)


async def test_a_first_registration_is_surveyed_and_an_update_is_not(patient: Field, sessions: Sessions) -> None:
    answers = {
        "/3424/0": (cbor2.dumps([{-2: "/3424/0/", 0: "1", 2: 3.5}, {0: "10", 4: True}]), 112),
        "/4/0": (b"\xc1\x02\xa5", 11542),
        "/3411/0": (b'[{"bn":"/3411/0/","n":"1","v":40},{"n":"6","vb":false}]', 110),
        "/10274/0": (b"\xe1\x17\x7d\x01", 11542),
    }
    asked: list[str] = []
    async with meter_of(patient) as meter:
        await meter.registers(payload=LINKS, content_format=40)
        serving = asyncio.create_task(serves(meter, answers, asked))
        await until(lambda: _counted(sessions, MeterCondition, 3))
        await until(lambda: _soon("/42769/0/1" in asked))
        assert asked[:7] == ["/3424/0", "/3/0/9", "/4/0", "/3411/0", "/10274/0", "/10275/0", "/42769/0/1"]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    await rate_due(sessions)
    async with sessions() as session:
        raised = {row.kind: row.is_raised for row in await session.scalars(select(MeterCondition))}
        signal = (await session.scalars(select(MeterMeasure))).one()
        state = (await session.scalars(select(MeterState))).one()
        reading = (await session.scalars(select(Reading))).one()
    assert raised == {"LEAK": True, "LOW_BATTERY": False, "EMPTY_PIPE": True}
    assert (signal.kind, signal.value) == ("SIGNAL_DBM", -91)
    assert state.battery_percent == 40
    assert reading.register_ml == 3_500_000


@pytest.mark.parametrize(
    ("payload", "content_format"),
    [
        (b"7.25", 0),
        (b"\xc8\x01\x08" + struct.pack(">d", 7.25), 11542),
        (cbor2.dumps([{-2: "/3424/0/1", 2: 7.25}]), 112),
    ],
)
async def test_a_1_0_client_is_observed_and_its_notifications_count_once(
    patient: Field, sessions: Sessions, payload: bytes, content_format: int
) -> None:
    async with meter_of(patient) as meter:
        await meter.registers(query="lt=300&lwm2m=1.0&b=UQ")
        observed = await meter.request("/3424/0/1")
        assert observed.opt.observe == 0
        await meter.answers(observed, aiocoap.CONTENT, payload=b"7.0", content_format=0, observe=5)
        await meter.notifies(observed, 6, payload, content_format)
        # The same again, as a lost acknowledgement has it, and an older one that overtook it.
        await meter.notifies(observed, 6, payload, content_format)
        await meter.notifies(observed, 4, b"6.0", 0)
        await meter.notifies(observed, 7, b"9.75", 0)
        await until(lambda: _counted(sessions, Reading, 2))
        async with sessions() as session:
            readings = (await session.scalars(select(Reading.register_ml).order_by(Reading.read_at))).all()
        assert readings == [7_250_000, 9_750_000]
        # What is garbage is refused by itself.
        await meter.notifies(observed, 8, b"\xff", 112)
        await meter.notifies(observed, 9, b"10", 0)
        await until(lambda: _counted(sessions, Reading, 3))


@pytest.mark.parametrize("refusal", [aiocoap.BAD_OPTION, aiocoap.NOT_ACCEPTABLE])
@pytest.mark.parametrize(("lwm2m", "formats"), [("1.0", (11542, 112)), ("1.1", (112, 11542))])
async def test_an_object_is_asked_for_in_what_the_clients_version_knows_and_then_in_the_other(
    patient: Field, sessions: Sessions, lwm2m: str, formats: tuple[int, int], refusal: Any
) -> None:
    async with meter_of(patient) as meter:
        await meter.registers(query=f"lt=300&lwm2m={lwm2m}&b=U")
        asked = await meter.request("/3424/0")
        await meter.answers(asked, refusal)
        again = await meter.request("/3424/0")
        assert (asked.opt.accept, again.opt.accept) == formats
        payload = b"\xc8\x01\x08" + struct.pack(">d", 7.25)
        await meter.answers(again, aiocoap.CONTENT, payload=payload, content_format=11542)
        await meter.answers(await meter.request("/42769/0/1"), aiocoap.NOT_FOUND)
        await until(lambda: _counted(sessions, Reading, 1))


async def test_an_observation_is_made_anew_after_a_restart_and_in_a_new_session(
    patient: Field, sessions: Sessions
) -> None:
    async with meter_of(patient) as meter:
        location = await meter.registers(query="lt=300&lwm2m=1.0&b=UQ")
        await meter.answers(await meter.request("/42769/0/1"), aiocoap.SERVICE_UNAVAILABLE)
        observed = await meter.request("/3424/0/1")
        await meter.answers(observed, aiocoap.CONTENT, payload=b"1", content_format=0, observe=1)
        # Awake in the same session, it is not asked twice.
        meter.refused.clear()
        for _ in range(2):
            assert (await meter.asks(aiocoap.POST, location)).code == aiocoap.CHANGED
            await meter.answers(await meter.request("/42769/0/1"), aiocoap.SERVICE_UNAVAILABLE)
        assert "/3424/0/1" not in meter.refused
        await patient.stop()
        await meter.hears_good_bye()
        await patient.start()
        meter.restart()
        assert await meter.handshake()
        assert (await meter.asks(aiocoap.POST, location)).code == aiocoap.CHANGED
        again = await meter.request("/3424/0/1")
        await meter.answers(again, aiocoap.CONTENT, payload=b"2", content_format=0, observe=1)
        await meter.notifies(again, 2, b"2.5", 0)
        await until(lambda: _counted(sessions, Reading, 1))


async def test_a_1_1_client_is_observed_only_once_a_waking_went_by_without_a_send(patient: Field) -> None:
    async with meter_of(patient) as meter:
        location = await meter.registers()
        status = await meter.request("/42769/0/1")
        await meter.answers(status, aiocoap.NOT_FOUND)
        assert (await meter.asks(aiocoap.POST, location)).code == aiocoap.CHANGED
        observed = await meter.request("/3424/0/1")
        await meter.answers(observed, aiocoap.NOT_FOUND)
    async with meter_of(patient) as meter:
        location = await meter.registers()
        pack = cbor2.dumps([{0: "/3424/0/1", 2: 1}])
        assert (await meter.asks(aiocoap.POST, "/dp", payload=pack, content_format=112)).code == aiocoap.CHANGED
        async with patient.sessions() as session:
            assert (await session.scalars(select(MeterRegistration.sends))).one()


@pytest.mark.parametrize("transport", ["udp", "dtls"])
async def test_registrations_as_clients_live_them(transport: str, plain: Field, sessions: Sessions) -> None:
    async with _asking(transport, plain) as ask:
        serial = plain.home.serial
        for path, queue_mode, version in (
            (f"/rd?ep={serial}&lt=300&b=U", False, "1.0"),
            (f"/rd?ep={serial}&lt=300&b=UQ&lwm2m=1.0", True, "1.0"),
            (f"/rd?ep={serial}&lt=300&lwm2m=1.1&b=U&Q", True, "1.1"),
            (f"/rd?ep={serial}&lt=300&lwm2m=1.1&Q", True, "1.1"),
            (f"/rd/?ep={serial}&lwm2m=1.1", False, "1.1"),
        ):
            before = await _registration(sessions)
            created = await ask(aiocoap.POST, path)
            assert created.code == aiocoap.CREATED
            row = await _registration(sessions)
            assert (row.queue_mode, row.lwm2m) == (queue_mode, version)
            assert created.opt.location_path == ("rd", row.location)
            # Registering anew without a good-bye ends what was before.
            if before is not None:
                assert (await ask(aiocoap.POST, f"/rd/{before.location}")).code == aiocoap.NOT_FOUND
        location = f"/rd/{row.location}"
        assert (await ask(aiocoap.POST, location + "/")).code == aiocoap.CHANGED
        assert (await ask(aiocoap.POST, location + "?lt=77")).code == aiocoap.CHANGED
        row = await _registration(sessions)
        assert (row.lifetime_s, row.updates) == (77, 2)
        pack = cbor2.dumps([{0: "/3424/0/1", 2: 1}])
        assert (await ask(aiocoap.POST, "/dp/", payload=pack, content_format=112)).code == aiocoap.CHANGED
        # Its lifetime over, it is unknown, and begins anew.
        async with sessions.begin() as session:
            await session.execute(update(MeterRegistration).values(expires_at=func.now()))
        assert (await ask(aiocoap.POST, location)).code == aiocoap.NOT_FOUND
        assert (await ask(aiocoap.POST, "/dp", payload=pack, content_format=112)).code == aiocoap.NOT_FOUND
        assert (await ask(aiocoap.POST, f"/rd?ep={serial}")).code == aiocoap.CREATED


async def test_a_waking_gives_up_an_old_question_and_no_answer_that_is_under_way(
    patient: Field, sessions: Sessions
) -> None:
    async with meter_of(patient) as meter:
        location = await meter.registers()
        await meter.request("/3424/0")
        async with sessions.begin() as session:
            await session.execute(select(MeterRow).where(MeterRow.id == patient.home.meter_id).with_for_update())
            pack = cbor2.dumps([{0: "/3424/0/1", 2: 1}])
            token = await meter.says(aiocoap.POST, "/dp", payload=pack, content_format=112)
            assert (await meter.asks(aiocoap.POST, location)).code == aiocoap.CHANGED
            # Its next question shows that the old one is given up.
            await meter.answers(await meter.request("/3424/0"), aiocoap.NOT_FOUND)
        while (reply := await meter.next()).token != token:
            assert reply.code.is_request()
            await meter.answers(reply, aiocoap.NOT_FOUND)
        assert reply.code == aiocoap.CHANGED


@asynccontextmanager
async def _asking(transport: str, field: Field) -> AsyncIterator[Any]:
    if transport == "udp":
        async with bound_client(field.settings.coap.port, free_port()) as ask:
            yield ask
        return
    await give_key(field.sessions, field.home)
    async with meter_of(field) as meter:
        yield meter.asks


async def test_m17_a_1_0_client_updates_from_another_port_and_session(patient: Field, sessions: Sessions) -> None:
    async with meter_of(patient) as meter:
        location = await meter.registers(query="lt=300&lwm2m=1.0&b=UQ")
        before = await _registration(sessions)
        async with meter_of(patient) as elsewhere:
            assert (await elsewhere.asks(aiocoap.POST, location)).code == aiocoap.CHANGED
            after = await _registration(sessions)
            assert after.location == before.location
            assert after.remote != before.remote
            # From here on the gateway asks there, and only there.
            assert (await elsewhere.request("/42769/0/1")).code == aiocoap.GET


class Table(Resource):  # type: ignore[misc]  # aiocoap is not typed.
    """Keeps what is written to it; aiocoap puts the blocks together. ``room`` is the most that it takes."""

    def __init__(self, room: int = 100_000) -> None:
        super().__init__()
        self.room, self.written, self.requests = room, b"", 0

    async def needs_blockwise_assembly(self, request: Any) -> bool:
        self.requests += 1
        if request.opt.block1 is not None and request.opt.block1.start > self.room:
            raise aiocoap.error.RequestEntityTooLarge
        return True

    async def render_put(self, request: Any) -> aiocoap.Message:
        self.written = bytes(request.payload)
        return aiocoap.Message(code=aiocoap.CHANGED)


@pytest.mark.parametrize(("size", "requests"), [(0, 1), (512, 1), (513, 2), (1_024, 2), (5_000, 10)])
async def test_a_table_is_written_in_blocks(size: int, requests: int) -> None:
    table, site, port = Table(), Site(), free_port()
    site.add_resource(["9", "0", "1"], table)
    server = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])
    own = await aiocoap.Context.create_client_context(transports=["udp6"])
    try:
        peer = MeterPeer(own, f"udp://127.0.0.1:{port}", tuning(1.0, 2))
        payload = bytes(number % 251 for number in range(size))
        await peer.write("/9/0/1", payload, 42)
        assert (table.written, table.requests) == (payload, requests)
        table.room = 512
        if size > 1_024:
            with pytest.raises(MeterRefusedError):
                await peer.write("/9/0/1", payload, 42)
    finally:
        await own.shutdown()
        await server.shutdown()


async def _registration(sessions: Sessions) -> Any:
    async with sessions() as session:
        return (await session.scalars(select(MeterRegistration))).one_or_none()


async def _counted(sessions: Sessions, model: Any, wanted: int) -> bool:
    await rate_due(sessions)
    async with sessions() as session:
        return (await session.scalar(select(func.count()).select_from(model)) or 0) >= wanted


async def _soon(value: Any) -> Any:
    return value


async def test_m23_what_a_client_refused_is_not_asked_again_before_it_registers_anew(patient: Field) -> None:
    async with meter_of(patient) as meter:
        await meter.registers(query="lt=300&lwm2m=1.0&b=UQ")
        await meter.answers(await meter.request("/3424/0/1"), aiocoap.NOT_FOUND)
        assert meter.refused == ["/3424/0", "/42769/0/1"]
        meter.refused.clear()
        # Something waits: then it is asked all the same, for only its status report tells what became of it.
        await patient.grant(100)
        await meter.answers(await meter.request("/42769/0/1"), aiocoap.NOT_FOUND)
        assert meter.refused == []
        await meter.request("/42769/0/0")
        # A client that registers anew may be another one.
        await meter.registers(query="lt=300&lwm2m=1.0&b=UQ")
        await meter.answers(await meter.request("/42769/0/1"), aiocoap.NOT_FOUND)
        await meter.request("/3424/0")
