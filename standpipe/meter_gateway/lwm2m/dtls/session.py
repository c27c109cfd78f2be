"""A DTLS session: to aiocoap a remote endpoint of its own, so that nothing from another session can answer for it."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog
from aiocoap.interfaces import EndpointAddress
from aiocoap.util import hostportjoin
from OpenSSL import SSL

from standpipe.meter_gateway.lwm2m.dtls.handshake import Address
from standpipe.meter_gateway.lwm2m.dtls.records import Record

MAX_MESSAGE_BYTES = 16_384
_log = structlog.get_logger(__name__)


class DtlsSession(EndpointAddress):  # type: ignore[misc]  # aiocoap is not typed.
    """One meter's proven presence at one address. Closed, it swallows what is sent to it."""

    scheme = "coaps"
    is_multicast = False
    is_multicast_locally = False
    maximum_block_size_exp = 6

    def __init__(
        self,
        connection: SSL.Connection,
        address: Address,
        *,
        identity: str,
        meter_id: str,
        key_name: str,
        local: str,
        send: Callable[[bytes, Address], None],
    ) -> None:
        self.address, self.identity, self.meter_id, self.key_name = address, identity, meter_id, key_name
        self._local = local
        self.id = secrets.token_urlsafe(12)
        self.heard_at_s = 0.0
        self._connection: SSL.Connection | None = connection
        self._send = send

    @property
    def hostinfo(self) -> str:
        """Host and port."""
        return str(hostportjoin(self.address[0], self.address[1]))

    @property
    def uri_base(self) -> str:
        """URI of the peer."""
        return f"coaps://{self.hostinfo}"

    @property
    def hostinfo_local(self) -> str:
        """Host and port of ours."""
        return self._local

    @property
    def uri_base_local(self) -> str:
        """URI of our side."""
        return f"coaps://{self._local}"

    @property
    def contact_address(self) -> str:
        """Address that registrations keep: this session and no other, even at the same address."""
        return f"dtls://{self.hostinfo}/{self.id}"

    @property
    def blockwise_key(self) -> object:
        """Blocks belong together only within one session (RFC 7252 §9.1.2)."""
        return self

    @property
    def is_open(self) -> bool:
        """Tell whether it still carries anything."""
        return self._connection is not None

    def send(self, message: bytes) -> None:
        """Encrypt and send; what does not fit into a datagram is dropped and logged."""
        if self._connection is None:
            return
        try:
            self._connection.send(message)
        except SSL.Error as error:
            _log.warning("message not sent", peer=self.hostinfo, size=len(message), error=str(error))
        self._flush()

    def receive(self, record: Record) -> Iterator[bytes]:
        """The messages in a record; one that does not decrypt holds none. Raises SSL.Error when the peer closes."""
        if self._connection is None:
            return
        self._connection.bio_write(record.data)
        try:
            while True:
                yield self._connection.recv(MAX_MESSAGE_BYTES)
        except SSL.WantReadError:
            return
        finally:
            # The last flight again, where the client has not heard it.
            self._flush()

    def close(self, *, notify: bool) -> None:
        """Forget the keys; ``notify`` tells the peer first."""
        if self._connection is None:
            return
        if notify:
            with suppress(SSL.Error):
                self._connection.shutdown()
            self._flush()
        self._connection = None

    def _flush(self) -> None:
        if self._connection is None:
            return
        with suppress(SSL.WantReadError):
            self._send(self._connection.bio_read(65_536), self.address)
