"""Objects that a meter is asked for at a contact: its volume each time, its others once for each registration."""

import re
from datetime import datetime

import structlog

from standpipe.meter_gateway.lwm2m import objects, water
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.peer import MeterPeer, MeterRefusedError
from standpipe.meter_gateway.lwm2m.registrations import Registration
from standpipe.meter_gateway.lwm2m.water import Observations
from standpipe.meter_gateway.parsing import ParsingError

# Of the device object the battery alone: the rest of it never changes.
_OTHERS = {"3": "/3/0/9"} | {number: f"/{number}/0" for number in ("4", "3411", "3425", *map(str, range(10272, 10276)))}
_LINK = re.compile(r"</(\d{1,5})/(\d{1,5})/?>")
_log = structlog.get_logger(__name__)


async def read_objects(
    peer: MeterPeer, registration: Registration, memory: ClientMemory, now: datetime, *, all_of_them: bool
) -> Observations:
    """Read the standard objects; what the meter refuses or garbles is left out. Raises MeterAsleepError."""
    found = await _read(peer, registration, memory, water.METER_PATH, now)
    if not all_of_them:
        # Each question costs the meter's battery. What changes later it tells by itself: in a Send, or notified.
        return found
    for number, instance in dict.fromkeys(_LINK.findall(registration.objects)):
        if number in _OTHERS and instance == "0":
            found = found.plus(await _read(peer, registration, memory, _OTHERS[number], now))
    return found


async def _read(
    peer: MeterPeer, registration: Registration, memory: ClientMemory, path: str, now: datetime
) -> Observations:
    was_refused = path in memory.refused
    try:
        payload, content_format = await peer.read_object(path, memory)
        return water.observations_of(objects.decode(payload, content_format, path), now)
    except (ParsingError, MeterRefusedError) as error:
        if not was_refused:
            _log.warning("object not readable", meter_id=registration.meter_id, path=path, reason=str(error))
        return Observations()
