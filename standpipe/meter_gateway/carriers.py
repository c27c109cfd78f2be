"""The carriers of one gateway process: each that is turned on, side by side."""

import asyncio

from standpipe.meter_gateway.dlms.server import run_dlms
from standpipe.meter_gateway.lorawan.server import run_lorawan
from standpipe.meter_gateway.lwm2m.server import run_gateway
from standpipe.platform.database import Sessions
from standpipe.platform.notify import Listener
from standpipe.platform.settings import Settings


async def run_carriers(settings: Settings, sessions: Sessions, listener: Listener) -> None:
    """Serve until cancelled. ``listener`` must listen to COMMANDS. Raises SettingsError where nothing is turned on."""
    lorawan, dlms = settings.lorawan.api_url is not None, settings.dlms.port is not None
    async with asyncio.TaskGroup() as group:
        if lorawan:
            group.create_task(run_lorawan(settings, sessions, listener))
        if dlms:
            group.create_task(run_dlms(settings, sessions, listener))
        if settings.coap.dtls or settings.coap.plain_udp or not (lorawan or dlms):
            group.create_task(run_gateway(settings, sessions, listener))
