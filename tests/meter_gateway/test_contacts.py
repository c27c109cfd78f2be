"""Contacts, with a meter that does exactly what the test says at exactly the moment that it matters."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from sqlalchemy import select

from standpipe.meter_gateway.delivery import DeliveryDesk
from standpipe.meter_gateway.lwm2m import registrations, senml
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.contacts import Contacts
from standpipe.meter_gateway.lwm2m.peer import MeterAsleepError, MeterRefusedError
from standpipe.meter_gateway.lwm2m.registrations import Known
from standpipe.meter_gateway.prepaid import CommandFrame, StatusFrame
from standpipe.meters import credit
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CreditGrant, MeterCommand
from standpipe.platform.clock import Clock
from standpipe.platform.database import Connection, Sessions, engine_of
from tests.support.statements import counted
from tests.support.town import METER_SECRET, PREPAID_KEY, Home, make_home, make_settings, make_utility, until

RING = KeyRing([METER_SECRET])


@dataclass
class Script:
    """A meter's answers. ``on_*`` may raise what the meter or the radio would."""

    serial: str
    on_volume: Callable[[], None] = lambda: None
    on_command: Callable[[], None] = lambda: None
    on_status: Callable[[], None] = lambda: None
    counter: int = 0
    sequence: int = 0
    accepted: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    frames: list[CommandFrame] = field(default_factory=list)
    owed: Any = None
    session: Any = None

    @property
    def asked(self) -> int:
        return len(self.requests)

    async def read_object(self, path: str, memory: ClientMemory) -> tuple[bytes, int]:
        self.requests.append(("object", path))
        self.on_volume()
        return cbor2.dumps([{0: "/3424/0/1", 2: 0.0}]), senml.CBOR_FORMAT

    async def observe(self, path: str) -> None:
        """It answers without observing."""
        self.requests.append(("observe", path))

    async def read_status(self, object_id: int) -> bytes:
        self.requests.append(("status", ""))
        self.on_status()
        self.counter += 1
        now_s = int(datetime.now(UTC).timestamp())
        frame = StatusFrame(self.counter, self.sequence, 0, 0, 0, self.accepted, self.accepted, 0, now_s)
        return frame.to_bytes(PREPAID_KEY, self.serial)

    async def write_command(self, object_id: int, frame: bytes) -> None:
        self.requests.append(("command", ""))
        self.on_command()
        command = CommandFrame.from_bytes(frame, PREPAID_KEY, self.serial)
        self.frames.append(command)
        self.sequence, self.accepted = command.sequence, command.value


@dataclass
class Bench:
    sessions: Sessions
    home: Home
    script: Script
    contacts: Contacts
    known: Known | None = None

    async def grant(self, amount_minor: int) -> None:
        async with self.sessions.begin() as session:
            await credit.grant(
                session,
                meter_id=self.home.meter_id,
                credit_key=f"k{amount_minor}",
                source_id="s",
                amount_minor=amount_minor,
                now=datetime.now(UTC),
            )

    async def command(self) -> MeterCommand:
        async with self.sessions() as session:
            rows = await session.scalars(select(MeterCommand).order_by(MeterCommand.sequence.desc()))
            return rows.first() or pytest.fail("no command")

    async def awake(self) -> bool:
        async with engine_of(self.sessions).connect() as conn:
            return (await registrations.by_meter(conn, RING, self.home.meter_id)).registration.awake

    async def contact(self) -> None:
        """The meter wakes: one contact, or as many as follow from it, to the end."""
        async with engine_of(self.sessions).begin() as conn:
            await registrations.keep_awake(conn, self.home.meter_id)
            known = await registrations.by_meter(conn, RING, self.home.meter_id)
        self.contacts.woke(known)
        await self.quiet()

    async def updates(self) -> None:
        """The meter's registration is updated, as by its request."""
        async with self.contacts.statements.connect() as conn:
            known = await registrations.by_meter(conn, RING, self.home.meter_id) if self.known is None else self.known
            remote = known.registration.remote
            self.known = await registrations.update_registration(
                conn, RING, location=known.registration.location, proven=None, remote=remote
            )
        self.contacts.woke(self.known)

    async def quiet(self) -> None:
        await until(self._idle)

    async def _idle(self) -> bool:
        return not self.contacts._running


