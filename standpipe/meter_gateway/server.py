"""The gateway process: one CoAP endpoint, the contacts that it leads, and an ear for new commands."""

import asyncio
import socket
from contextlib import suppress

import structlog

from standpipe.db.engine import DATABASE_DOWN, Sessions
from standpipe.db.notify import COMMANDS, Listener
from standpipe.errors import NotFoundError, SettingsError
from standpipe.meter_gateway.contacts import Contacts
from standpipe.meter_gateway.endpoint import open_endpoint
from standpipe.meter_gateway.identity import PlainUdpIdentity
from standpipe.meter_gateway.peer import MeterPeer, tuning
from standpipe.meter_gateway.resources import make_site
from standpipe.meter_gateway.workroom import Workroom
from standpipe.meters import registrations
from standpipe.meters.keys import KeyRing
from standpipe.settings import Settings, require

_log = structlog.get_logger(__name__)


async def run_gateway(
    settings: Settings, sessions: Sessions, listener: Listener, ready: asyncio.Event | None = None
) -> None:
    """Serve until cancelled. ``listener`` must listen to COMMANDS.

    Raises SettingsError where no transport is turned on, a key is missing, or the port is taken.
    """
    require(settings, "meter_key_secrets")
    keys = KeyRing([secret.get_secret_value() for secret in settings.meter_key_secrets])
    if not settings.coap_plain_udp:
        raise SettingsError(
            "STANDPIPE_COAP_PLAIN_UDP is off, and this release has no DTLS yet: turn it on only on loopback or "
            "within your operator's private APN."
        )
    _require_free(settings.coap_host, settings.coap_port)
    context = await open_endpoint(settings.coap_host, settings.coap_port)
    tuned = tuning(settings.coap_ack_timeout_s, settings.coap_max_retransmit)
    contacts = Contacts(
        sessions=sessions,
        keys=keys,
        clock=settings.clock,
        object_id=settings.prepaid_object_id,
        peer_at=lambda remote: MeterPeer(context, remote, tuned),
    )
    room = Workroom()
    context.serversite = make_site(
        room, sessions=sessions, keys=keys, identity=PlainUdpIdentity(), contacts=contacts, clock=settings.clock
    )
    ears = asyncio.create_task(_hear_commands(sessions, listener, contacts))
    _log.info("gateway listens", host=settings.coap_host, port=settings.coap_port)
    if ready is not None:
        ready.set()
    try:
        await ears
    finally:
        ears.cancel()
        with suppress(asyncio.CancelledError):
            await ears
        await room.stop()
        await contacts.stop()
        await context.shutdown()


async def _hear_commands(sessions: Sessions, listener: Listener, contacts: Contacts) -> None:
    """Send a new command at once to a meter that is still awake; the others hear of it when they wake."""
    async for meter_ids in listener.payloads(COMMANDS):
        if not meter_ids:
            contacts.begin_all_awake()
        for meter_id in meter_ids:
            try:
                async with sessions() as session:
                    registration = await registrations.by_meter(session, meter_id)
            except NotFoundError:
                continue
            except DATABASE_DOWN as error:
                _log.warning("command not looked at; it waits for the meter's next contact", error=str(error))
                continue
            if registration.awake:
                contacts.begin(meter_id)


def _require_free(host: str, port: int) -> None:
    # aiocoap binds with SO_REUSEPORT, under which two gateways would silently share out each other's datagrams.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"UDP port {port} on {host} cannot be used ({error.strerror}); set STANDPIPE_COAP_PORT to a free one."
            ) from None
