"""Use cases of the office: who may do them, and the line that each leaves in the audit trail."""

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select

from standpipe import office, operations
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCommand
from standpipe.operations import keys, meters, settlements, storage
from standpipe.operations.long_operation import LONG_OPERATIONS, LongDesk
from standpipe.operations.meters import Question, ValvePosition
from standpipe.operations.operation import OPERATIONS, Desk
from standpipe.payments.rails.registry import Rails
from standpipe.payments.settlement_files import Statement
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import ForbiddenError, InvalidInputError, NotAuthenticatedError, NotFoundError
from standpipe.utilities.models import OperatorAction, OperatorRole
from standpipe.utilities.operators import Actor
from tests.support.town import Town

ENGINEER = Actor("femi", OperatorRole.FIELD)
NOW = datetime(2026, 5, 4, 9, tzinfo=UTC)
RING = KeyRing([Fernet.generate_key().decode()])

for module in pkgutil.iter_modules(operations.__path__):
    importlib.import_module(f"standpipe.operations.{module.name}")


@pytest.fixture
async def desk(sessions: Sessions) -> AsyncIterator[Desk]:
    async with sessions.begin() as session:
        yield Desk(session, ENGINEER, NOW, Rails({}), command_deadline_s=3600, keys=RING)


def by(desk: Desk, actor: Actor | None) -> Desk:
    return Desk(desk.session, actor, desk.now, desk.rails, desk.command_deadline_s, desk.keys)


async def trail(desk: Desk) -> list[tuple[str, str]]:
    rows = await desk.session.scalars(select(OperatorAction).order_by(OperatorAction.id))
    return [(row.operator, row.action) for row in rows]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
async def test_nobody_changes_anything_and_each_role_does_its_own_work(name: str, desk: Desk) -> None:
    """Asked before any argument is looked at: a refusal tells nothing of what there is."""
    one = OPERATIONS[name]
    assert one.__doc__, name
    for role in OperatorRole:
        if role not in (*one.may, OperatorRole.ADMIN):
            with pytest.raises(ForbiddenError):
                await one(by(desk, Actor("zuri", role)))
    if not one.reads:
        with pytest.raises(NotAuthenticatedError):
            await one(by(desk, None))


@pytest.mark.parametrize("name", sorted(LONG_OPERATIONS))
async def test_long_work_is_somebodys_too(name: str, sessions: Sessions) -> None:
    one = LONG_OPERATIONS[name]
    assert one.__doc__, name
    for role in OperatorRole:
        if role not in (*one.may, OperatorRole.ADMIN):
            with pytest.raises(ForbiddenError):
                await one(LongDesk(sessions, Actor("zuri", role), Clock(), Rails({}), command_deadline_s=3600))
    with pytest.raises(NotAuthenticatedError):
        await one(LongDesk(sessions, None, Clock(), Rails({}), command_deadline_s=3600))


async def test_long_work_leaves_its_line_and_a_refusal_none(sessions: Sessions) -> None:
    desk = LongDesk(sessions, Actor("amina", OperatorRole.ADMIN), Clock(), Rails({}), command_deadline_s=3600)
    with pytest.raises(InvalidInputError, match="M-Pesa is not set up"):
        await settlements.register_mpesa(desk)
    await settlements.import_file(desk, "sandbox", Statement([], []), file_name="may.csv")
    assert await settlements.pull(desk, days=3) == {}
    async with sessions() as session:
        lines = (await session.scalars(select(OperatorAction).order_by(OperatorAction.id))).all()
    assert [(line.operator, line.action, line.detail) for line in lines] == [
        ("amina", "settlements.import", {"file": "may.csv", "lines": 0}),
        ("amina", "settlements.pull", {"days": 3}),
    ]


async def test_a_valve_command_is_one_row_and_one_line_in_the_trail(town: Town, desk: Desk) -> None:
    meter = (await desk.session.scalars(select(Meter).limit(1))).one()
    command_id = await meters.set_valve(desk, meter.serial, ValvePosition.CLOSED)
    row = await desk.session.get_one(MeterCommand, command_id)
    assert (row.kind, row.value, row.meter_id) == ("VALVE", 1, meter.id)
    [line] = await desk.session.scalars(select(OperatorAction))
    assert (line.operator, line.action, line.subject_id) == ("femi", "valve.set", meter.id)
    assert line.detail == {"command": command_id, "position": "closed"}


async def test_threshold_and_questions_leave_their_lines(town: Town, desk: Desk) -> None:
    meter = (await desk.session.scalars(select(Meter).limit(1))).one()
    threshold_id = await meters.set_threshold(desk, meter.serial, 5000)
    for question in Question:
        await meters.ask(desk, meter.serial, question)
    await keys.provision(desk, [(meter.serial, None)], bootstrap=False)
    await keys.rotate(desk, meter.serial)
    await keys.revoke(desk, meter.serial)
    assert (await desk.session.get_one(MeterCommand, threshold_id)).value == 5000
    wanted = ["threshold.set", *(f"meter.{question}" for question in Question)]
    wanted += ["keys.provision", "keys.rotate", "keys.revoke"]
    assert await trail(desk) == [("femi", action) for action in wanted]


@pytest.mark.parametrize("amount_minor", [-1, 2**63])
async def test_a_threshold_out_of_bounds_is_refused(town: Town, desk: Desk, amount_minor: int) -> None:
    serial = (await desk.session.scalars(select(Meter.serial).limit(1))).one()
    with pytest.raises(InvalidInputError):
        await meters.set_threshold(desk, serial, amount_minor)
    assert await trail(desk) == []


async def test_a_meter_out_of_service_or_unknown_is_sent_nothing(town: Town, desk: Desk) -> None:
    meter = (await desk.session.scalars(select(Meter).limit(1))).one()
    meter.closed_at = NOW
    await desk.session.flush()
    for act in (
        lambda serial: meters.set_valve(desk, serial, ValvePosition.OPEN),
        lambda serial: meters.set_threshold(desk, serial, 1),
        lambda serial: meters.ask(desk, serial, Question.CLOCK),
        lambda serial: meters.push_tariff(desk, serial),
    ):
        with pytest.raises(InvalidInputError, match="out of service"):
            await act(meter.serial)
        with pytest.raises(NotFoundError):
            await act("NOBODY")
    assert await trail(desk) == []


async def test_partitions_made_by_hand_leave_a_line(sessions: Sessions) -> None:
    desk = LongDesk(sessions, Actor("amina", OperatorRole.ADMIN), Clock(), Rails({}), command_deadline_s=3600)
    await storage.add_partitions(desk, ahead=0, since=None)
    async with sessions() as session:
        [line] = await session.scalars(select(OperatorAction))
    assert (line.operator, line.action, line.detail) == ("amina", "storage.partitions", {"ahead": 0, "since": None})


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(office.__path__)))
def test_a_command_of_the_office_only_calls_use_cases(name: str) -> None:
    """The desk opens the database; a command that did could do something in nobody's name."""
    text = (Path(office.__path__[0]) / f"{name}.py").read_text()
    opens = re.findall(r"sqlalchemy|\bat_desk\b|\bDatabase\b|\bSessions\b", text)
    assert bool(opens) is (name == "desk"), opens
