"""A contact: what we do while a meter is awake, led by ``delivery.deliver``.

Contacts with one meter never overlap in this process, and if two processes met, sequence numbers and totals would make
it harmless. What a contact begins with comes with the request that woke it; it is kept for as long as the meter
listens, and dropped by whatever is told of the meter (``drop``).
"""

import asyncio
from collections.abc import Callable

import structlog

from standpipe.engine.batcher import BusyError
from standpipe.meter_gateway.delivery import ContactEndedError, DeliveryDesk, Told, deliver
from standpipe.meter_gateway.lwm2m import registrations
from standpipe.meter_gateway.lwm2m.carrier import Lwm2mCarrier
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.observing import Observing, wants_observing
from standpipe.meter_gateway.lwm2m.peer import MeterAsleepError, MeterPeer
from standpipe.meter_gateway.lwm2m.registrations import Known
from standpipe.meter_gateway.lwm2m.rekey import rekey
from standpipe.meters.delivery_state import Heard
from standpipe.meters.keys import KeyRing
from standpipe.platform import metrics, tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Engine, without_transactions
from standpipe.platform.errors import NotFoundError

CARRIER = "coap"
MAX_CONTACTS = 1024
"""A contact mostly waits for a slow network, and holds no database connection meanwhile."""
REPLY_FIRST_S = 0.05
"""A contact starts this long after the request that woke it, so that our reply to that is on its way first."""
_log = structlog.get_logger(__name__)


