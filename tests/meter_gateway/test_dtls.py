"""The DTLS server over real sockets, with an echo in the gateway's place, and OpenSSL's own client if there is one."""

import asyncio
import random
import shutil
import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from standpipe.meter_gateway.lwm2m.dtls import records as dtls_records
from standpipe.meter_gateway.lwm2m.dtls.server import Limits
from tests.support.dtls import KEY, DtlsClient, Echo, echo
from tests.support.town import until

OTHER = bytes(range(100, 116))
PING, PONG = bytes.fromhex("40001234"), bytes.fromhex("70001234")


async def _s_client(at: Echo, *, cipher: str, identity: str = "A", key: bytes = KEY) -> bytes:
    """What OpenSSL's own client gets back for a ping, empty where it gets no session."""
    child = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-dtls1_2", "-quiet", "-connect", f"127.0.0.1:{at.port}"),
        *("-psk_identity", identity, "-psk", key.hex(), "-cipher", f"{cipher}:@SECLEVEL=0"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(PING)
    await child.stdin.drain()
    try:
        return await asyncio.wait_for(child.stdout.read(4), 10)
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.communicate()


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="NO INDEPENDENT DTLS PEER: install the openssl command line"
)


@needs_openssl
@pytest.mark.parametrize("cipher", ["PSK-AES128-CCM8", "PSK-AES128-GCM-SHA256"])
async def test_openssl_s_own_client_is_served_with_both_suites(cipher: str) -> None:
    async with echo() as at:
        assert await _s_client(at, cipher=cipher) == PING
        assert (at.sessions[0].identity, at.sessions[0].meter_id) == ("A", "m-A")


@needs_openssl
@pytest.mark.parametrize(
    ("cipher", "identity", "key"),
    [
        ("PSK-AES256-CBC-SHA384", "A", KEY),
        ("ECDHE-PSK-AES128-CBC-SHA256", "A", KEY),
        ("PSK-AES128-CCM8", "A", OTHER),
        ("PSK-AES128-CCM8", "B", KEY),
    ],
)
async def test_openssl_s_own_client_is_refused(cipher: str, identity: str, key: bytes) -> None:
    async with echo() as at:
        assert await _s_client(at, cipher=cipher, identity=identity, key=key) == b""
        assert at.sessions == []


async def test_a_wrong_key_and_an_unknown_identity_are_answered_alike_and_leave_nothing() -> None:
    async with echo() as at:
        heard = []
        for identity, key in (("A", OTHER), ("B", KEY), ("\N{SNOWMAN}" * 30, KEY)):
            client = at.client(identity, key)
            assert not await client.handshake()
            heard.append([len(datagram) for datagram in client.heard])
            assert client.heard[-1] == dtls_records.refusal()
            client.close()
        assert heard[0] == heard[1] == heard[2]
        assert at.server.counts == (0, 0)


async def test_a_key_is_looked_up_while_the_handshake_waits_and_others_are_served() -> None:
    async with echo(A=(KEY,), B=(OTHER,)) as at:
        at.gate.clear()
        slow, fast = at.client("A"), at.client("B", OTHER)
        waiting = asyncio.create_task(slow.handshake())
        await until(lambda: _soon(at.looked_up))
        # Garbage and repeats at the paused one change nothing.
        for record in (slow.sent[-1], b"\x16\xfe\xfd" + bytes(20)):
            at.server.datagram_received(record, ("127.0.0.1", slow.port))
        at.gate.set()
        assert await fast.handshake()
        assert await waiting
        assert await slow.echoes(b"one")
        assert await fast.echoes(b"two")
        assert sorted(at.looked_up) == ["A", "B"]


async def test_a_look_up_that_fails_is_tried_again_with_the_client_s_next_flight() -> None:
    async with echo() as at:
        real, failed = at.look_up, 0

        async def down_once(identity: str) -> Any:
            nonlocal failed
            failed += 1
            if failed == 1:
                raise OSError("no database")
            return await real(identity)

        at.server._look_up = down_once
        client = at.client()
        waiting = asyncio.create_task(client.handshake(timeout_s=10))
        await until(lambda: _soon(failed))
        client.connection.DTLSv1_get_timeout()
        await asyncio.sleep(1.05)  # The client's own retransmission timer, which OpenSSL keeps in real time.
        client.connection.DTLSv1_handle_timeout()
        await client.flush()
        assert await waiting
        assert failed == 2


