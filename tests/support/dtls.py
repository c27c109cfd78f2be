"""A DTLS client of a few lines over a real socket, which does just what a test tells it; and a bare gateway side."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from OpenSSL import SSL

from standpipe.meter_gateway.lwm2m.dtls.keys import DtlsCredential
from standpipe.meter_gateway.lwm2m.dtls.server import DtlsServer, Limits
from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession
from standpipe_demo.simulator.meter_dtls import PskClientContext
from tests.support.database import free_port

KEY = bytes(range(16))


class DtlsClient:
    """``sent`` and ``heard`` keep every datagram."""

    def __init__(
        self, port: int, identity: str, key: bytes = KEY, own_port: int = 0, context: PskClientContext | None = None
    ) -> None:
        self._context = context or PskClientContext(lambda: (identity, key))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", own_port))
        self.socket.connect(("127.0.0.1", port))
        self.connection = self._context.connection()
        self.sent: list[bytes] = []
        self.heard: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def restart(self) -> None:
        """Forget the session, keep the port."""
        self.connection = self._context.connection()

    async def handshake(self, *, flights: int = 9, timeout_s: float = 5.0) -> bool:
        """Send up to ``flights`` flights; whether the handshake is complete."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        self.connection.do_handshake()
                    except SSL.WantReadError:
                        pass
                    except SSL.Error:
                        return False
                    else:
                        await self.flush()
                        return True
                    flights -= await self.flush()
                    if flights <= 0:
                        return False
                    data = await loop.sock_recv(self.socket, 65_536)
                    self.heard.append(data)
                    self.connection.bio_write(data)
        return False

    async def flush(self) -> bool:
        try:
            data = self.connection.bio_read(65_536)
        except SSL.WantReadError:
            return False
        await self.raw(data)
        return True

    async def raw(self, data: bytes) -> None:
        """A datagram as it is."""
        self.sent.append(data)
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def send(self, message: bytes) -> None:
        self.connection.send(message)
        await self.flush()

    async def receive(self, timeout_s: float = 5.0) -> bytes:
        """The next message. Raises TimeoutError; SSL.Error where the gateway has closed."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(SSL.WantReadError):
                    return self.connection.recv(16_384)
                data = await loop.sock_recv(self.socket, 65_536)
                self.heard.append(data)
                self.connection.bio_write(data)

    async def echoes(self, message: bytes) -> bool:
        """Whether an echoing server still takes this session for alive."""
        await self.send(message)
        try:
            return await self.receive(0.5) == message
        except (TimeoutError, SSL.Error):
            return False

    def close(self) -> None:
        self.socket.close()


@dataclass
class Echo:
    """A server side that answers each message with itself, and knows the identities that it is given."""

    port: int
    keys: dict[str, tuple[bytes, ...]]
    server: DtlsServer = field(init=False)
    sessions: list[DtlsSession] = field(default_factory=list)
    ended: list[DtlsSession] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    answers: bool = True
    clients: list[DtlsClient] = field(default_factory=list)

    async def look_up(self, identity: str) -> DtlsCredential | None:
        self.looked_up.append(identity)
        await self.gate.wait()
        keys = self.keys.get(identity)
        return None if keys is None else DtlsCredential(f"m-{identity}", keys, tuple(key.hex() for key in keys))

    def opened(self, session: DtlsSession) -> None:
        self.sessions.append(session)

    def received(self, session: DtlsSession, message: bytes) -> None:
        if self.answers:
            session.send(message)

    def closed(self, session: DtlsSession) -> None:
        self.ended.append(session)

    def client(self, identity: str = "A", key: bytes = KEY, own_port: int = 0) -> DtlsClient:
        self.clients.append(DtlsClient(self.port, identity, key, own_port))
        return self.clients[-1]


@asynccontextmanager
async def echo(limits: Limits | None = None, **keys: tuple[bytes, ...]) -> AsyncIterator[Echo]:
    made = Echo(free_port(), keys or {"A": (KEY,)})
    made.gate.set()
    made.server = DtlsServer(made.look_up, made, limits or Limits())
    await made.server.start("127.0.0.1", made.port)
    try:
        yield made
    finally:
        await made.server.shutdown()
        for client in made.clients:
            client.close()
