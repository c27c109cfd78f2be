"""A simulated meter's radio over DTLS 1.2 with a pre-shared key: a client that is asked as well as it asks.

The session outlives the meter's sleep, as the standard means it to, and dies with a loss of power. Written apart from
the gateway's side: the two meet in OpenSSL alone.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import aiocoap
from aiocoap.interfaces import EndpointAddress
from aiocoap.resource import Site
from aiocoap.transports.generic_udp import GenericMessageInterface
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from standpipe_demo.simulator.meter_radio import Radio

DTLS_1_2 = 0xFEFD
CIPHERS = b"PSK-AES128-CCM8:PSK-AES128-GCM-SHA256:@SECLEVEL=0"
MTU_BYTES = 1_200
HANDSHAKE_WITHIN_S = 6.0


class PskClientContext:
    """Contexts are dear and keys change, so one context asks for the key of the moment."""

    def __init__(self, credential: Callable[[], tuple[str, bytes]]) -> None:
        binding = Binding()
        self._ffi: Any = binding.ffi
        lib: Any = binding.lib
        self._credential = credential
        self.context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        self.context.set_min_proto_version(DTLS_1_2)
        self.context.set_max_proto_version(DTLS_1_2)
        self.context.set_cipher_list(CIPHERS)
        self.context.set_options(SSL.OP_NO_QUERY_MTU)
        signature = "unsigned int(SSL *, char *, char *, unsigned int, unsigned char *, unsigned int)"
        self._callback = self._ffi.callback(signature, self._psk)
        lib.SSL_CTX_set_psk_client_callback(self.context._context, self._callback)  # noqa: SLF001 - pyOpenSSL has no door here.

    def connection(self) -> SSL.Connection:
        """A client side over memory."""
        made = SSL.Connection(self.context, None)
        made.set_connect_state()
        made.set_ciphertext_mtu(MTU_BYTES)
        return made

    def _psk(self, _ssl: Any, _hint: Any, identity_out: Any, room: int, key_out: Any, key_room: int) -> int:
        identity, key = self._credential()
        name = identity.encode() + b"\0"
        if len(name) > room or len(key) > key_room:
            return 0
        self._ffi.memmove(identity_out, name, len(name))
        self._ffi.memmove(key_out, key, len(key))
        return len(key)


class _Gateway(EndpointAddress):  # type: ignore[misc]  # aiocoap is not typed.
    """The far end, for one waking."""

    scheme = "coap"
    is_multicast = is_multicast_locally = False
    hostinfo = hostinfo_local = "gateway"
    uri_base = uri_base_local = "coap://gateway"
    blockwise_key = "gateway"
    maximum_block_size_exp = 6

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.send = send


class _Transport(GenericMessageInterface):  # type: ignore[misc]  # aiocoap is not typed.
    def __init__(self, manager: Any, context: aiocoap.Context, radio: "DtlsRadio") -> None:
        super().__init__(manager, context.log, None)
        self._radio = radio
        self.gateway = _Gateway(radio.send)

    def received(self, message: bytes) -> None:
        self._received_datagram(self.gateway, message)

    async def recognize_remote(self, remote: Any) -> bool:
        return remote is self.gateway

    async def determine_remote(self, _request: Any) -> _Gateway:
        return self.gateway

    async def shutdown(self) -> None:
        self._mman = None
        self._radio.unplug()


class DtlsRadio(Radio):
    """``credential`` names identity and key at the time of a handshake; ``gateway`` whom it is held with."""

    def __init__(
        self,
        chance: random.Random,
        lose_datagram_rate: float,
        gateway: Callable[[], tuple[str, int]],
        credential: Callable[[], tuple[str, bytes]],
    ) -> None:
        super().__init__(chance, lose_datagram_rate)
        self._gateway = gateway
        self._client = PskClientContext(credential)
        self._connection: SSL.Connection | None = None
        self._done: asyncio.Future[bool] | None = None
        self._socket: asyncio.DatagramTransport | None = None
        self._transport: _Transport | None = None
        self.handshakes = 0
        self._refused = False

    async def reach(self, *, anew: bool = False) -> bool:
        """Have a session with the gateway; False where no handshake succeeds. ``anew``: whatever there was."""
        if anew:
            self.forget_session()
        # While its key is being replaced, the gateway may try the other one first: a refusal is worth a second try.
        return self._connection is not None or await self._handshake() or (self._refused and await self._handshake())

    async def _handshake(self) -> bool:
        self._refused = False
        loop = asyncio.get_running_loop()
        self._connection, self._done = self._client.connection(), loop.create_future()
        self._step()
        deadline_s = loop.time() + HANDSHAKE_WITHIN_S
        while not self._done.done() and loop.time() < deadline_s:
            wait_s = self._connection.DTLSv1_get_timeout() or 0.05
            await asyncio.wait({self._done}, timeout=min(wait_s, deadline_s - loop.time()))
            if not self._done.done():
                self._repeat()
        done, self._done = self._done.done() and self._done.result(), None
        if not done:
            self.forget_session()
        self.handshakes += done
        return done

    @property
    def is_connected(self) -> bool:
        """Tell whether the meter believes to have a session."""
        return self._connection is not None and self._done is None

    def forget_session(self) -> None:
        """Lose power, as far as DTLS goes."""
        self._connection = None

    def send(self, message: bytes) -> None:
        """Encrypt and send, if there is a session."""
        if self._connection is None or self._done is not None:
            return
        self._connection.send(message)
        self._flush()

    def unplug(self) -> None:
        """The socket goes; the session stays."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._transport = None

    def heard(self, data: bytes) -> None:
        """A datagram from the gateway."""
        if self._connection is None or self._chance.random() < self._lose_rate:
            return
        for _ in range(2 if self.says_twice else 1):
            self._take(data)

    def _take(self, data: bytes) -> None:
        if self._connection is None:
            return
        self._connection.bio_write(data)
        if self._done is not None and not self._step():
            return
        self._read()

    async def _open(self, site: Site, port: int) -> aiocoap.Context:
        radio = self

        class Ear(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                if addr[:2] == radio._gateway():
                    radio.heard(data)

        loop = asyncio.get_running_loop()
        self._socket, _ = await loop.create_datagram_endpoint(Ear, local_addr=("127.0.0.1", port))
        context = aiocoap.Context(serversite=site)

        async def construct(manager: Any) -> _Transport:
            self._transport = _Transport(manager, context, self)
            return self._transport

        add: Callable[[Any], Awaitable[None]] = context._append_tokenmanaged_messagemanaged_transport  # noqa: SLF001
        await add(construct)
        return context

    def _step(self) -> bool:
        """One step of the handshake; whether it is complete."""
        if self._connection is None or self._done is None or self._done.done():
            return False
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error:
            self._refused = True
            self._done.set_result(False)
            return False
        else:
            self._done.set_result(True)
            return True
        finally:
            self._flush()

    def _repeat(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error:
            return
        self._flush()

    def _read(self) -> None:
        try:
            while self._connection is not None:
                message = self._connection.recv(16_384)
                if self._transport is not None:
                    self._transport.received(message)
        except SSL.WantReadError:
            self._flush()
        except SSL.Error:
            self.forget_session()

    def _flush(self) -> None:
        if self._connection is None:
            return
        try:
            data = self._connection.bio_read(65_536)
        except SSL.WantReadError:
            return
        if self._socket is not None and self._chance.random() >= self._lose_rate:
            for _ in range(2 if self.says_twice else 1):
                self._socket.sendto(data, self._gateway())