async def test_two_keys_while_one_is_replaced_open_a_session_at_the_second_try_at_most() -> None:
    async with echo(A=(KEY, OTHER)) as at:
        for key in (OTHER, KEY, OTHER, OTHER):
            client = at.client(key=key)
            tries = 1
            while not await client.handshake():
                tries += 1
                assert tries == 2
                client.restart()
            assert at.sessions[-1].key_name == key.hex()
            client.close()


async def test_m8_a_hello_without_a_cookie_leaves_nothing_and_gets_less_than_thrice_its_size() -> None:
    async with echo() as at:
        clients = [at.client() for _ in range(50)]
        for client in clients:
            assert not await client.handshake(flights=1)
        loop = asyncio.get_running_loop()
        for client in clients:
            reply = await asyncio.wait_for(loop.sock_recv(client.socket, 65_536), 5)
            assert reply[13] == 3  # HelloVerifyRequest.
            assert len(reply) <= 3 * len(client.sent[0])
            client.close()
        assert at.server.counts == (0, 0)
        assert at.looked_up == []


async def test_m8_a_cookie_is_good_for_its_own_address_alone() -> None:
    async with echo() as at:
        owner = at.client()
        assert not await owner.handshake(flights=2)
        assert at.server.counts == (0, 0) or await until(lambda: _soon(at.server.counts == (0, 1)))
        await until(lambda: _soon(at.server.counts == (0, 1)))
        thief = at.client()
        await thief.raw(owner.sent[1])
        reply = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(thief.socket, 65_536), 5)
        assert reply[13] == 3
        assert at.server.counts == (0, 1)


@pytest.mark.parametrize(("changes", "accepted"), [(1, True), (2, False)])
async def test_a_cookie_outlives_one_change_of_its_key_and_no_second(changes: int, accepted: bool) -> None:
    async with echo() as at:
        client = at.client()
        assert not await client.handshake(flights=1)
        loop = asyncio.get_running_loop()
        client.connection.bio_write(await asyncio.wait_for(loop.sock_recv(client.socket, 65_536), 5))
        for _ in range(changes):
            at.server.turn_cookie_key()
        assert not await client.handshake(flights=1)
        reply = await asyncio.wait_for(loop.sock_recv(client.socket, 65_536), 5)
        assert (reply[13] == 2) is accepted  # ServerHello, or another HelloVerifyRequest.
        assert at.server.counts == (0, int(accepted))


async def test_a_handshake_that_is_never_finished_is_forgotten_and_has_its_limits() -> None:
    limits = Limits(handshake_timeout_s=0.5, max_handshakes=4, max_handshakes_per_host=3)
    async with echo(limits) as at:
        clients = [at.client() for _ in range(6)]
        for client in clients:
            await client.handshake(flights=2)
        await until(lambda: _soon(at.server.counts == (0, 3)))
        assert not await clients[5].handshake(timeout_s=0.1)
        await until(lambda: _soon(at.server.counts == (0, 0)))
        late = at.client()
        assert await late.handshake()


async def test_a_lost_flight_of_ours_is_sent_again() -> None:
    async with echo() as at:
        client = at.client()
        assert not await client.handshake(flights=2)
        loop = asyncio.get_running_loop()
        first = await asyncio.wait_for(loop.sock_recv(client.socket, 65_536), 5)
        second = await asyncio.wait_for(loop.sock_recv(client.socket, 65_536), 5)
        assert len(first) == len(second)
        client.connection.bio_write(second)
        assert await client.handshake()


async def test_the_idlest_session_makes_room() -> None:
    async with echo(Limits(max_sessions=2), A=(KEY,), B=(KEY,), C=(KEY,)) as at:
        a, b, c = (at.client(name) for name in "ABC")
        assert await a.handshake()
        assert await b.handshake()
        assert await a.echoes(b"still here")
        assert await c.handshake()
        assert at.server.counts == (2, 0)
        assert [session.identity for session in at.ended] == ["B"]
        assert await a.echoes(b"a")
        # It was told, so that it need not find out by silence.
        with pytest.raises(SSL.ZeroReturnError):
            await b.receive()