class Contacts:
    """Runs contacts in the background, at most one per meter and MAX_CONTACTS at once."""

    def __init__(
        self,
        *,
        engine: Engine,
        desk: DeliveryDesk,
        keys: KeyRing,
        clock: Clock,
        object_id: int,
        peer_at: Callable[[str], MeterPeer],
    ) -> None:
        self.statements = without_transactions(engine)
        self.desk, self._keys, self._clock = desk, keys, clock
        self._object_id, self._peer_at = object_id, peer_at
        self._running: dict[str, asyncio.Task[None]] = {}
        self._peers: dict[str, tuple[str, MeterPeer]] = {}
        """Meters that contacts under way ask, and at which address."""
        self._again: set[str] = set()
        self._alive: set[str] = set()
        self._known: dict[str, Known] = {}
        self._memories: dict[str, ClientMemory] = {}
        self._since: dict[str, tuple[str, int]] = {}
        self._listens_until_s: dict[str, float] = {}
        self._room = asyncio.Semaphore(MAX_CONTACTS)
        self._observing = Observing(desk, clock, self.heard)

    async def known(self, meter_id: str) -> Known:
        """All that a contact with this meter begins with. Raises NotFoundError for one that is not registered."""
        found = self._known.get(meter_id)
        if found is None or not self._listens(meter_id):
            async with self.statements.connect() as conn:
                found = await registrations.by_meter(conn, self._keys, meter_id)
            self._keep(found)
        return found

    def drop(self, meter_id: str) -> None:
        """Something about the meter has changed: what was kept of it is read anew."""
        self._known.pop(meter_id, None)

    def forget(self, meter_id: str) -> None:
        """The meter is not registered any more."""
        for kept in (self._known, self._memories, self._since, self._listens_until_s):
            kept.pop(meter_id, None)

    def told_elsewhere(self, meter_id: str) -> None:
        """The meter told something of itself, outside a contact: what a contact reads next is written down again."""
        memory = self._memories.get(meter_id)
        if memory is not None:
            memory.forget_told()

    def begin(self, meter_id: str) -> None:
        """Something waits for the meter: start a contact, or have the present one look again."""
        if meter_id in self._running:
            self._again.add(meter_id)
            return
        self._running[meter_id] = asyncio.create_task(self._run(meter_id), name=f"contact {meter_id}")

    def heard(self, meter_id: str) -> None:
        """The meter spoke, so it listens, whatever a contact under way may come to think of it."""
        if not self._listens(meter_id):
            # It woke by this, and may have been without power meanwhile: it is read back again.
            self._since.pop(meter_id, None)
        if meter_id in self._running:
            self._alive.add(meter_id)
        self.begin(meter_id)

    def woke(self, known: Known) -> None:
        """The meter registered or updated: an answer still owed from before its sleep will not come any more.

        Where it did so from another address or in another DTLS session, nobody answers at the old one: a contact that
        went on asking there would wait for its time-out, and the meter be asleep again before the next.
        """
        meter_id = known.registration.meter_id
        self._since.pop(meter_id, None)
        self._keep(known)
        remote, peer = self._peers.get(meter_id, (None, None))
        if peer is not None and remote != known.registration.remote:
            peer.leave()
        elif peer is not None and (owed := peer.owed) is not None:
            asyncio.get_running_loop().call_later(REPLY_FIRST_S, peer.give_up, owed)
        self.heard(meter_id)

    def begin_all_awake(self) -> None:
        """Calls may have been missed: look after every meter that may be listening."""
        now_s = asyncio.get_running_loop().time()
        for meter_id, until_s in list(self._listens_until_s.items()):
            self.drop(meter_id)
            if until_s > now_s:
                self.begin(meter_id)
            else:
                del self._listens_until_s[meter_id]

    async def stop(self) -> None:
        """End all contacts; what was under way stays SENT in the database and is read back later."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._observing.stop()

    async def _run(self, meter_id: str) -> None:
        outcome = "failed"
        try:
            await asyncio.sleep(REPLY_FIRST_S)
            self._again.discard(meter_id)
            async with self._room:
                outcome = await self._contact_or_sleep(meter_id)
        except NotFoundError:
            outcome = "refused"
            self.forget(meter_id)
            _log.info("no contact: not registered", meter_id=meter_id)
        except BusyError:
            # Its next waking tells it all again.
            _log.warning("contact given up: somebody holds the meter", meter_id=meter_id)
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
            self._since.pop(meter_id, None)
            self.drop(meter_id)
            if meter_id in self._alive:
                return "asleep"
            self._again.discard(meter_id)
            self._listens_until_s.pop(meter_id, None)
            async with self.statements.connect() as conn:
                await registrations.fell_asleep(conn, meter_id)
                if meter_id in self._alive:
                    # It woke while we wrote down that it sleeps.
                    await registrations.keep_awake(conn, meter_id)
            return "asleep"

    async def _contact(self, meter_id: str) -> str:
        known = await self.known(meter_id)
        registration, memory = known.registration, self._memory(known)
        if not registration.awake:
            return "asleep"
        peer = self._peer_at(registration.remote)
        self._peers[meter_id] = (registration.remote, peer)
        carrier = Lwm2mCarrier(peer, known, memory, self._object_id, self._clock)
        try:
            if not await self._deliver(carrier, known):
                return "refused"
        except BaseException:
            memory.forget_told()
            raise
        finally:
            # What waited may be done, and what was kept of it is not true any more.
            self._settle(known)
        if wants_observing(registration):
            await self._observing.watch(peer, registration, memory)
        if known.next_key is not None:
            async with self.statements.connect() as conn:
                await rekey(conn, peer, known, self._object_id)
        return "done"

    async def _deliver(self, carrier: Lwm2mCarrier, known: Known) -> bool:
        """Deliver to the meter. False where it said something that is not to be believed.

        A meter that was heard in this very waking is not read back again where nothing waits for it.
        """
        meter_id, remote = known.registration.meter_id, known.registration.remote
        where, last = self._since.pop(meter_id, (None, None))
        since = last if where == remote else None
        if since is not None and not known.waits:
            self._since[meter_id] = (remote, since)
            return True
        try:
            ended = await deliver(self.desk, meter_id, carrier, since=since)
        except ContactEndedError as error:
            _log.warning("contact ended", meter_id=meter_id, reason=str(error))
            return False
        if ended.refused is not None:
            return False
        if ended.since is not None:
            self._since[meter_id] = (remote, ended.since)
        if since is None and (report := await carrier.rest()) is not None:
            await self.desk(Told(Heard(meter_id, report)))
        return True

    def _memory(self, known: Known) -> ClientMemory:
        """Return the memory of the client, as long as it is under the same registration."""
        registration = known.registration
        memory = self._memories.get(registration.meter_id)
        if memory is None or memory.location != registration.location:
            first = registration.lwm2m.startswith("1.0")
            memory = self._memories[registration.meter_id] = ClientMemory(registration.location, tlv_first=first)
        return memory

    def _keep(self, known: Known) -> None:
        registration = known.registration
        self._known[registration.meter_id] = known
        if registration.awake:
            self._heard_now(known)

    def _settle(self, known: Known) -> None:
        meter_id = known.registration.meter_id
        if self._known.get(meter_id) is not known:
            return
        if known.waits or known.next_key is not None:
            self.drop(meter_id)
        else:
            self._heard_now(known)

    def _heard_now(self, known: Known) -> None:
        registration = known.registration
        listens_s = registrations.MAX_TRANSMIT_WAIT_S if registration.queue_mode else registration.lifetime_s
        self._listens_until_s[registration.meter_id] = asyncio.get_running_loop().time() + listens_s

    def _listens(self, meter_id: str) -> bool:
        return self._listens_until_s.get(meter_id, 0.0) > asyncio.get_running_loop().time()
