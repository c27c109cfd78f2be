"""CoAP over our DTLS sessions: an aiocoap transport, whose remotes are the sessions themselves."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiocoap
import structlog
from aiocoap.transports.generic_udp import GenericMessageInterface

from standpipe.meter_gateway.lwm2m.dtls.keys import DtlsCredential
from standpipe.meter_gateway.lwm2m.dtls.server import DtlsServer, Limits
from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession
from standpipe.platform.setting_groups import DtlsSettings

_log = structlog.get_logger(__name__)


class DtlsTransport(GenericMessageInterface):  # type: ignore[misc]  # aiocoap is not typed.
    """Set up by ``add_dtls``; aiocoap shuts it down with its context."""

    def __init__(
        self,
        manager: Any,
        look_up: Callable[[str], Awaitable[DtlsCredential | None]],
        limits: Limits,
        on_open: Callable[[DtlsSession], None],
    ) -> None:
        super().__init__(manager, logging.getLogger("coap-server"), None)
        self._on_open = on_open
        # The name by which GenericMessageInterface shuts it down.
        self._pool = self.server = DtlsServer(look_up, self, limits)

    async def recognize_remote(self, remote: Any) -> bool:
        """Tell whether a request's remote is one of our sessions."""
        return isinstance(remote, DtlsSession)

    async def determine_remote(self, request: Any) -> None:
        """A server opens no session to a name: a request must bring the session of the meter that it is for."""
        del request

    def opened(self, session: DtlsSession) -> None:
        """A meter has proven its key."""
        _log.info("session opened", peer=session.hostinfo, meter_id=session.meter_id)
        self._on_open(session)

    def received(self, session: DtlsSession, message: bytes) -> None:
        """A CoAP message; what is none is dropped."""
        try:
            self._received_datagram(session, message)
        except UnicodeDecodeError:
            _log.debug("message dropped: an option is not UTF-8", peer=session.hostinfo)

    def closed(self, session: DtlsSession) -> None:
        """Whoever waits for an answer from this session waits in vain."""
        if self._mman is not None:
            self._received_exception(session, OSError("the DTLS session has ended"))


async def add_dtls(
    context: aiocoap.Context,
    look_up: Callable[[str], Awaitable[DtlsCredential | None]],
    limits: Limits,
    on_open: Callable[[DtlsSession], None],
    *,
    host: str,
    port: int,
) -> DtlsServer:
    """Have a context serve and ask over DTLS too. Raises OSError where the port is taken."""
    made: list[DtlsTransport] = []

    async def construct(manager: Any) -> DtlsTransport:
        made.append(DtlsTransport(manager, look_up, limits, on_open))
        await made[0].server.start(host, port)
        return made[0]

    await context._append_tokenmanaged_messagemanaged_transport(construct)  # noqa: SLF001 - aiocoap's own way in.
    return made[0].server


def limits_of(settings: DtlsSettings) -> Limits:
    """Return what the settings let one DTLS port hold."""
    return Limits(
        max_sessions=settings.max_sessions,
        idle_s=settings.idle_h * 3600,
        handshake_timeout_s=settings.handshake_timeout_s,
        max_handshakes=settings.max_handshakes,
        max_handshakes_per_host=settings.max_handshakes_per_host,
    )
