"""A DTLS 1.2 server with pre-shared keys on one UDP socket (RFC 6347), over OpenSSL's memory BIOs.

Until an address has returned its cookie, nothing is kept of it and it gets one small datagram for a larger one (M8).
A new ClientHello from an address with a session is a handshake beside it: the session lives on until that is complete
(RFC 6347 §4.2.8), or anybody who can write a sender's address could end it.
"""

import asyncio
import hashlib
import hmac
import secrets
import socket
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import structlog
from aiocoap.util import hostportjoin
from OpenSSL import SSL

from standpipe.meter_gateway.lwm2m.dtls import records
from standpipe.meter_gateway.lwm2m.dtls.handshake import Address, Handshake, Step
from standpipe.meter_gateway.lwm2m.dtls.keys import DtlsCredential
from standpipe.meter_gateway.lwm2m.dtls.psk import MTU_BYTES, PskServerContext
from standpipe.meter_gateway.lwm2m.dtls.records import Record
from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession

COOKIE_BYTES = 16
COOKIE_KEY_LIFE_S = 600.0
MAX_REMEMBERED = 10_000
"""Identities whose last try failed with one of two keys."""
MAX_LOOK_UPS = 16
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one gateway. Handshakes are counted by host: behind a carrier's NAT many meters share one."""

    max_sessions: int = 20_000
    idle_s: float = 86_400.0
    handshake_timeout_s: float = 60.0
    max_handshakes: int = 1_000
    max_handshakes_per_host: int = 200


class Listener(Protocol):
    """Listener to what sessions do."""

    def opened(self, session: DtlsSession) -> None:
        """A meter has proven its key."""
        ...

    def received(self, session: DtlsSession, message: bytes) -> None:
        """A message came, authentic and once."""
        ...

    def closed(self, session: DtlsSession) -> None:
        """Nothing more comes or goes."""
        ...


