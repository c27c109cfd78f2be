"""The LwM2M bootstrap server (OMA-TS-LightweightM2M_Core-V1_1 §5.2): a meter's first contact, under a key of its own.

A meter leaves the factory with a bootstrap key and this server's address. It asks with ``POST /bs``; we write where
and under which key to speak from now on (objects 0 and 1), and end with ``POST /bs``. The key that it gets is the next
one of ``standpipe.meter_gateway.lwm2m.dtls.keys``: what gets lost on the way is simply written again.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiocoap
import structlog
from aiocoap.numbers.constants import TransportTuning
from aiocoap.resource import Site

from standpipe.meter_gateway.lwm2m import tlv
from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.dtls.coap import add_dtls, limits_of
from standpipe.meter_gateway.lwm2m.dtls.keys import DtlsCredential, IssuedKey
from standpipe.meter_gateway.lwm2m.dtls.server import DtlsServer
from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession
from standpipe.meter_gateway.lwm2m.endpoint import new_context, require_free
from standpipe.meter_gateway.lwm2m.identity import DtlsIdentity
from standpipe.meter_gateway.lwm2m.peer import MeterAsleepError, MeterPeer, MeterRefusedError, tuning
from standpipe.meter_gateway.lwm2m.request_limiter import RequestLimiter
from standpipe.meter_gateway.lwm2m.resources import Door, query_of
from standpipe.meters.keys import KeyRing
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotAuthenticatedError, NotFoundError, SettingsError
from standpipe.platform.settings import Settings

SERVER_ID = 101
"""Short server id, which ties object 1 to object 0 within the meter."""
LIFETIME_S = 86_400
REPLY_FIRST_S = 0.05
_SECURITY, _SERVER = "/0/1", "/1/0"  # Instance 0 of object 0 is the bootstrap server's own account.
_PSK_MODE = 0
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Bootstrap:
    """A running bootstrap server."""

    context: aiocoap.Context
    room: RequestLimiter
    door: "BootstrapDoor"

    async def stop(self) -> None:
        """End what is under way; the meters ask again."""
        await self.room.stop()
        await self.door.stop()
        await self.context.shutdown()


async def open_bootstrap(settings: Settings, sessions: Sessions, ring: KeyRing) -> Bootstrap | None:
    """The server that the settings describe; None where they turn it off. Raises SettingsError."""
    host, port = settings.coap.host, settings.coap.bootstrap_port
    if port is None:
        return None
    if not settings.coap.public_url:
        raise SettingsError("STANDPIPE_COAP_PUBLIC_URL is not set: the bootstrap server hands it to meters.")
    require_free(host, port, "STANDPIPE_COAP_BOOTSTRAP_PORT")

    async def look_up(identity: str) -> DtlsCredential | None:
        async with sessions() as session:
            try:
                return await dtls_keys.bootstrap_credential_of(session, ring, identity)
            except NotFoundError:
                return None

    context, room = new_context(), RequestLimiter()
    server = await add_dtls(context, look_up, limits_of(settings.dtls), lambda _: None, host=host, port=port)
    tuned = tuning(settings.coap.ack_timeout_s, settings.coap.max_retransmit)
    door = BootstrapDoor(room, sessions, ring, context, server, tuned, settings.coap.public_url)
    context.serversite = Site()
    for end in ([], [""]):
        context.serversite.add_resource(["bs", *end], door)
    _log.info("bootstrap server listens", host=host, port=port)
    return Bootstrap(context, room, door)


class BootstrapDoor(Door):
    """``POST /bs``: a meter asks to be told whom to speak with."""

    def __init__(
        self,
        room: RequestLimiter,
        sessions: Sessions,
        ring: KeyRing,
        context: aiocoap.Context,
        server: DtlsServer,
        tuned: TransportTuning,
        public_url: str,
    ) -> None:
        super().__init__(room)
        self._sessions, self._ring, self._context, self._server = sessions, ring, context, server
        self._tuned, self._public_url = tuned, public_url
        self._running: dict[str, asyncio.Task[None]] = {}

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Begin, once for each session at a time; the writing follows our answer. Raises NotAuthenticatedError."""
        remote: Any = request.remote
        if not isinstance(remote, DtlsSession):
            raise NotAuthenticatedError("bootstrap is for DTLS alone")
        DtlsIdentity().at_registration(remote, query_of(request).get("ep", ""))
        if remote.id not in self._running:
            task = asyncio.get_running_loop().create_task(self._run(remote))
            self._running[remote.id] = task
            task.add_done_callback(lambda _: self._running.pop(remote.id, None))
        return aiocoap.Message(code=aiocoap.CHANGED)

    async def stop(self) -> None:
        """End all."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, session: DtlsSession) -> None:
        try:
            await asyncio.sleep(REPLY_FIRST_S)
            await self._bootstrap(session)
        except (MeterAsleepError, MeterRefusedError) as error:
            # Half a bootstrap is none to the meter; it asks again, and is given the same key.
            _log.warning("bootstrap broken off", meter_id=session.meter_id, reason=str(error))
        except Exception:
            _log.exception("bootstrap failed", meter_id=session.meter_id)

    async def _bootstrap(self, session: DtlsSession) -> None:
        async with self._sessions.begin() as transaction:
            issued = await dtls_keys.key_for_bootstrap(transaction, self._ring, session.meter_id)
        peer = MeterPeer(self._context, session, self._tuned, self._server.close)
        try:
            await peer.execute(aiocoap.DELETE, "/")
        except MeterRefusedError as refusal:
            # What it knew before may stay; ours is written over it.
            _log.info("nothing deleted", meter_id=session.meter_id, reason=str(refusal))
        await peer.write(_SECURITY, security_object(self._public_url, issued), tlv.CONTENT_FORMAT)
        await peer.write(_SERVER, server_object(), tlv.CONTENT_FORMAT)
        await peer.execute(aiocoap.POST, "/bs")
        async with self._sessions.begin() as transaction:
            await dtls_keys.mark_bootstrapped(transaction, session.meter_id)
        _log.info("bootstrapped", meter_id=session.meter_id)


def security_object(url: str, issued: IssuedKey) -> bytes:
    """Object 0, an account at this gateway, in TLV."""
    return b"".join(
        (
            tlv.resource(0, url.encode()),
            tlv.resource(1, tlv.of_boolean(value=False)),
            tlv.resource(2, tlv.of_integer(_PSK_MODE)),
            tlv.resource(3, issued.identity.encode()),
            tlv.resource(5, issued.key),
            tlv.resource(10, tlv.of_integer(SERVER_ID)),
        )
    )


def server_object() -> bytes:
    """Object 1, how to behave towards it: keep notifications while out of reach, and do not mute Send."""
    return b"".join(
        (
            tlv.resource(0, tlv.of_integer(SERVER_ID)),
            tlv.resource(1, tlv.of_integer(LIFETIME_S)),
            tlv.resource(6, tlv.of_boolean(value=True)),
            tlv.resource(7, b"U"),
            tlv.resource(23, tlv.of_boolean(value=False)),
        )
    )
