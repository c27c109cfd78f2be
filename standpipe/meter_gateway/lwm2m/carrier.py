"""One LwM2M meter within reach: its status report and its objects read, our commands written."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import structlog

from standpipe.meter_gateway import prepaid
from standpipe.meter_gateway.delivery import CommandRefusedError, Spoken
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.commands import carry, read_tables
from standpipe.meter_gateway.lwm2m.peer import MeterPeer, MeterRefusedError
from standpipe.meter_gateway.lwm2m.read_objects import read_objects
from standpipe.meter_gateway.lwm2m.registrations import Known
from standpipe.meter_gateway.lwm2m.water import Observations
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.translation import status_report_of
from standpipe.meters.delivery_state import OutgoingCommand
from standpipe.meters.reports import MeterReport, StatusReport
from standpipe.platform.clock import Clock

_log = structlog.get_logger(__name__)


@dataclass
class Lwm2mCarrier:
    """A contact's view of the meter; see ``delivery.Carrier``.

    Where commands wait, they go first: a customer waits for them, and the meter's other objects are read after them.
    """

    name: ClassVar[str] = "coap"

    peer: MeterPeer
    known: Known
    memory: ClientMemory
    object_id: int
    clock: Clock
    _answered: Observations = field(default_factory=Observations)
    _is_first: bool = True
    _objects_read: bool = False
    _has_sent: bool = False

    async def listen(self) -> Spoken:
        """Read the status report, and at first what else the meter has to tell. Raises MeterAsleepError."""
        found, self._answered = self._answered, Observations()
        if self._is_first and not self.known.waits:
            found = found.plus(await self._objects())
        if self._is_first and self.known.asks_tables:
            found = found.plus(await read_tables(self.peer, self.known.identity, self.object_id))
        self._is_first = False
        return Spoken(self._report(found, await self._status()))

    async def send(self, command: OutgoingCommand) -> None:
        """Write a command. Raises MeterAsleepError, CommandRefusedError."""
        self._has_sent = True
        try:
            self._answered = await carry(self.peer, self.known, self.memory, command, self.object_id, self.clock)
        except MeterRefusedError as error:
            # A meter in trouble (5.xx) may have taken the command all the same: only its status report can tell.
            lacks = error.code in _HAS_NO_SUCH
            raise CommandRefusedError(str(error), is_final=error.is_final, is_lacking=lacks) from error

    async def rest(self) -> MeterReport | None:
        """Read what was put off for commands; None where that tells nothing new. Raises MeterAsleepError."""
        if self._objects_read:
            return None
        found = await self._objects()
        report = self._report(replace(found, readings=()), None)
        tells = report.conditions or report.measures or report.battery_percent is not None
        return report if tells else None

    async def _objects(self) -> Observations:
        self._objects_read = True
        registration, now = self.known.registration, self.clock.now()
        is_new = registration.updates == 0
        found = await read_objects(self.peer, registration, self.memory, now, all_of_them=is_new)
        return self.memory.new_in(found, now)

    async def _status(self) -> StatusReport | None:
        """The meter's status report; None for one that is none of this meter's, or where it has none (M22)."""
        identity, path = self.known.identity, f"/{self.object_id}/0/1"
        if path in self.memory.refused and not (self.known.waits or self._has_sent):
            return None
        try:
            frame = await self.peer.read_status(self.object_id)
            status = prepaid.StatusFrame.from_bytes(frame, identity.prepaid_key, identity.serial)
        except (ParsingError, MeterRefusedError) as error:
            if isinstance(error, MeterRefusedError) and error.code in _HAS_NO_SUCH:
                self.memory.refused.add(path)
            _log.warning("status report not usable", meter_id=identity.meter_id, reason=str(error))
            return None
        return status_report_of(status, identity.wallet_kind)

    def _report(self, found: Observations, status: StatusReport | None) -> MeterReport:
        # One clock for one register: a status report carries the meter's own time and a MAC, a plain read neither, and
        # the two clocks may differ by more than the water between them.
        told = () if status is not None else found.readings
        empty_pipe = bool(found.readings) and found.readings[-1].empty_pipe
        report = found.report(self.known.identity.meter_id, self.clock.now())
        return replace(report, readings=told, status=status, empty_pipe=empty_pipe)


_HAS_NO_SUCH = ("4.04", "4.05")
"""Not found, and not allowed: the meter has no such resource, and will have none before its firmware changes."""