@pytest.fixture
async def bench(sessions: Sessions) -> AsyncIterator[Bench]:
    settings = make_settings()
    utility_id, tariff_id = await make_utility(sessions)
    installed_at = datetime.now(UTC) - timedelta(days=2)
    home = await make_home(sessions, settings, utility_id, tariff_id, installed_at=installed_at, zone="Africa/Nairobi")
    script = Script(home.serial)
    engine = engine_of(sessions)
    desk = DeliveryDesk(engine, Clock())
    contacts = Contacts(
        engine=engine,
        desk=desk,
        keys=RING,
        clock=Clock(),
        object_id=42769,
        peer_at=lambda _: script,  # type: ignore[arg-type, return-value]  # Speaks like a MeterPeer.
    )
    wish = registrations.NewRegistration(
        home.serial, has_proven=False, remote="udp://127.0.0.1:9", lifetime_s=300, queue_mode=True, objects=""
    )
    async with engine.begin() as conn:
        await registrations.register(conn, RING, wish)
    yield Bench(sessions, home, script, contacts)
    await contacts.stop()
    await desk.stop()


def asleep() -> None:
    raise MeterAsleepError("no answer")


def refusing(code: str) -> Callable[[], None]:
    def refuse() -> None:
        raise MeterRefusedError(code)

    return refuse


async def test_a_first_read_in_vain_changes_nothing_but_that_the_meter_sleeps(bench: Bench) -> None:
    await bench.grant(5_000)
    bench.script.on_status = asleep
    await bench.contact()
    assert ((await bench.command()).status, (await bench.command()).attempts) == ("QUEUED", 0)
    assert not await bench.awake()
    assert bench.script.asked == 1


@pytest.mark.parametrize(
    ("code", "status"), [("4.05", "REJECTED"), ("4.01", "REJECTED"), ("5.00", "UNKNOWN"), ("5.03", "UNKNOWN")]
)
async def test_a_refused_command_waits_for_a_person_and_one_in_doubt_for_a_statement(
    bench: Bench, code: str, status: str
) -> None:
    await bench.grant(5_000)
    bench.script.on_command = refusing(code)
    await bench.contact()
    command = await bench.command()
    assert command.status == status
    assert code in (command.reason or "")
    async with bench.sessions() as session:
        grant = (await session.scalars(select(CreditGrant))).one()
    assert grant.confirmed_at is None


async def test_m13_a_command_without_an_answer_is_unknown_and_only_read_back(bench: Bench) -> None:
    await bench.grant(5_000)
    bench.script.on_command = asleep
    await bench.contact()
    first = await bench.command()
    assert first.status == "UNKNOWN"
    bench.script.on_command = lambda: None
    await bench.contact()
    # Not taken, says the statement; so the same number goes out again.
    assert [frame.sequence for frame in bench.script.frames] == [first.sequence]
    assert (await bench.command()).status == "CONFIRMED"


async def test_a_volume_that_cannot_be_read_does_not_hold_up_the_credit(bench: Bench) -> None:
    await bench.grant(5_000)
    bench.script.on_volume = refusing("4.04")
    await bench.contact()
    assert (await bench.command()).status == "CONFIRMED"


async def test_a_waking_while_we_write_down_that_the_meter_sleeps_is_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.grant(5_000)
    bench.script.on_status = asleep
    write_down = registrations.fell_asleep

    async def wake_meanwhile(conn: Connection, meter_id: str) -> None:
        await write_down(conn, meter_id)
        bench.script.on_status = lambda: None
        async with engine_of(bench.sessions).connect() as other:
            known = await registrations.by_meter(other, RING, meter_id)
        bench.contacts.woke(replace(known, registration=replace(known.registration, awake=True)))

    monkeypatch.setattr(registrations, "fell_asleep", wake_meanwhile)
    await bench.contact()
    assert (await bench.command()).status == "CONFIRMED"
    assert await bench.awake()