async def test_a_silent_session_is_forgotten_and_a_talking_one_is_not() -> None:
    async with echo(Limits(idle_s=0.8), A=(KEY,), B=(KEY,)) as at:
        talking, silent = at.client("A"), at.client("B")
        assert await talking.handshake()
        assert await silent.handshake()

        async def ended() -> bool:
            assert await talking.echoes(b"x")
            return bool(at.ended)

        await until(ended)
        assert [session.identity for session in at.ended] == ["B"]


async def test_a_client_that_says_good_bye_is_gone() -> None:
    async with echo() as at:
        client = at.client()
        assert await client.handshake()
        client.connection.shutdown()
        await client.flush()
        await until(lambda: _soon(at.ended))
        assert at.server.counts == (0, 0)


async def test_m3_a_rebooted_client_replaces_its_session_and_an_unfinished_one_does_not() -> None:
    async with echo() as at:
        client = at.client()
        assert await client.handshake()
        before, first = client.connection, at.sessions[0]
        # Whoever can write the sender's address can begin a handshake in its name, not finish it (RFC 6347 §4.2.8).
        client.restart()
        assert not await client.handshake(flights=2)
        await until(lambda: _soon(at.server.counts == (1, 1)))
        client.connection = before
        assert await client.echoes(b"the old one lives")
        client.restart()
        assert await client.handshake()
        assert at.server.counts == (1, 0)
        assert not first.is_open
        assert await client.echoes(b"the new one speaks")
        client.connection = before
        assert not await client.echoes(b"the old one is dead")


async def test_m17_an_identity_has_one_session_wherever_it_comes_from() -> None:
    async with echo() as at:
        here, there = at.client(), at.client()
        assert await here.handshake()
        # The NAT gave it another port: what it says from there under the old session is nobody's.
        assert not await _as_from(here, there.socket)
        assert await there.handshake()
        assert at.server.counts == (1, 0)
        assert await there.echoes(b"x")
        assert not await here.echoes(b"x")


async def _as_from(client: DtlsClient, other: socket.socket) -> bool:
    client.connection.send(b"from elsewhere")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(other, client.connection.bio_read(65_536))
    try:
        await asyncio.wait_for(loop.sock_recv(other, 65_536), 0.3)
    except TimeoutError:
        return False
    return True


async def test_m5_a_replayed_or_bent_record_is_not_heard_and_hurts_nobody() -> None:
    async with echo() as at:
        client = at.client()
        assert await client.handshake()
        assert await client.echoes(b"once")
        finished, record = client.sent[-2], client.sent[-1]
        await client.raw(record)
        chance = random.Random(3)
        for number in range(500):
            bent = bytearray(chance.choice((record, finished, client.sent[0], client.sent[1])))
            for _ in range(chance.randint(1, 4)):
                bent[chance.randrange(len(bent))] = chance.randrange(256)
            if number % 3 == 0:
                # A head that fits, so that OpenSSL itself must see through it.
                bent[0] = chance.choice((20, 21, 22, 23))
                bent[1:5] = b"\xfe\xfd\x00" + chance.choice((b"\x00", b"\x01", b"\x02"))
                bent[11:13] = (len(bent) - 13).to_bytes(2, "big")
            await client.raw(bytes(bent))
            await asyncio.sleep(0)
        assert await client.echoes(b"twice")
        assert at.ended == []


async def test_renegotiation_is_refused() -> None:
    async with echo() as at:
        client = at.client()
        assert await client.handshake()
        assert client.connection.get_cipher_name() == "PSK-AES128-CCM8"
        with suppress(SSL.Error):
            client.connection.renegotiate()
            client.connection.do_handshake()
        await client.flush()
        with suppress(SSL.Error, TimeoutError):
            await client.receive(0.3)
        assert len(at.sessions) == 1


@given(st.binary(max_size=200))
def test_any_datagram_splits_into_records_that_lie_within_it(datagram: bytes) -> None:
    records = list(dtls_records.split(datagram))
    assert b"".join(record.data for record in records) == datagram[: sum(len(record.data) for record in records)]
    for record in records:
        dtls_records.client_random(record)
        dtls_records.psk_identity(record)


async def _soon(value: Any) -> Any:
    return value
