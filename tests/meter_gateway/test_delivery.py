"""The one delivery: a batch, two gateways, a gateway that dies, and how many statements it takes."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import OperationalError

from bench.fleet import enrol_many
from standpipe.engine.batcher import BusyError
from standpipe.meter_gateway import delivery
from standpipe.meter_gateway.delivery import DeliveryDesk, Told
from standpipe.meters import credit, deliveries
from standpipe.meters.delivery_state import Changes, Heard, Outcome
from standpipe.meters.due import MeterDue
from standpipe.meters.field_models import MeterCondition, MeterMeasure
from standpipe.meters.models import CommandStatus, CreditGrant, Meter, MeterCommand, MeterState
from standpipe.meters.reports import (
    CommandResult,
    Condition,
    ConditionKind,
    Diagnostics,
    Measure,
    MeasureKind,
    MeterReport,
    RegisterReading,
    StatusReport,
    ValveReason,
    ValveState,
)
from standpipe.outbox.models import OutboxFact
from standpipe.platform.clock import Clock
from standpipe.platform.database import Engine, Sessions, engine_of
from standpipe.platform.errors import NotFoundError
from standpipe.readings.models import RawReport
from tests.support.statements import counted

NOW = datetime.now(UTC).replace(microsecond=0)


def says(meter_id: str, counter: int, *, accepted: int = 0, sequence: int = 0, **more: Any) -> Told:
    """A status report, with a command to follow."""
    status = StatusReport(
        report_counter=counter,
        last_sequence=sequence,
        result=CommandResult.DONE,
        credit_accepted=accepted,
        credit_remaining=accepted,
        register_ml=counter,
        valve=ValveState.OPEN,
        valve_reason=ValveReason.NORMAL,
        stated_at=NOW,
    )
    return Told(Heard(meter_id, MeterReport(meter_id, NOW, status=status, **more), sends_next=True))


async def grant(sessions: Sessions, meter_id: str, amount_minor: int, key: str) -> None:
    async with sessions.begin() as session:
        await credit.grant(
            session, meter_id=meter_id, credit_key=key, source_id=key, amount_minor=amount_minor, now=NOW
        )


async def answers_of(desk: DeliveryDesk, told: Sequence[Told]) -> list[Changes | BaseException]:
    return await asyncio.gather(*(desk(one) for one in told), return_exceptions=True)


async def test_of_a_batch_of_200_only_what_is_wrong_goes_without_its_answer(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One poison, one unknown, one twice, one whose meter somebody holds: the others are answered, and none waits."""
    monkeypatch.setattr(delivery, "BUSY_AFTER_S", (0.01,))
    meters = [one.meter_id for one in await enrol_many(sessions, 199)]
    told = [says(meter_id, 1) for meter_id in meters]
    # A NUL is in no text of PostgreSQL's: the whole statement fails by it, wherever it stands.
    poison = says(meters[0], 1, diagnostics=Diagnostics(1, firmware="a\0b"))
    await ask_for_diagnostics(sessions, meters[0])
    told[0] = poison
    twice, unknown = told[5], says("mtr_unknown", 1)
    desk = DeliveryDesk(engine_of(sessions), Clock())
    async with sessions.begin() as holder:
        await holder.execute(text("SELECT 1 FROM meters WHERE id = :id FOR UPDATE"), {"id": meters[1]})
        async with asyncio.timeout(60):
            answers = await answers_of(desk, [*told, twice, unknown])
    assert len(answers) == 201
    assert isinstance(answers[-1], NotFoundError)
    assert isinstance(answers[1], BusyError)
    assert isinstance(answers[0], Exception)
    assert sum(isinstance(answer, Changes) for answer in answers) == 198
    new = [answer.is_new_status for answer in (answers[5], answers[-2]) if isinstance(answer, Changes)]
    assert sorted(new) == [False, True]
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(MeterState)) == 197
        assert await session.scalar(select(func.count()).select_from(RawReport)) == 197
    await desk.stop()


