"""The gateway process: one CoAP endpoint, the contacts that it leads, and an ear for new commands."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiocoap
import structlog

from standpipe.meter_gateway.delivery import DeliveryDesk
from standpipe.meter_gateway.lwm2m.bootstrap import open_bootstrap
from standpipe.meter_gateway.lwm2m.contacts import Contacts
from standpipe.meter_gateway.lwm2m.dtls.coap import add_dtls, limits_of
from standpipe.meter_gateway.lwm2m.dtls.keyring import DtlsKeyLookup
from standpipe.meter_gateway.lwm2m.dtls.server import DtlsServer
from standpipe.meter_gateway.lwm2m.endpoint import new_context, open_endpoint, require_free
from standpipe.meter_gateway.lwm2m.identity import EachTransport, session_id_of
from standpipe.meter_gateway.lwm2m.peer import MeterAsleepError, MeterPeer, tuning
from standpipe.meter_gateway.lwm2m.request_limiter import RequestLimiter
from standpipe.meter_gateway.lwm2m.resources import make_site
from standpipe.meters.keys import KeyRing
from standpipe.platform.database import DATABASE_DOWN, Sessions, engine_of
from standpipe.platform.errors import NotFoundError, SettingsError, StandpipeError
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.platform.settings import Settings, require

_log = structlog.get_logger(__name__)


async def run_gateway(
    settings: Settings, sessions: Sessions, listener: Listener, ready: asyncio.Event | None = None
) -> None:
    """Serve until cancelled. ``listener`` must listen to COMMANDS.

    Raises SettingsError where no transport is turned on, a key is missing, or a port is taken.
    """
    require(settings, "meter_key_secrets")
    keys = KeyRing([secret.get_secret_value() for secret in settings.meter_key_secrets])
    lookup = DtlsKeyLookup(sessions, keys)
    # What was opened first closes last: requests and contacts end while there is still a socket to answer on.
    async with AsyncExitStack() as stack:
        air = await _open(settings, lookup)
        stack.push_async_callback(air.context.shutdown)
        bootstrap = await open_bootstrap(settings, sessions, keys)
        if bootstrap is not None:
            stack.push_async_callback(bootstrap.stop)
        stack.push_async_callback(lookup.stop)
        tuned = tuning(settings.coap.ack_timeout_s, settings.coap.max_retransmit)
        engine = engine_of(sessions)
        desk = DeliveryDesk(engine, settings.clock)
        stack.push_async_callback(desk.stop)
        contacts = Contacts(
            engine=engine,
            desk=desk,
            keys=keys,
            clock=settings.clock,
            object_id=settings.prepaid_object_id,
            peer_at=lambda remote: air.peer_at(remote, tuned),
        )
        stack.push_async_callback(contacts.stop)
        limiter = RequestLimiter()
        stack.push_async_callback(limiter.stop)
        air.context.serversite = make_site(
            limiter, keys=keys, identity=EachTransport(), contacts=contacts, clock=settings.clock
        )
        if ready is not None:
            ready.set()
        await _hear_commands(listener, contacts, lookup, air.dtls)


@dataclass(frozen=True, slots=True)
class _Air:
    """The endpoint, and its DTLS side where that is on."""

    context: aiocoap.Context
    dtls: DtlsServer | None

    def peer_at(self, remote: str, tuned: aiocoap.numbers.constants.TransportTuning) -> MeterPeer:
        """The meter at an address. Raises MeterAsleepError where that was a session which is no more."""
        session_id = session_id_of(remote)
        if session_id is None:
            return MeterPeer(self.context, remote, tuned)
        session = self.dtls.session(session_id) if self.dtls is not None else None
        if self.dtls is None or session is None:
            raise MeterAsleepError("its DTLS session has ended; it must begin another")
        return MeterPeer(self.context, session, tuned, self.dtls.close)


async def _open(settings: Settings, lookup: DtlsKeyLookup) -> _Air:
    if not settings.coap.plain_udp and not settings.coap.dtls:
        raise SettingsError(
            "STANDPIPE_COAP_DTLS and STANDPIPE_COAP_PLAIN_UDP are both off: no meter could speak. Turn DTLS on, or "
            "plain UDP on loopback or within your operator's private APN."
        )
    host, port = settings.coap.host, settings.coap.dtls_port
    if settings.coap.dtls:
        require_free(host, port, "STANDPIPE_COAP_DTLS_PORT")
    if settings.coap.plain_udp:
        context = await open_endpoint(host, settings.coap.port)
        _log.info("gateway listens without DTLS", host=host, port=settings.coap.port)
    else:
        context = new_context()
    if not settings.coap.dtls:
        return _Air(context, None)
    dtls = await add_dtls(context, lookup.look_up, limits_of(settings.dtls), lookup.opened, host=host, port=port)
    _log.info("gateway listens", host=host, port=port)
    return _Air(context, dtls)


async def _hear_commands(
    listener: Listener, contacts: Contacts, lookup: DtlsKeyLookup, dtls: DtlsServer | None
) -> None:
    """Send a new command at once to a meter that is still awake; the others hear of it when they wake."""
    async for meter_ids in listener.payloads(COMMANDS):
        if not meter_ids:
            contacts.begin_all_awake()
        for meter_id in meter_ids:
            try:
                if await _may_stay(contacts, meter_id):
                    continue
                # Its keys were taken away, or it is not registered yet.
                if dtls is not None:
                    await lookup.end_revoked(dtls, meter_id)
            except DATABASE_DOWN as error:
                _log.warning("command not looked at; it waits for the meter's next contact", error=str(error))
            except StandpipeError as error:
                # One meter's trouble (a key that no secret opens) is not the others'.
                _log.error("command not looked at", meter_id=meter_id, error=str(error))


async def _may_stay(contacts: Contacts, meter_id: str) -> bool:
    """Look a meter up anew and begin a contact where it is awake; False where its DTLS sessions are in doubt."""
    contacts.drop(meter_id)
    try:
        known = await contacts.known(meter_id)
    except NotFoundError:
        contacts.forget(meter_id)
        return False
    if known.registration.awake:
        contacts.begin(meter_id)
    return known.may_stay
