"""The door for meters that dial in: TCP with the DLMS wrapper. We are the client on the sockets that they open.

A connection proves itself before anything is done for it: the meter says who it is (by a push, or asked for its
logical device name), and then both sides associate with that meter's own keys. Until then it has little time, little
room, and company: where too many unproven ones are open, one that has said nothing goes first. A meter that dials in
twice is served on the newer connection, once that has proven itself.
"""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from standpipe.meter_gateway.delivery import ContactEndedError, DeliveryDesk, NoAnswerError, Told, deliver
from standpipe.meter_gateway.dlms import apdu, meters, security
from standpipe.meter_gateway.dlms.acse import Mechanism
from standpipe.meter_gateway.dlms.apdu import Attribute
from standpipe.meter_gateway.dlms.carrier import DlmsCarrier
from standpipe.meter_gateway.dlms.client import AssociationAs, Counters, DlmsClient, Secrets
from standpipe.meter_gateway.dlms.meters import HEARD, DlmsIdentity, Heard
from standpipe.meter_gateway.dlms.profiles.profile import CreditMethod, MeterProfile, load_profiles
from standpipe.meter_gateway.dlms.security import GlobalKeys
from standpipe.meter_gateway.dlms.wire import DlmsWire
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters import delivery_state
from standpipe.meters.identity import MeterIdentity, by_meter_id
from standpipe.meters.keys import KeyRing
from standpipe.platform import metrics, tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import DATABASE_DOWN, Sessions, engine_of, without_transactions
from standpipe.platform.errors import InvalidInputError, NotFoundError, SettingsError, StandpipeError
from standpipe.platform.notify import COMMANDS, Listener
from standpipe.platform.settings import Settings, require