async def ask_for_diagnostics(sessions: Sessions, meter_id: str) -> None:
    async with sessions.begin() as session:
        await session.execute(text("UPDATE meters SET last_sequence = 1 WHERE id = :id"), {"id": meter_id})
        command = MeterCommand(
            id="cmd_x", meter_id=meter_id, sequence=1, kind="DIAGNOSTICS", value=0, status="SENT", attempts=1
        )
        session.add(command)


async def test_no_batch_takes_more_than_40_statements(sessions: Sessions) -> None:
    """However much 200 meters have to tell at once; and one alone takes few."""
    meters = [one.meter_id for one in await enrol_many(sessions, 200)]
    for number, meter_id in enumerate(meters[:20]):
        await grant(sessions, meter_id, 100, f"k{number}")
    told = [
        says(
            meter_id,
            1,
            conditions=(Condition(ConditionKind.LEAK, NOW, is_raised=True),),
            measures=(Measure(MeasureKind.SIGNAL_DBM, NOW, -90),),
            readings=(RegisterReading(NOW - timedelta(hours=1), 0),),
        )
        for meter_id in meters
    ]
    engine = engine_of(sessions)
    desk = DeliveryDesk(engine, Clock())
    with counted(engine) as sent:
        answers = await desk.work(told)
    sent.at_most(20)
    assert sum(one.command is not None for one in answers if isinstance(one, Changes)) == 20
    async with sessions() as session:
        for table, count in ((MeterState, 200), (MeterCondition, 200), (MeterMeasure, 200), (RawReport, 200)):
            assert await session.scalar(select(func.count()).select_from(table)) == count
        kinds = (await session.scalars(select(OutboxFact.kind))).all()
    assert kinds.count("ConditionChanged") == 200


async def test_two_gateways_at_once_make_what_one_after_the_other_would(sessions: Sessions) -> None:
    """The same meters, the same words, in any order and twice: one outcome, and no command sent twice."""
    meters = [one.meter_id for one in await enrol_many(sessions, 12)]
    for number, meter_id in enumerate(meters):
        await grant(sessions, meter_id, 100, f"k{number}")
    desks = [DeliveryDesk(engine_of(sessions), Clock()) for _ in range(2)]
    chance = random.Random(7)
    for counter in (1, 2, 3):
        # By the second word the meter has taken what was sent.
        accepted, sequence = (0, 0) if counter == 1 else (100, 1)
        told = [says(meter_id, counter, accepted=accepted, sequence=sequence) for meter_id in meters]
        both = [(desk, one) for desk in desks for one in chance.sample(told, len(told))]
        answers = await asyncio.gather(*(desk(one) for desk, one in both))
        if counter == 1:
            assert sum(answer.command is not None for answer in answers) == len(meters)
    async with sessions() as session:
        commands = (await session.scalars(select(MeterCommand))).all()
        assert {(one.status, one.attempts, one.sequence) for one in commands} == {("CONFIRMED", 1, 1)}
        grants = (await session.scalars(select(CreditGrant))).all()
        assert all(one.confirmed_at is not None for one in grants)
        facts = (await session.scalars(select(OutboxFact.kind))).all()
        assert facts.count("CreditConfirmed") == len(meters)
        assert {one.report_counter for one in await session.scalars(select(MeterState))} == {3}
        assert await session.scalar(select(func.count()).select_from(RawReport)) == 3 * len(meters)


class DiedError(BaseException):
    """The gateway is killed here."""


