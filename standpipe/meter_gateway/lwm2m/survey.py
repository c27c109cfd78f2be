"""What a meter is asked at a contact: its volume each time, its other objects once for each registration."""

import re
from datetime import datetime

import structlog

from standpipe.meter_gateway.lwm2m import objects, water
from standpipe.meter_gateway.lwm2m.peer import MeterPeer, MeterRefusedError
from standpipe.meter_gateway.lwm2m.registrations import Registration
from standpipe.meter_gateway.lwm2m.water import Facts
from standpipe.meter_gateway.parsing import ParsingError

# Of the device object the battery alone: the rest of it never changes.
_OTHERS = {"3": "/3/0/9"} | {number: f"/{number}/0" for number in ("4", "3411", "3425", *map(str, range(10272, 10276)))}
_LINK = re.compile(r"</(\d{1,5})/(\d{1,5})/?>")
_log = structlog.get_logger(__name__)


async def survey(peer: MeterPeer, registration: Registration, now: datetime) -> Facts:
    """Facts by asking; what the meter refuses or garbles is left out. Raises MeterAsleepError."""
    facts = await _read(peer, registration, water.METER_PATH, now)
    if registration.updates:
        # Each question costs the meter's battery. What changes later it tells by itself: in a Send, or notified.
        return facts
    for number, instance in dict.fromkeys(_LINK.findall(registration.objects)):
        if number in _OTHERS and instance == "0":
            facts = facts.plus(await _read(peer, registration, _OTHERS[number], now))
    return facts


async def _read(peer: MeterPeer, registration: Registration, path: str, now: datetime) -> Facts:
    try:
        payload, content_format = await peer.read_object(path, tlv_first=registration.lwm2m.startswith("1.0"))
        return water.facts_of(objects.decode(payload, content_format, path), now)
    except (ParsingError, MeterRefusedError) as error:
        _log.warning("object not readable", meter_id=registration.meter_id, path=path, reason=str(error))
        return Facts()