PUBLIC = AssociationAs(16, 1, Mechanism.NONE, ciphered=False, max_pdu_bytes=512)
"""Association that asks a meter its name before its profile is known (Green Book: client 16, management device)."""
DEVICE_NAME = Attribute(1, "0.0.42.0.0.255", 2)
MAX_UNPROVEN = 1024
MAX_CONNECTIONS = 50_000
MAX_CONTACTS = 1024
"""A contact mostly waits for a slow network, and holds no database connection meanwhile."""
MAX_PUSHES = 8
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Timeouts of a connection, in seconds. ``first_push_s``: how long a fresh connection may take to speak first."""

    first_push_s: float = 2.0
    prove_s: float = 90.0
    frame_s: float = 20.0
    answer_s: float = 30.0
    idle_s: float = 7200.0
    sweep_s: float = 1.0


@dataclass(slots=True, eq=False)
class Line:
    """One connection, and what it has proven so far."""

    wire: DlmsWire
    carrier: DlmsCarrier | None = None
    client: DlmsClient | None = None
    sealed: list[bytes] = field(default_factory=list)
    """Pushes from before we knew whose they could be."""
    told: list[tuple[bytes, int | None]] = field(default_factory=list)
    """Pushes in clear, with the counters that they came under."""
    spoke: asyncio.Event | None = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    again: bool = False


class DlmsServer:
    """Serves every meter that dials in. ``title``: our system title."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        keys: KeyRing,
        clock: Clock,
        profiles: dict[str, MeterProfile],
        title: bytes,
        allow_lls: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self._sessions, self._keys, self._clock = sessions, keys, clock
        engine = engine_of(sessions)
        self._statements, self._desk = without_transactions(engine), DeliveryDesk(engine, clock)
        self._profiles, self._title, self._allow_lls = profiles, title, allow_lls
        self._patience = patience or Patience()
        self._lines: dict[DlmsWire, Line] = {}
        self._unproven: dict[DlmsWire, Line] = {}
        self._proven: dict[str, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MAX_CONTACTS)
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError where the port is taken."""
        self._server = await asyncio.get_running_loop().create_server(self._wire, host, port, backlog=1024)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """End all connections; what was under way stays SENT in the database and is read back later."""
        if self._server is not None:
            self._server.close()
        tasks = [*self._tasks, *([self._sweeper] if self._sweeper is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for wire in list(self._lines):
            wire.close("the gateway stops")
        await self._desk.stop()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._lines)

    @property
    def proven(self) -> int:
        """Number of connections whose meters have proven themselves."""
        return len(self._proven)

    def begin(self, meter_id: str) -> None:
        """Something waits for this meter: tell it, if it is connected here."""
        line = self._proven.get(meter_id)
        if line is not None:
            self._work(line)

    def begin_all(self) -> None:
        """Calls may have been missed: look after every meter that is connected."""
        for line in self._proven.values():
            self._work(line)

    def _wire(self) -> DlmsWire:
        return DlmsWire(
            answer_timeout_s=self._patience.answer_s, opened=self._opened, pushed=self._pushed, closed=self._closed
        )

    def _opened(self, wire: DlmsWire) -> None:
        if len(self._lines) >= MAX_CONNECTIONS:
            wire.close("too many connections")
            return
        if len(self._unproven) >= MAX_UNPROVEN:
            self._one_to_give_way().close("too many that have not proven themselves")
        line = self._lines[wire] = self._unproven[wire] = Line(wire)
        self._work(line)

    def _one_to_give_way(self) -> DlmsWire:
        """The oldest that has said nothing; where all have, any: neither a crowd of strangers nor a town of meters that
        dials in after an outage may keep every newcomer out.
        """
        silent = (wire for wire in self._unproven if wire.heard_at_s == wire.opened_at_s)
        return next(silent, None) or random.choice(list(self._unproven))  # noqa: S311 - fairness, no secret.

    def _closed(self, wire: DlmsWire) -> None:
        line = self._lines.pop(wire, None)
        self._unproven.pop(wire, None)
        if line is not None and line.spoke is not None:
            line.spoke.set()
        if line is not None and line.carrier is not None:
            meter_id = line.carrier.identity.meter_id
            if self._proven.get(meter_id) is line:
                del self._proven[meter_id]

    def _pushed(self, wire: DlmsWire, apdu: bytes) -> None:
        line = self._lines.get(wire)
        if line is None:
            return
        if line.client is None:
            # The first says who it is; what follows before it has proven that may be anybody's.
            line.sealed = line.sealed or [apdu]
            if line.spoke is not None:
                line.spoke.set()
            return
        try:
            line.told.append(line.client.open_push(apdu))
        except ParsingError as error:
            # Not its own, or an old one: the line stays, since whoever can inject octets could end it anyway.
            _log.warning("push dropped", meter_id=_meter_of(line), reason=str(error))
            return
        # What is left out is in the load profile too.
        del line.told[:-MAX_PUSHES]
        if line.task is None:
            self._work(line)

    def _work(self, line: Line) -> None:
        """Do for a connection what is to be done next; one thing at a time on each."""
        if line.task is not None:
            line.again = True
            return
        line.task = asyncio.create_task(self._run(line))
        self._tasks.add(line.task)
        line.task.add_done_callback(self._tasks.discard)

    async def _run(self, line: Line) -> None:
        outcome = "failed"
        try:
            if line.carrier is None:
                await self._welcome(line)
            async with self._room:
                line.again = False
                await self._contact(line)
                await self._take_pushes(line)
            outcome = "done"
        except (NoAnswerError, ParsingError, NotFoundError, InvalidInputError) as error:
            outcome = "asleep" if isinstance(error, NoAnswerError) else "refused"
            _log.info("connection ended", peer=line.wire.peer, meter_id=_meter_of(line), reason=str(error))
            line.wire.close(str(error))
        except StandpipeError as error:
            _log.warning("meter not served", peer=line.wire.peer, meter_id=_meter_of(line), reason=str(error))
            line.wire.close(str(error))
        except DATABASE_DOWN as error:
            _log.warning("database does not answer; the meter has to dial in again", error=str(error))
            line.wire.close("the database does not answer")
        except Exception:
            _log.exception("contact failed", peer=line.wire.peer, meter_id=_meter_of(line))
            line.wire.close("a mistake of ours")
        finally:
            line.task = None
            metrics.RADIO_CONTACTS.labels(DlmsCarrier.name, outcome).inc()
        if line.again and line.wire.is_open:
            self._work(line)

    async def _welcome(self, line: Line) -> None:
        """Find out who it is, and have it prove that. Raises what ``_run`` knows how to end a connection by."""
        identity = await self._who(line)
        line.spoke = None
        profile = self._profiles.get(identity.profile)
        if profile is None:
            raise NotFoundError(f"no profile is called {identity.profile}")
        if not profile.association.ciphered and not self._allow_lls:
            raise NotFoundError("STANDPIPE_DLMS_ALLOW_LLS is off, and this meter knows nothing better")
        counters = Counters(identity.meter_counter, lambda count: self._reserve(identity.meter_id, count))
        keys = GlobalKeys(identity.keys.encryption, identity.keys.authentication)
        known = Secrets(self._title, identity.system_title, counters, keys, identity.keys.password)
        client = DlmsClient(line.wire, profile.association.private, known)
        # Before the association, whose answers come under higher counters. A push that is not the meter's ends it.
        line.told = [client.open_push(push) for push in line.sealed]
        line.sealed, line.client = [], client
        await client.associate()
        line.carrier = DlmsCarrier(
            statements=self._statements,
            clock=self._clock,
            client=client,
            profile=profile,
            identity=identity,
            frames=await self._frames(profile, identity),
            heard_counter=lambda: counters.heard,
        )
        self._unproven.pop(line.wire, None)
        older, self._proven[identity.meter_id] = self._proven.get(identity.meter_id), line
        if older is not None and older is not line:
            older.wire.close("the meter has dialled in anew")

    async def _who(self, line: Line) -> DlmsIdentity:
        """Find the meter that the connection claims to be. Raises NotFoundError for nobody we know."""
        spoke = line.spoke or asyncio.Event()
        try:
            async with asyncio.timeout(self._patience.first_push_s):
                await spoke.wait()
        except TimeoutError:
            pass
        push = line.sealed[0] if line.sealed else b""
        if push and push[0] == security.GENERAL_GLO_CIPHERING:
            title = security.title_of(push)
            async with self._sessions() as session:
                return await meters.by_title(session, self._keys, title)
        name = await self._device_name(line)
        async with self._sessions() as session:
            return await meters.by_device_name(session, self._keys, name)

    async def _device_name(self, line: Line) -> str:
        public = DlmsClient(line.wire, PUBLIC)
        await public.associate()
        try:
            name = (await public.get(DEVICE_NAME)).octets.decode("ascii")
        except UnicodeDecodeError as error:
            raise ParsingError("a logical device name that is no ASCII") from error
        await public.release()
        return name

    async def _frames(self, profile: MeterProfile, identity: DlmsIdentity) -> MeterIdentity | None:
        if profile.credit.method is not CreditMethod.TOKEN:
            return None
        async with self._sessions() as session:
            return await by_meter_id(session, self._keys, identity.meter_id)

    async def _reserve(self, meter_id: str, count: int) -> int:
        async with self._sessions.begin() as session:
            return await meters.reserve_counters(session, meter_id, count)

    async def _contact(self, line: Line) -> None:
        await self._take_pushes(line)
        if line.carrier is not None:
            line.carrier = line.carrier.anew()
            with tracing.span("contact", carrier=line.carrier.name), suppress(ContactEndedError):
                await deliver(self._desk, line.carrier.identity.meter_id, line.carrier)

    async def _take_pushes(self, line: Line) -> None:
        """Take in what the meter told unasked, and keep its counter in the same transaction (M5)."""
        while line.told and line.carrier is not None:
            clear, counter = line.told.pop(0)
            try:
                report = await line.carrier.told_by_push(apdu.parse_notification(clear).body)
                rows = () if counter is None else ((HEARD, Heard(report.meter_id, counter)),)
                await self._desk(Told(delivery_state.Heard(report.meter_id, report), rows))
            except (ParsingError, InvalidInputError) as error:
                _log.warning("push dropped", meter_id=_meter_of(line), reason=str(error))

    async def _sweep(self) -> None:
        """Close what has been silent, half said or unproven for too long (M9)."""
        patience = self._patience
        while True:
            await asyncio.sleep(patience.sweep_s)
            now_s = time.monotonic()
            for wire in list(self._lines):
                if wire in self._unproven and now_s - wire.opened_at_s > patience.prove_s:
                    wire.close("it has not proven itself in time")
                elif wire.frame_since_s is not None and now_s - wire.frame_since_s > patience.frame_s:
                    wire.close("half a frame, and no more")
                elif now_s - wire.heard_at_s > patience.idle_s:
                    wire.close("silent for too long")


def _meter_of(line: Line) -> str | None:
    return line.carrier.identity.meter_id if line.carrier is not None else None


async def run_dlms(
    settings: Settings,
    sessions: Sessions,
    listener: Listener,
    ready: asyncio.Event | None = None,
    patience: Patience | None = None,
) -> None:
    """Serve meters that dial in until cancelled. ``listener`` must listen to COMMANDS.

    Raises SettingsError where a key is missing, a profile is wrong, or the port is taken.
    """
    require(settings, "meter_key_secrets", "dlms_port")
    server = DlmsServer(
        sessions=sessions,
        keys=KeyRing([secret.get_secret_value() for secret in settings.meter_key_secrets]),
        clock=settings.clock,
        profiles=load_profiles(),
        title=bytes.fromhex(settings.dlms.system_title),
        allow_lls=settings.dlms.allow_lls,
        patience=patience or Patience(answer_s=settings.dlms.answer_timeout_s, idle_s=settings.dlms.idle_timeout_s),
    )
    try:
        await server.start(settings.dlms.host, settings.dlms.port or 0)
    except OSError as error:
        raise SettingsError(
            f"TCP port {settings.dlms.port} on {settings.dlms.host} cannot be used ({error.strerror}); "
            "set STANDPIPE_DLMS_PORT to a free one."
        ) from None
    _log.info("gateway listens for DLMS meters", host=settings.dlms.host, port=settings.dlms.port)
    if ready is not None:
        ready.set()
    try:
        async for meter_ids in listener.payloads(COMMANDS):
            if not meter_ids:
                server.begin_all()
            for meter_id in meter_ids:
                server.begin(meter_id)
    finally:
        await server.stop()