@pytest.mark.parametrize("where", range(7))
async def test_a_gateway_killed_between_load_and_save_leaves_one_outcome(sessions: Sessions, where: int) -> None:
    """M2, at every statement of a report's transaction: nothing of it, and the meter's next word makes it good."""
    (meter,) = await enrol_many(sessions, 1)
    await grant(sessions, meter.meter_id, 100, "k")
    engine = engine_of(sessions)
    desk = DeliveryDesk(engine, Clock())
    first = await desk(says(meter.meter_id, 1))
    assert first.command is not None
    taken = says(meter.meter_id, 2, accepted=100, sequence=first.command.sequence)
    acknowledged = Outcome(first.command.id, CommandStatus.ACKNOWLEDGED)
    taken = Told(Heard(meter.meter_id, taken.heard.report, (acknowledged,), sends_next=True))
    before = await picture(sessions)
    with dying(engine, where), suppress(DiedError):
        await desk.work([taken])
    died = (await picture(sessions)) == before
    # The meter was never told that we died: its next word is a new one.
    again = says(meter.meter_id, 3, accepted=100, sequence=first.command.sequence)
    await desk(again)
    async with sessions() as session:
        command = (await session.scalars(select(MeterCommand))).one()
        step = (await session.scalars(select(CreditGrant))).one()
        facts = (await session.scalars(select(OutboxFact.kind))).all()
        due = await session.get(MeterDue, meter.meter_id)
    assert (command.status, command.attempts) == ("CONFIRMED", 1)
    assert step.confirmed_at is not None
    assert facts.count("CreditConfirmed") == 1
    assert due is not None
    assert due.marked_at is not None
    assert died == (where < KILLABLE), "a statement more or less: this test is to stop at each"


KILLABLE = 5
"""LOAD, SAVE, readings and mark, facts, COMMIT: before any of them is sent the gateway may die."""


@contextmanager
def dying(engine: Engine, where: int) -> Iterator[None]:
    """The ``where``-th statement from now on is never sent."""
    left = where

    def send(*_: Any) -> None:
        nonlocal left
        if left == 0:
            raise DiedError
        left -= 1

    for name in ("before_cursor_execute", "commit"):
        event.listen(engine.sync_engine, name, send)
    try:
        yield
    finally:
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine.sync_engine, name, send)


async def picture(sessions: Sessions) -> list[Any]:
    """All that a report may change."""
    rows: list[Any] = []
    async with sessions() as session:
        for table in (Meter, MeterState, MeterCommand, CreditGrant, RawReport, OutboxFact, MeterDue):
            found = await session.execute(select(*table.__table__.columns))
            rows.append(sorted(str(row) for row in found))
    return rows


async def test_a_meter_changed_between_the_snapshot_and_the_lock_is_loaded_again(sessions: Sessions) -> None:
    """A picture from before the lock would bring an old command back to life."""
    (meter,) = await enrol_many(sessions, 1)
    engine = engine_of(sessions)
    slow = text(
        deliveries.LOAD.text.replace(
            "FROM meters m LEFT", "FROM (SELECT pg_sleep(0.5)) AS pause CROSS JOIN meters m LEFT"
        )
    )
    async with engine.connect() as conn:
        reading = asyncio.create_task(conn.execute(slow, {"meter_ids": [meter.meter_id]}))
        await asyncio.sleep(0.1)
        await grant(sessions, meter.meter_id, 100, "k")
        (row,) = (await reading).all()
        assert row.is_outdated
        assert row.commands is None
        await conn.rollback()
    async with engine.begin() as conn:
        loaded = await deliveries.load(conn, [meter.meter_id])
    assert [one.value for one in loaded.deliveries[meter.meter_id].commands] == [100]


async def test_a_desk_that_loses_its_database_for_a_moment_does_its_work_once(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    (meter,) = await enrol_many(sessions, 1)
    await grant(sessions, meter.meter_id, 100, "k")
    load, lost = deliveries.load, [OperationalError("", {}, ConnectionResetError(), connection_invalidated=True)]

    async def loses_once(*args: Any, **kwargs: Any) -> Any:
        if lost:
            raise lost.pop()
        return await load(*args, **kwargs)

    monkeypatch.setattr(deliveries, "load", loses_once)
    desk = DeliveryDesk(engine_of(sessions), Clock())
    changes = await desk(says(meter.meter_id, 1))
    assert changes.command is not None
    async with sessions() as session:
        assert (await session.scalars(select(MeterCommand.attempts))).all() == [1]
