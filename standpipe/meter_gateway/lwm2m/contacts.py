"""A contact: what we do while a meter is awake. Read back first, then send what waits, one command at a time.

The meter's statement comes first because a command whose answer was lost may have been taken; only the meter can
tell. Contacts with one meter never overlap in this process, and if two processes met, sequence numbers and totals
would make it harmless.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from standpipe.meter_gateway import prepaid
from standpipe.meter_gateway.lwm2m import registrations
from standpipe.meter_gateway.lwm2m.observing import Observations, wants_observing
from standpipe.meter_gateway.lwm2m.orders import carry, read_tables
from standpipe.meter_gateway.lwm2m.peer import MeterAsleepError, MeterPeer, MeterRefusedError
from standpipe.meter_gateway.lwm2m.registrations import Registration
from standpipe.meter_gateway.lwm2m.rekey import rekey
from standpipe.meter_gateway.lwm2m.survey import survey
from standpipe.meter_gateway.lwm2m.water import Facts
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.translation import KINDS, command_frame_of, status_report_of
from standpipe.meters import commands
from standpipe.meters.commands import OutgoingCommand
from standpipe.meters.identity import MeterIdentity, by_meter_id
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CommandKind
from standpipe.platform import metrics, tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.readings.reports import take_report

CARRIER = "coap"
MAX_COMMANDS = 8
MAX_CONTACTS = 64
REPLY_FIRST_S = 0.05
"""A contact starts this long after the request that woke it, so that our reply to that is on its way first."""

_log = structlog.get_logger(__name__)


class Contacts:
    """Runs contacts in the background, at most one per meter and MAX_CONTACTS at once."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        keys: KeyRing,
        clock: Clock,
        object_id: int,
        peer_at: Callable[[str], MeterPeer],
    ) -> None:
        self._sessions, self._keys, self._clock = sessions, keys, clock
        self._object_id, self._peer_at = object_id, peer_at
        self._running: dict[str, asyncio.Task[None]] = {}
        self._peers: dict[str, MeterPeer] = {}
        self._again: set[str] = set()
        self._alive: set[str] = set()
        self._listens_until_s: dict[str, float] = {}
        self._room = asyncio.Semaphore(MAX_CONTACTS)
        self._observations = Observations(sessions, clock, self.heard)

    def begin(self, meter_id: str) -> None:
        """Something waits for the meter: start a contact, or have the present one look again."""
        if meter_id in self._running:
            self._again.add(meter_id)
            return
        self._running[meter_id] = asyncio.create_task(self._run(meter_id), name=f"contact {meter_id}")

    def heard(self, meter_id: str) -> None:
        """The meter spoke, so it listens, whatever a contact under way may come to think of it."""
        if meter_id in self._running:
            self._alive.add(meter_id)
        self.begin(meter_id)

    def woke(self, meter_id: str) -> None:
        """The meter registered or updated: an answer still owed from before its sleep will not come any more."""
        peer = self._peers.get(meter_id)
        if peer is not None and (owed := peer.owed) is not None:
            asyncio.get_running_loop().call_later(REPLY_FIRST_S, peer.give_up, owed)
        self.heard(meter_id)

    def begin_all_awake(self) -> None:
        """Calls may have been missed: look after every meter that may be listening."""
        now_s = asyncio.get_running_loop().time()
        self._listens_until_s = {key: until_s for key, until_s in self._listens_until_s.items() if until_s > now_s}
        for meter_id in self._listens_until_s:
            self.begin(meter_id)

    async def stop(self) -> None:
        """End all contacts; what was under way stays SENT in the database and is read back later."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._observations.stop()

    async def _run(self, meter_id: str) -> None:
        outcome = "failed"
        try:
            await asyncio.sleep(REPLY_FIRST_S)
            self._again.discard(meter_id)
            async with self._room:
                outcome = await self._contact_or_sleep(meter_id)
        except NotFoundError:
            outcome = "refused"
            _log.info("no contact: not registered", meter_id=meter_id)
        except Exception:
            _log.exception("contact failed", meter_id=meter_id)
        finally:
            self._running.pop(meter_id, None)
            self._peers.pop(meter_id, None)
            self._alive.discard(meter_id)
            metrics.RADIO_CONTACTS.labels(CARRIER, outcome).inc()
            again = meter_id in self._again
            self._again.discard(meter_id)
        if again:
            self.begin(meter_id)

    async def _contact_or_sleep(self, meter_id: str) -> str:
        """Returns how it ended, as metrics say it."""
        self._alive.discard(meter_id)
        try:
            with tracing.span("contact", carrier=CARRIER):
                return await self._contact(meter_id)
        except MeterAsleepError as error:
            _log.info("meter fell asleep", meter_id=meter_id, reason=str(error))
            if meter_id in self._alive:
                return "asleep"
            self._again.discard(meter_id)
            await self._in_transaction(lambda session: registrations.fell_asleep(session, meter_id))
            if meter_id in self._alive:
                # It woke while we wrote down that it sleeps.
                await self._in_transaction(lambda session: registrations.keep_awake(session, meter_id))
            return "asleep"

    async def _contact(self, meter_id: str) -> str:
        async with self._sessions() as session:
            identity = await by_meter_id(session, self._keys, meter_id)
            registration = await registrations.by_meter(session, meter_id)
        if not registration.awake:
            return "asleep"
        listens_s = registrations.MAX_TRANSMIT_WAIT_S if registration.queue_mode else registration.lifetime_s
        self._listens_until_s[meter_id] = asyncio.get_running_loop().time() + listens_s
        peer = self._peers[meter_id] = self._peer_at(registration.remote)
        if not await self._report(peer, identity, await self._read_back(peer, identity, registration)):
            return "refused"
        await self._send_waiting(peer, identity, registration)
        if wants_observing(registration):
            await self._observations.watch(peer, registration)
        await rekey(self._sessions, self._keys, peer, identity, self._object_id)
        return "done"

    async def _read_back(self, peer: MeterPeer, identity: MeterIdentity, registration: Registration) -> Facts:
        """What a contact begins with, beside the statement."""
        facts = await survey(peer, registration, self._clock.now())
        async with self._sessions() as session:
            asked = await commands.in_flight(session, registration.meter_id, CommandKind.TARIFF)
        if asked is None:
            return facts
        return facts.plus(await read_tables(peer, identity, self._object_id))

    async def _send_waiting(self, peer: MeterPeer, identity: MeterIdentity, registration: Registration) -> None:
        """Send what waits, one by one, and hear the meter's statement after each."""
        for _ in range(MAX_COMMANDS):
            now = self._clock.now()
            async with self._sessions.begin() as session:
                command = await commands.next_to_send(session, identity.meter_id, now)
            if command is None:
                return
            with (
                tracing.continue_from(command.traceparent),
                tracing.span("radio command", carrier=CARRIER, command=command.kind, attempt=command.attempt),
            ):
                facts = await self._send(peer, identity, registration, command)
                if facts is None or not await self._report(peer, identity, facts):
                    return

    async def _report(
        self,
        peer: MeterPeer,
        identity: MeterIdentity,
        facts: Facts,
    ) -> bool:
        """Read the meter's statement and take it in. One that is no statement of this meter's is left aside.

        Returns whether the contact may go on: a meter that states less than it has stated before has been replayed or
        has lost its memory, and a total sent to it would be credit a second time.
        """
        statement = None
        try:
            frame = await peer.read_status(self._object_id)
            status = prepaid.StatusFrame.from_bytes(frame, identity.prepaid_key, identity.serial)
            statement = status_report_of(status, identity.wallet_kind)
        except (ParsingError, MeterRefusedError) as error:
            _log.warning("statement not usable", meter_id=identity.meter_id, reason=str(error))
        now = self._clock.now()
        # One clock for one register: a statement carries the meter's own time and a MAC, a plain read neither, and
        # the two clocks may differ by more than the water between them.
        told = () if statement is not None else facts.readings
        empty_pipe = bool(facts.readings) and facts.readings[-1].empty_pipe
        report = replace(
            facts.report(identity.meter_id, now), readings=told, statement=statement, empty_pipe=empty_pipe
        )
        try:
            async with self._sessions.begin() as session:
                await take_report(session, report, now)
                await registrations.keep_awake(session, identity.meter_id)
        except InvalidInputError as error:
            _log.error("report refused, nothing is sent", meter_id=identity.meter_id, reason=str(error))
            return False
        return True

    async def _send(
        self, peer: MeterPeer, identity: MeterIdentity, registration: Registration, command: OutgoingCommand
    ) -> Facts | None:
        """Send one command; returns what the meter answered, or None where the contact may not go on."""
        facts = Facts()
        try:
            if command.kind in KINDS:
                frame = command_frame_of(command)
                await peer.write_command(self._object_id, frame.to_bytes(identity.prepaid_key, identity.serial))
            else:
                facts = await carry(peer, identity, registration, command, self._object_id, self._clock)
        except MeterAsleepError as error:
            reason = str(error)
            await self._in_transaction(lambda session: commands.mark_unknown(session, command.id, reason))
            raise
        except MeterRefusedError as error:
            reason = str(error)
            if not error.is_final:
                # A meter in trouble (5.xx) may have taken the command all the same: only its statement can tell.
                await self._in_transaction(lambda session: commands.mark_unknown(session, command.id, reason))
                return None
            await self._in_transaction(lambda session: commands.mark_rejected(session, command.id, reason))
            _log.error("command refused", meter_id=identity.meter_id, command_id=command.id, reason=reason)
            return facts
        await self._in_transaction(lambda session: commands.mark_acknowledged(session, command.id))
        return facts

    async def _in_transaction(self, step: Callable[..., Awaitable[None]]) -> None:
        async with self._sessions.begin() as session:
            await step(session)