class DtlsServer(asyncio.DatagramProtocol):
    """Sessions by address, at most one for each identity; the least recently heard is the first to go."""

    def __init__(
        self, look_up: Callable[[str], Awaitable[DtlsCredential | None]], listener: Listener, limits: Limits
    ) -> None:
        self._look_up, self._listener, self._limits = look_up, listener, limits
        self._sessions: OrderedDict[Address, DtlsSession] = OrderedDict()
        self._by_identity: dict[str, DtlsSession] = {}
        self._by_id: dict[str, DtlsSession] = {}
        self._handshakes: dict[Address, Handshake] = {}
        self._per_host: Counter[str] = Counter()
        self._other_slot: OrderedDict[str, int] = OrderedDict()
        self._cookie_keys = [secrets.token_bytes(32), secrets.token_bytes(32)]
        self._failures = self._refusals = 0
        self._decoy = secrets.token_bytes(32)
        self._now_at: Address = ("", 0)
        self._now_in: Handshake | None = None
        self._context = PskServerContext(
            key_for=self._key_for, make_cookie=lambda: self._cookie(0), is_cookie=self._is_cookie
        )
        self._spare = self._context.connection()
        self._local = ""
        self._transport: asyncio.DatagramTransport | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self._look_up_room = asyncio.Semaphore(MAX_LOOK_UPS)
        self._chores: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Bind and serve. Raises OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self._chores = {loop.create_task(self._turn_cookie_keys()), loop.create_task(self._sweep())}

    async def shutdown(self) -> None:
        """Say good-bye to every peer and release the port."""
        for task in (*self._chores, *self._looking):
            task.cancel()
        await asyncio.gather(*self._chores, *self._looking, return_exceptions=True)
        for handshake in list(self._handshakes.values()):
            self._drop(handshake)
        for session in list(self._sessions.values()):
            self.close(session)
        if self._transport is not None:
            self._transport.close()

    def session(self, session_id: str) -> DtlsSession | None:
        """An open session by its id."""
        return self._by_id.get(session_id)

    def sessions_of(self, meter_id: str) -> list[DtlsSession]:
        """The open sessions of a meter."""
        return [session for session in self._sessions.values() if session.meter_id == meter_id]

    def close(self, session: DtlsSession, *, notify: bool = True) -> None:
        """End a session."""
        if self._by_id.pop(session.id, None) is None:
            return
        if self._sessions.get(session.address) is session:
            del self._sessions[session.address]
        if self._by_identity.get(session.identity) is session:
            del self._by_identity[session.identity]
        session.close(notify=notify)
        self._listener.closed(session)

    @property
    def counts(self) -> tuple[int, int]:
        """(sessions, handshakes under way)."""
        return len(self._sessions), len(self._handshakes)

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        # Not isinstance: until Python 3.12 asyncio's own datagram transport does not say that it is one.
        self._transport = cast("asyncio.DatagramTransport", transport)
        self._local = str(hostportjoin(*transport.get_extra_info("sockname")[:2]))
        # A town that wakes at once is to find room; the kernel gives less where its own limit is lower.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def error_received(self, exc: Exception) -> None:
        """An ICMP message, which anybody can forge: nothing follows from it."""
        _log.debug("icmp", error=str(exc))

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Sort out a datagram's records: to the listener, to a handshake, to a session, or nowhere."""
        for record in records.split(data):
            if record.message == records.CLIENT_HELLO:
                self._hello(record, addr)
                return
            handshake = self._handshakes.get(addr)
            encrypted = record.epoch > 0 and record.type != records.HANDSHAKE
            if handshake is not None and not encrypted:
                self._after(handshake, self._run(handshake, partial(Handshake.feed, record=record)))
            elif (session := self._sessions.get(addr)) is not None:
                self._into(session, record)

    # The cookie exchange.

    def _hello(self, record: Record, address: Address) -> None:
        hello_random = records.client_random(record)
        before = self._handshakes.get(address)
        if len(record.data) > MTU_BYTES or hello_random is None or (before and before.hello_random == hello_random):
            return
        self._now_at = address
        connection = self._spare
        try:
            connection.bio_write(record.data)
            connection.DTLSv1_listen()
        except SSL.WantReadError:
            with suppress(SSL.WantReadError):
                self._send(connection.bio_read(MTU_BYTES), address)
            return
        except SSL.Error:
            # Of a fresh one it is certain that nothing lingers in it.
            self._spare = self._context.connection()
            return
        self._spare = self._context.connection()
        if before is not None:
            self._drop(before)
        if not self._has_room(address):
            self._refusals += 1
            return
        self._begin(Handshake(connection, address, hello_random, self._decoy))

    def _has_room(self, address: Address) -> bool:
        return (
            len(self._handshakes) < self._limits.max_handshakes
            and self._per_host[address[0]] < self._limits.max_handshakes_per_host
        )

    def _cookie(self, age: int) -> bytes:
        # The address alone: what else a ClientHello says may change between its first and its second sending.
        return hmac.digest(self._cookie_keys[age], repr(self._now_at).encode(), hashlib.sha256)[:COOKIE_BYTES]

    def _is_cookie(self, cookie: bytes) -> bool:
        return any(hmac.compare_digest(cookie, self._cookie(age)) for age in range(len(self._cookie_keys)))

    def turn_cookie_key(self) -> None:
        """Cookies are made with a fresh key from now on; those of the key before are still good."""
        self._cookie_keys = [secrets.token_bytes(32), self._cookie_keys[0]]

    async def _turn_cookie_keys(self) -> None:
        while True:
            await asyncio.sleep(COOKIE_KEY_LIFE_S)
            self.turn_cookie_key()

    # Handshakes.

    def _begin(self, handshake: Handshake) -> None:
        self._handshakes[handshake.address] = handshake
        self._per_host[handshake.address[0]] += 1
        late = asyncio.get_running_loop().call_later(self._limits.handshake_timeout_s, self._give_up, handshake)
        handshake.timers.append(late)
        handshake.connection.set_ciphertext_mtu(MTU_BYTES)
        self._after(handshake, self._run(handshake, Handshake.begin))

    def _run(self, handshake: Handshake, step: Callable[[Handshake], Step]) -> Step:
        # OpenSSL's callback has no room for whose step it is.
        self._now_in = handshake
        try:
            return step(handshake)
        finally:
            self._now_in = None

    def _key_for(self, identity: bytes) -> bytes:
        return self._now_in.key_for(identity) if self._now_in is not None else secrets.token_bytes(16)

    def _after(self, handshake: Handshake, step: Step) -> None:
        """Send what a step has to say, and see to what comes next."""
        if out := handshake.outgoing():
            self._send(out, handshake.address)
        match step:
            case Step.MORE:
                self._arm(handshake)
            case Step.LOOK_UP:
                task = asyncio.get_running_loop().create_task(self._find_key(handshake))
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)
            case Step.WRONG_KEY:
                self._send(records.refusal(), handshake.address)
                self._failed(handshake)
            case Step.BROKEN:
                self._failed(handshake)
            case Step.DONE:
                self._complete(handshake)

    def _arm(self, handshake: Handshake) -> None:
        for timer in handshake.timers[1:]:
            timer.cancel()
        del handshake.timers[1:]
        wait_s = handshake.connection.DTLSv1_get_timeout()
        if wait_s is not None:
            loop = asyncio.get_running_loop()
            handshake.timers.append(loop.call_later(wait_s, self._retransmit, handshake))

    def _retransmit(self, handshake: Handshake) -> None:
        handshake.retransmit()
        self._after(handshake, Step.MORE)

    async def _find_key(self, handshake: Handshake) -> None:
        credential, identity = None, _readable(handshake.identity)
        try:
            # Also where the identity is none of ours at sight: it must take its time like any other.
            async with self._look_up_room:
                credential = await self._look_up(identity or "")
        except Exception:
            _log.exception("key not looked up")
            handshake.forget_identity()
            return
        if self._handshakes.get(handshake.address) is not handshake:
            return
        if credential is not None and not credential.keys:
            credential = None
        slot = self._other_slot.get(identity, 0) if credential is not None and len(credential.keys) > 1 else 0
        self._after(handshake, self._run(handshake, lambda it: it.resume(credential, slot)))

    def _give_up(self, handshake: Handshake) -> None:
        self._failed(handshake)

    def _failed(self, handshake: Handshake) -> None:
        """Nothing is left of it, but that its next try is with the other key where there are two."""
        self._drop(handshake)
        credential = handshake.credential
        self._failures += 1
        _log.debug("handshake failed", peer=handshake.address[0], meter_id=credential.meter_id if credential else None)
        if credential is not None and len(credential.keys) > 1:
            identity = _readable(handshake.identity)
            self._other_slot[identity] = 1 - handshake.slot
            self._other_slot.move_to_end(identity)
            if len(self._other_slot) > MAX_REMEMBERED:
                self._other_slot.popitem(last=False)

    def _drop(self, handshake: Handshake) -> None:
        handshake.cancel_timers()
        if self._handshakes.get(handshake.address) is handshake:
            del self._handshakes[handshake.address]
            host = handshake.address[0]
            self._per_host[host] -= 1
            if not self._per_host[host]:
                del self._per_host[host]

    def _complete(self, handshake: Handshake) -> None:
        self._drop(handshake)
        identity, credential = _readable(handshake.identity), handshake.credential
        if credential is None:
            return
        self._other_slot.pop(identity, None)
        session = DtlsSession(
            handshake.connection,
            handshake.address,
            identity=identity,
            meter_id=credential.meter_id,
            key_name=credential.names[handshake.slot],
            local=self._local,
            send=self._send,
        )
        # What was there before has lost its peer: nobody is left to be told.
        for old in (self._sessions.get(handshake.address), self._by_identity.get(identity)):
            if old is not None:
                self.close(old, notify=False)
        while len(self._sessions) >= self._limits.max_sessions:
            self.close(next(iter(self._sessions.values())))
        self._sessions[session.address] = self._by_identity[identity] = self._by_id[session.id] = session
        session.heard_at_s = asyncio.get_running_loop().time()
        self._listener.opened(session)

    # Sessions.

    def _into(self, session: DtlsSession, record: Record) -> None:
        try:
            for message in session.receive(record):
                session.heard_at_s = asyncio.get_running_loop().time()
                self._sessions.move_to_end(session.address)
                self._listener.received(session, message)
        except SSL.Error:
            # A close_notify or another fatal alert, which only the holder of the key can send.
            self.close(session)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(60.0, self._limits.idle_s / 4))
            idle_since_s = loop.time() - self._limits.idle_s
            while self._sessions and next(iter(self._sessions.values())).heard_at_s < idle_since_s:
                self.close(next(iter(self._sessions.values())))
            if self._failures or self._refusals:
                # One line for them all: a line for each would let anybody fill the operator's disk.
                _log.warning("handshakes failed", failed=self._failures, refused_for_want_of_room=self._refusals)
                self._failures = self._refusals = 0

    def _send(self, datagram: bytes, address: Address) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram, address)


def _readable(identity: bytes | None) -> str:
    """An identity as text; empty for one that no meter of ours can have."""
    if identity is None or len(identity) > records.MAX_IDENTITY_BYTES:
        return ""
    try:
        text = identity.decode()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""
