"""What anybody can send, and what a strange meter can answer: the gateway over real UDP."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest
from aiocoap.numbers.constants import TransportTuning
from aiocoap.resource import PathCapable, Resource
from sqlalchemy import func, select, text

from standpipe.meter_gateway.delivery import DeliveryDesk
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.contacts import Contacts
from standpipe.meter_gateway.lwm2m.peer import MeterPeer, tuning
from standpipe.meter_gateway.lwm2m.registrations import Registration
from standpipe.meter_gateway.lwm2m.request_limiter import RequestLimiter
from standpipe.meter_gateway.lwm2m.resources import make_site
from standpipe.meter_gateway.lwm2m.tables import MeterRegistration
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.keys import KeyRing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, engine_of
from standpipe.platform.errors import NotAuthenticatedError
from standpipe.readings.models import Reading
from tests.support.database import free_port
from tests.support.lengths import rounds
from tests.support.radio import Field, exchange, give_key, make_field, make_meter
from tests.support.rating import rate_due
from tests.support.town import METER_SECRET, changed, make_home, make_settings, make_utility, until

REGISTER = bytes.fromhex("4002000c") + b"\xb2rd\x4bep=nobody12"
ROUNDS = rounds(600, 3_000, "CHAOS_DATAGRAMS")
UPDATE = bytes.fromhex("44020001aabbccdd") + b"\xb2rd\x08ABCDEFGH"
PUSH = bytes.fromhex("4002000e") + b"\xb2dp\x11\x70\xff\x80"
WITH_HOST = bytes.fromhex("40010001") + b"\x34host\x82rd"


async def test_m7_bent_requests_leave_the_loop_the_database_and_other_meters_alone(plain: Field) -> None:
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    try:
        await plain.meter.wake()
        chance = random.Random(5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            noise.connect(("127.0.0.1", plain.settings.coap.port))
            for number in range(ROUNDS):
                noise.send(bent(chance, number))
                if number % 20 == 0:
                    await asyncio.sleep(0.002)
        await plain.grant(5_000)
        # What was bent may have been an update from elsewhere, which ends the contact under way: then at the next.
        for _ in range(5):
            await plain.meter.wake()
            if await plain.statuses() == [("CREDIT", "CONFIRMED")]:
                break
        assert await plain.statuses() == [("CREDIT", "CONFIRMED")]
    finally:
        loop.set_exception_handler(None)
    assert errors == []


def bent(chance: random.Random, number: int) -> bytes:
    """A request with a new message id that was right until somebody bent it."""
    data = bytearray(chance.choice((REGISTER, UPDATE, PUSH, WITH_HOST)))
    data[2:4] = (number % 65_536).to_bytes(2, "big")
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(4, len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 6))
            case _ if len(data) > 6:
                del data[at]
    return bytes(data)


async def test_m7_a_token_used_again_costs_no_database_connection(plain: Field, sessions: Sessions) -> None:
    async with sessions() as holder:
        await holder.execute(text("LOCK TABLE meter_credentials IN ACCESS EXCLUSIVE MODE"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.connect(("127.0.0.1", plain.settings.coap.port))
            for number in range(3):
                peer.send(REGISTER[:2] + number.to_bytes(2, "big") + REGISTER[4:])
            waiting = await until(lambda: _waiting(sessions, 3))
    # Each of the three ran to its end: none of their connections was torn down half-way.
    async with sessions() as session:
        alive = set(await session.scalars(text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")))
    assert waiting <= alive


async def test_m8_a_late_refusal_is_not_retransmitted_to_whoever_was_named(plain: Field, sessions: Sessions) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setblocking(False)
        peer.connect(("127.0.0.1", plain.settings.coap.port))
        async with sessions() as holder:
            await holder.execute(text("LOCK TABLE meter_credentials IN ACCESS EXCLUSIVE MODE"))
            await loop.sock_sendall(peer, REGISTER)
            accepted = await asyncio.wait_for(loop.sock_recv(peer, 1_000), 5)
        refusal = await asyncio.wait_for(loop.sock_recv(peer, 1_000), 5)
    assert (accepted[0] >> 4 & 3, accepted[1]) == (2, 0)
    assert (refusal[0] >> 4 & 3, refusal[1]) == (1, 0x83)
    assert len(accepted) + len(refusal) <= 3 * len(REGISTER)


@pytest.mark.parametrize(
    ("request_hex", "code"),
    [
        ("40020001" + b"\xb2rd".hex(), 0x80),
        ("40020002" + b"\xb2rd\x43ep=".hex(), 0x80),
        ("40020003" + b"\xb2rd\x4bep=nobody12".hex(), 0x83),
        ("40020004" + b"\xb2rd\x08ABCDEFGH".hex(), 0x84),
        ("40040005" + b"\xb2rd\x08ABCDEFGH".hex(), 0x84),
        ("40020006" + b"\xb2dp\x11\x70\xff\x80".hex(), 0x84),
        ("40010007" + b"\xb2dp".hex(), 0x85),
        ("40030008" + b"\xb2rd".hex(), 0x85),
        ("40010009" + b"\xb1a".hex(), 0x84),
    ],
)
async def test_m8_refusals_have_their_code_and_no_more(plain: Field, request_hex: str, code: int) -> None:
    request = bytes.fromhex(request_hex)
    reply = await exchange(plain.settings.coap.port, request)
    assert reply[1] == code
    assert len(reply) <= max(4, len(request))


async def test_m7_blocks_without_end_are_refused_in_time(plain: Field) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.connect(("127.0.0.1", plain.settings.coap.port))
        # /dp in blocks of 1024 bytes, each with "more": block n's option is n << 4 | more | 6.
        for number in range(80):
            block = (number << 4 | 0b1000 | 6).to_bytes(2, "big")
            head = bytes.fromhex("4002") + (number + 1).to_bytes(2, "big") + b"\xb2dp\x11\x70\xd2\x02" + block
            await loop.sock_sendall(udp, head + b"\xff" + bytes(1_024))
            reply = await asyncio.wait_for(loop.sock_recv(udp, 1_000), 5)
            if reply[1] != 0x5F:
                break
    assert (number, reply[1]) == (64, 0x8D)


async def test_a_registered_meter_s_push_is_refused_by_what_is_wrong_with_it(plain: Field) -> None:
    async with client(plain) as ask:
        assert (await ask(aiocoap.POST, f"/rd?ep={plain.home.serial}&b=U&Q")).code == aiocoap.CREATED
        for payload, content_format, code in (
            (b"\xff\xfe", 112, "4.00"),
            (b"{", 110, "4.00"),
            (cbor2.dumps([{0: "/3424/0/1", 2: float("nan")}]), 112, "4.00"),
            (cbor2.dumps([{0: "/3424/0/1", 2: 1 << 40_000}]), 112, "4.00"),
            (b"1", 0, "4.15"),
            (b"1", None, "4.15"),
            (cbor2.dumps([]), 112, "2.04"),
        ):
            response = await ask(aiocoap.POST, "/dp", payload=payload, content_format=content_format)
            assert (response.code.dotted, response.payload) == (code, b""), payload


@pytest.mark.parametrize("lifetime", ["0", "-1", "x", "1e3", "4294967296", "000000000001999999999", "٣", "9" * 400])
async def test_a_nonsense_lifetime_is_a_bad_request(plain: Field, lifetime: str) -> None:
    async with client(plain) as ask:
        assert (await ask(aiocoap.POST, f"/rd?ep={plain.home.serial}&lt={lifetime}")).code == aiocoap.BAD_REQUEST


async def test_a_backlog_of_weeks_arrives_in_blocks_and_packs(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    started_at = (datetime.now(UTC) - timedelta(days=30)).replace(minute=0, second=0, microsecond=0).isoformat()
    async with make_field(database_url, sessions, tmp_path, started_at=started_at) as field:
        assert await field.meter.wake()
        assert field.meter.state.unsent == []
        await rate_due(sessions)
        async with sessions() as session:
            assert (await session.scalar(select(func.count()).select_from(Reading)) or 0) >= 30 * 24


async def test_a_waking_during_a_time_out_is_served_at_once(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with make_field(database_url, sessions, tmp_path) as field:
        await field.meter.wake()
        await field.stop()
        # With the standard's patience an unanswered request waits for 93 s, and the next one behind it (NSTART).
        field.settings = changed(field.settings, coap_ack_timeout_s=20.0, coap_max_retransmit=4)
        field.meter = make_meter(field.settings, field.home, field.folder)
        await field.start()
        await field.meter.wake()
        await field.grant(5_000)
        await until(lambda: _arrived_in_sleep(field))
        # It listens for less than the 20 s after which the question would be asked again.
        await field.meter.wake()
        assert await field.statuses() == [("CREDIT", "CONFIRMED")]


async def _arrived_in_sleep(field: Field) -> bool:
    """Whether the gateway has asked the sleeping meter: the datagram lies in a socket that nobody reads."""
    try:
        return bool(field.meter._radio._deaf[0].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


class Talker(Resource, PathCapable):  # type: ignore[misc]  # aiocoap is not typed.
    """A meter that answers in blocks: ``total`` of them, or without end."""

    def __init__(self, total: int | None) -> None:
        super().__init__()
        self.total, self.asked = total, 0

    async def needs_blockwise_assembly(self, request: Any) -> bool:
        return False

    async def render(self, request: Any) -> aiocoap.Message:
        self.asked += 1
        number = request.opt.block2.block_number if request.opt.block2 else 0
        more = self.total is None or number + 1 < self.total
        payload = bytes([number % 256]) * 64
        return aiocoap.Message(code=aiocoap.CONTENT, payload=payload, content_format=112, block2=(number, more, 2))


@pytest.mark.parametrize(("total", "asked"), [(1, 1), (3, 3), (None, 257)])
async def test_m7_a_meter_s_answer_in_blocks_is_put_together_and_has_an_end(total: int | None, asked: int) -> None:
    talker, port = Talker(total), free_port()
    server = await aiocoap.Context.create_server_context(talker, bind=("127.0.0.1", port), transports=["udp6"])
    own = await aiocoap.Context.create_client_context(transports=["udp6"])
    try:
        peer = MeterPeer(own, f"udp://127.0.0.1:{port}", tuning(1.0, 2))
        if total is None:
            with pytest.raises(ParsingError):
                await peer.read_object("/3424/0", ClientMemory(""))
        else:
            payload, _ = await peer.read_object("/3424/0", ClientMemory(""))
            assert payload == b"".join(bytes([number]) * 64 for number in range(total))
        assert talker.asked == asked
    finally:
        await own.shutdown()
        await server.shutdown()


class SessionIdentity:
    """What any transport with credentials is to the resources: each peer has the identity that it proved."""

    def __init__(self) -> None:
        self.proved: dict[int, tuple[str, str]] = {}
        """Port → (PSK identity, meter id)."""

    def at_registration(self, remote: Any, endpoint: str) -> str:
        identity, _ = self.proved[remote.sockaddr[1]]
        if endpoint and endpoint != identity:
            raise NotAuthenticatedError("ep is not the session's identity")
        return identity

    def may_use(self, remote: Any, registration: Registration) -> bool:
        return self.proved[remote.sockaddr[1]][1] == registration.meter_id

    def meter_of(self, remote: Any) -> str:
        return self.proved[remote.sockaddr[1]][1]


async def test_m4_one_meter_s_session_cannot_register_update_push_or_leave_as_another(sessions: Sessions) -> None:
    settings, identity = make_settings(), SessionIdentity()
    utility_id, tariff_id = await make_utility(sessions)
    since = datetime.now(UTC) - timedelta(days=1)
    homes = [
        await make_home(sessions, settings, utility_id, tariff_id, installed_at=since, zone="UTC") for _ in range(2)
    ]
    for home in homes:
        await give_key(sessions, home)
    port = free_port()
    server = await aiocoap.Context.create_server_context(None, bind=("127.0.0.1", port), transports=["udp6"])
    keys = KeyRing([METER_SECRET])
    engine = engine_of(sessions)
    contacts = Contacts(
        engine=engine,
        desk=DeliveryDesk(engine, Clock()),
        keys=keys,
        clock=Clock(),
        object_id=42769,
        peer_at=lambda remote: MeterPeer(server, remote, tuning(0.1, 0)),
    )
    server.serversite = make_site(RequestLimiter(), keys=keys, identity=identity, contacts=contacts, clock=Clock())
    own_port, other_port = free_port(), free_port()
    identity.proved = {
        made: (home.serial, home.meter_id) for made, home in zip((own_port, other_port), homes, strict=True)
    }
    try:
        async with bound_client(port, own_port) as own, bound_client(port, other_port) as other:
            created = await own(aiocoap.POST, "/rd")
            assert created.code == aiocoap.CREATED
            location = "/" + "/".join(created.opt.location_path)
            as_own = f"/rd?ep={homes[0].serial}"
            assert (await other(aiocoap.POST, as_own)).code == aiocoap.FORBIDDEN
            assert (await other(aiocoap.POST, location)).code == aiocoap.NOT_FOUND
            assert (await other(aiocoap.DELETE, location)).code == aiocoap.NOT_FOUND
            # A new session from the address that another meter had: the address alone proves nothing.
            identity.proved[own_port] = identity.proved[other_port]
            pack = cbor2.dumps([])
            assert (await own(aiocoap.POST, "/dp", payload=pack, content_format=112)).code == aiocoap.NOT_FOUND
        async with sessions() as session:
            kept = (await session.scalars(select(MeterRegistration))).one()
        assert kept.meter_id == homes[0].meter_id
    finally:
        await contacts.stop()
        await server.shutdown()


@asynccontextmanager
async def client(field: Field) -> AsyncIterator[Any]:
    async with bound_client(field.settings.coap.port, free_port()) as ask:
        yield ask


@asynccontextmanager
async def bound_client(server_port: int, port: int) -> AsyncIterator[Any]:
    """A CoAP client at one port, which serves nothing: ``await ask(code, path, ...)``."""
    context = await aiocoap.Context.create_server_context(None, bind=("127.0.0.1", port), transports=["udp6"])

    async def ask(code: Any, path: str, **options: Any) -> aiocoap.Message:
        message = aiocoap.Message(
            code=code, uri=f"coap://127.0.0.1:{server_port}{path}", transport_tuning=TransportTuning(), **options
        )
        response: aiocoap.Message = await asyncio.wait_for(context.request(message).response, 10)
        return response

    try:
        yield ask
    finally:
        await context.shutdown()


async def _waiting(sessions: Sessions, count: int) -> set[int]:
    async with sessions() as session:
        query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        pids = set(await session.scalars(text(query)))
    return pids if len(pids) >= count else set()
