"""Observe and notify (RFC 7641) for meters that do not Send: the volume comes when it changes.

aiocoap lets go of an observation whose request nobody holds, and matches notifications to the session that it was made
in: both are kept here by meter, and made anew when the meter comes from elsewhere or this process has just begun.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiocoap
import structlog

from standpipe.engine.batcher import BusyError
from standpipe.meter_gateway.delivery import DeliveryDesk, Told
from standpipe.meter_gateway.lwm2m import objects, water
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.peer import MeterPeer, MeterRefusedError
from standpipe.meter_gateway.lwm2m.registrations import Registration
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.delivery_state import Heard
from standpipe.platform.clock import Clock
from standpipe.platform.database import DATABASE_DOWN
from standpipe.platform.errors import InvalidInputError, NotFoundError

MAX_TAKING = 64
"""Notifications being stored; what comes on top is left to the next one, which tells a register's total again."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Observation:
    location: str
    remote: str
    request: Any
    """aiocoap's; to hold it is to go on observing."""


def wants_observing(registration: Registration) -> bool:
    """LwM2M 1.0 knows no Send; a later client that has been through a waking without one is taken not to use it."""
    return not registration.sends and (registration.lwm2m.startswith("1.0") or registration.updates > 0)


class Observing:
    """At most one for each meter. ``heard`` is told of each notification: who notifies is awake."""

    def __init__(self, desk: DeliveryDesk, clock: Clock, heard: Callable[[str], None]) -> None:
        self._desk, self._clock, self._heard = desk, clock, heard
        self._kept: dict[str, _Observation] = {}
        self._taking: set[asyncio.Task[None]] = set()

    async def watch(self, peer: MeterPeer, registration: Registration, memory: ClientMemory) -> None:
        """Observe the volume, unless that is so already. Raises MeterAsleepError."""
        meter_id = registration.meter_id
        kept = self._kept.get(meter_id)
        if kept is not None and (kept.location, kept.remote) == (registration.location, registration.remote):
            return
        if not memory.is_observable:
            return
        self._forget(meter_id)
        try:
            request = await peer.observe(water.VOLUME_PATH)
        except MeterRefusedError as error:
            memory.is_observable = not error.is_final
            _log.info("not observable", meter_id=meter_id, reason=str(error))
            return
        if request is None:
            memory.is_observable = False
            return
        observation = _Observation(registration.location, registration.remote, request)
        self._kept[meter_id] = observation
        # Not by iterating: aiocoap's iterator drops what comes while its reader is busy.
        request.observation.register_callback(
            lambda message: self._notified(meter_id, message), _suppress_deprecation=True
        )
        request.observation.register_errback(
            lambda _error: self._ended(meter_id, observation), _suppress_deprecation=True
        )

    async def stop(self) -> None:
        """Let go of all; what was notified is stored first."""
        for meter_id in list(self._kept):
            self._forget(meter_id)
        await asyncio.gather(*self._taking, return_exceptions=True)

    def _forget(self, meter_id: str) -> None:
        kept = self._kept.pop(meter_id, None)
        if kept is not None and not kept.request.observation.cancelled:
            kept.request.observation.cancel()

    def _ended(self, meter_id: str, observation: _Observation) -> None:
        if self._kept.get(meter_id) is observation:
            del self._kept[meter_id]

    def _notified(self, meter_id: str, message: aiocoap.Message) -> None:
        if not message.code.is_successful() or len(self._taking) >= MAX_TAKING:
            return
        task = asyncio.get_running_loop().create_task(self._take(meter_id, message))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _take(self, meter_id: str, message: aiocoap.Message) -> None:
        now = self._clock.now()
        content_format = message.opt.content_format
        try:
            records = objects.decode(bytes(message.payload), int(content_format or 0), water.VOLUME_PATH)
            report = water.observations_of(records, now).report(meter_id, now)
            await self._desk(Told(Heard(meter_id, report)))
        except (ParsingError, InvalidInputError, NotFoundError, BusyError) as error:
            _log.warning("notification not usable", meter_id=meter_id, reason=str(error))
        except DATABASE_DOWN as error:
            # The next reading tells the register's total again: nothing is lost but an instant between.
            _log.warning("notification not stored", meter_id=meter_id, error=str(error))
        else:
            self._heard(meter_id)