async def test_a_call_that_was_missed_is_made_up_for_while_the_meter_listens(bench: Bench) -> None:
    await bench.contact()
    await bench.grant(5_000)
    bench.contacts.begin_all_awake()
    await bench.quiet()
    assert (await bench.command()).status == "CONFIRMED"
    await bench.grant(700)
    bench.script.on_status = asleep
    await bench.contact()
    asked = bench.script.asked
    bench.contacts.begin_all_awake()
    await bench.quiet()
    assert bench.script.asked == asked


async def test_contacts_with_one_meter_never_overlap(bench: Bench) -> None:
    inside = 0

    def enter() -> None:
        nonlocal inside
        inside += 1
        assert inside == 1

    def leave() -> None:
        nonlocal inside
        inside -= 1

    bench.script.on_volume, bench.script.on_status = enter, leave
    for _ in range(20):
        bench.contacts.heard(bench.home.meter_id)
        await asyncio.sleep(0)
    await bench.quiet()
    assert inside == 0
    # One contact, and no second reading back of a meter that was heard a moment ago.
    assert [name for name, _ in bench.script.requests] == ["object", "status", "observe"]


async def test_a_contact_with_nothing_waiting_takes_six_statements(bench: Bench) -> None:
    """The registration's update is one, and brings all that the contact begins with."""
    await bench.updates()
    await bench.quiet()
    with counted(bench.sessions) as sent:
        await bench.updates()
        await bench.quiet()
    sent.at_most(6)
    # Twice the object and the status, and once whether it can be observed.
    assert [name for name, _ in bench.script.requests] == ["object", "status", "observe", "object", "status"]


async def test_a_contact_with_one_credit_takes_twelve_statements(bench: Bench) -> None:
    await bench.updates()
    await bench.quiet()
    await bench.grant(5_000)
    with counted(bench.sessions) as sent:
        await bench.updates()
        await bench.quiet()
    sent.at_most(12)
    assert (await bench.command()).status == "CONFIRMED"


async def test_from_paid_to_confirmed_takes_two_round_trips_where_the_meter_listens(bench: Bench) -> None:
    """It was heard in this waking, and nothing was on its way: the command goes out, and the meter says that it did."""
    await bench.contact()
    asked = bench.script.asked
    await bench.grant(5_000)
    with counted(bench.sessions) as sent:
        bench.contacts.drop(bench.home.meter_id)
        bench.contacts.begin(bench.home.meter_id)
        await bench.quiet()
    assert (await bench.command()).status == "CONFIRMED"
    assert [name for name, _ in bench.script.requests[asked:]] == ["command", "status"]
    sent.at_most(12)


async def test_from_paid_to_confirmed_takes_three_round_trips_where_the_meter_wakes(bench: Bench) -> None:
    """Read back first, then send: what it holds may have changed while nobody heard it."""
    await bench.contact()
    await bench.grant(5_000)
    asked = len(bench.script.requests)
    await bench.contact()
    assert [name for name, _ in bench.script.requests[asked:]] == ["status", "command", "status", "object"]
    assert (await bench.command()).status == "CONFIRMED"


async def test_a_command_in_doubt_is_read_back_before_another_goes_out(bench: Bench) -> None:
    await bench.contact()
    await bench.grant(5_000)
    bench.script.on_command = refusing("5.00")
    await bench.contact()
    assert (await bench.command()).status == "UNKNOWN"
    bench.script.on_command = lambda: None
    asked = len(bench.script.requests)
    await bench.grant(700)
    bench.contacts.drop(bench.home.meter_id)
    bench.contacts.begin(bench.home.meter_id)
    await bench.quiet()
    assert bench.script.requests[asked][0] == "status"
    assert (await bench.command()).status == "CONFIRMED"
    assert bench.script.accepted == 5_700


async def test_m22_a_meter_without_the_prepaid_object_costs_one_question_and_one_line(bench: Bench) -> None:
    """Not one at every waking: it said for good that it has no such thing."""
    bench.script.on_status = refusing("4.04")
    for _ in range(3):
        await bench.updates()
        await bench.quiet()
    assert [name for name, _ in bench.script.requests].count("status") == 1
    bench.script.on_status = refusing("5.00")
    await bench.grant(5_000)
    await bench.updates()
    await bench.quiet()
    assert [name for name, _ in bench.script.requests].count("status") > 1
