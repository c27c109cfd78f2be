"""What a person says of readings: one changes, everything that stood upon it follows, charges by difference."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text, update

from standpipe.billing.statements import issue, statement_by_month
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.readings.models import DailyUsage, MonthlyUsage, StorageHorizon
from standpipe.tariffs.pricing import cost_minor, table_of
from standpipe.utilities.models import OperatorAction
from tests.support.desk import APRIL, DAY, HOUR, MAY, Desk, air, desk_of, rows
from tests.support.lengths import rounds
from tests.support.office import hire
from tests.support.rating import take_report
from tests.support.town import BLOCKS, until
from tests.support.water import LATER, START, state, take


async def test_a_jump_that_was_water_is_released_and_what_stood_upon_it_counts(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    readings = [(START + 5 * HOUR, 500_000), (START + 6 * HOUR, 90_000_000), (START + 7 * HOUR, 90_100_000)]
    await take(sessions, desk.home, readings)
    assert [(item.register_ml, item.before_ml, item.reason) for item in await desk.held()] == [
        (90_000_000, 500_000, "IMPLAUSIBLE_FLOW"), (90_100_000, 500_000, "IMPLAUSIBLE_FLOW"),
    ]  # fmt: skip
    outcome = await desk.release(START + 6 * HOUR)
    assert (outcome.counted, outcome.still_held) == (1, 1)
    row = await desk.reading(START + 6 * HOUR)
    assert (row.quality, row.reason, row.counted_ml) == ("MEASURED", "RELEASED", 90_000_000)
    assert (await desk.rejudge()).still_held == 0
    found = await state(sessions, desk.home)
    assert found["wallet"] == -cost_minor(table_of(BLOCKS), 90_100_000)
    with pytest.raises(InvalidInputError, match="counts already"):
        await desk.release(START + 6 * HOUR)


async def test_a_wrong_reading_is_rejected_and_those_held_because_of_it_count(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    # A wrong one that could be: it counted, and the right ones look like steps back.
    await take(sessions, desk.home, [(START + 5 * HOUR, 500_000), (START + 6 * HOUR, 15_000_000)])
    await take(sessions, desk.home, [(START + 7 * HOUR, 520_000), (START + 8 * HOUR, 530_000)])
    assert [item.reason for item in await desk.held()] == ["BACKWARDS", "BACKWARDS"]
    with pytest.raises(InvalidInputError, match=r"15\.000 m³"):
        await desk.release(START + 7 * HOUR)
    outcome = await desk.reject(START + 6 * HOUR)
    assert outcome.charged_minor < 0
    assert (await desk.rejudge()).counted == 2
    assert (await state(sessions, desk.home))["wallet"] == -cost_minor(table_of(BLOCKS), 530_000)
    with pytest.raises(InvalidInputError, match="rejected already"):
        await desk.reject(START + 6 * HOUR)


async def test_a_correction_keeps_what_the_meter_said_and_moves_the_next_reading_s_day(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    april, may = START + 41 * DAY, START + 50 * DAY
    await take(sessions, desk.home, [(april, 10_000_000), (may, 12_000_000)])
    assert (await state(sessions, desk.home))["charges"] == {APRIL: 50_000, MAY: 10_000}
    outcome = await desk.correct(april, 6_000_000)
    found = await state(sessions, desk.home)
    assert found["charges"] == {APRIL: 30_000, MAY: 30_000}
    assert (outcome.charged_minor, found["wallet"]) == (0, -60_000)
    row = await desk.reading(april)
    assert (row.register_ml, row.corrected_ml, row.counted_ml) == (10_000_000, 6_000_000, 6_000_000)
    # What comes next goes on from the person's word, not from what the meter had said.
    await take(sessions, desk.home, [(april + HOUR, 6_100_000)])
    assert (await desk.reading(april + HOUR)).counted_ml == 6_100_000
    with pytest.raises(InvalidInputError, match=r"6\.100 m³"):
        await desk.release(april)
    await desk.reject(april + HOUR)
    await desk.release(april)
    assert (await state(sessions, desk.home))["charges"] == {APRIL: 50_000, MAY: 10_000}


async def test_a_correction_must_stand_between_its_neighbours(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    at = [START + number * DAY for number in range(4)]
    await take(sessions, desk.home, [(at[1], 100_000), (at[2], 200_000), (at[3], 300_000)])
    for wrong in (99_999, 300_001):
        with pytest.raises(InvalidInputError, match=r"neighbours, 0.100 m³.*0.300 m³"):
            await desk.correct(at[2], wrong)
    with pytest.raises(InvalidInputError, match="No register"):
        await desk.correct(at[2], 10**16)
    with pytest.raises(NotFoundError):
        await desk.correct(at[2] + HOUR, 200_000)
    with pytest.raises(InvalidInputError, match="none yet"):
        await desk.correct(START - DAY, 200_000)
    with pytest.raises(InvalidInputError, match="Say why"):
        await desk.release((await _held_jump(desk)), note="  ")


async def _held_jump(desk: Desk) -> datetime:
    await take(desk.sessions, desk.home, [(START + 3 * DAY + HOUR, 99_000_000)])
    return START + 3 * DAY + HOUR


async def test_a_typo_does_not_send_a_register_over_its_top(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    async with sessions.begin() as session:
        await session.execute(update(Meter).values(register_max_ml=10**12))
    await take(sessions, desk.home, [(START + DAY, 500_000), (START + 2 * DAY, 600_000)])
    with pytest.raises(InvalidInputError, match="neighbours"):
        await desk.correct(START + 2 * DAY, 60_000)


async def test_a_rolled_over_register_is_charged_once(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    async with sessions.begin() as session:
        await session.execute(update(Meter).values(register_max_ml=10_000_000, initial_register_ml=9_000_000))
    await take(
        sessions, desk.home, [(START + 1 * DAY, 9_900_000), (START + 2 * DAY, 400_000), (START + 3 * DAY, 500_000)]
    )
    assert await desk.volume() == 1_500_000
    assert [row.reason for row in await rows(sessions)] == [None, "ROLL_OVER", None]
    # Late, from just before the top, and again what had come.
    await take(sessions, desk.home, [(START + 2 * DAY - HOUR, 9_950_000), (START + 2 * DAY, 400_000)])
    assert await desk.volume() == 1_500_000
    # Without the reading that had gone over, the next one does.
    await desk.reject(START + 2 * DAY)
    assert await desk.volume() == 1_500_000
    assert (await desk.reading(START + 3 * DAY)).reason == "ROLL_OVER"


async def test_a_day_that_loses_its_only_reading_tells_nothing(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    at = START + 15 * DAY
    await take(sessions, desk.home, [(at, 500_000)])
    await desk.reject(at)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(DailyUsage)) == 0
        assert await session.scalar(select(func.count()).select_from(MonthlyUsage)) == 0
    assert (await state(sessions, desk.home))["wallet"] == 0
    await desk.release(at)
    assert (await state(sessions, desk.home))["wallet"] == -2_500


async def test_what_has_been_let_go_stays_as_it_is(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + DAY, 500_000)])
    async with sessions.begin() as session:
        session.add(StorageHorizon(what="readings", before=START + 2 * DAY))
    with pytest.raises(InvalidInputError, match="no readings any more"):
        await desk.reject(START + DAY)
    with pytest.raises(InvalidInputError, match="no readings any more"):
        await desk.swap(START + DAY, 500_000, 0)


async def test_two_who_decide_at_once_decide_once(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + HOUR, 90_000_000)])
    told = await asyncio.gather(*(desk.release(START + HOUR) for _ in range(5)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in told) == ["InvalidInputError"] * 4 + ["Outcome"]
    assert (await state(sessions, desk.home))["wallet"] == -cost_minor(table_of(BLOCKS), 90_000_000)


async def test_a_decision_waits_for_a_report_under_way(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + HOUR, 90_000_000)])
    async with sessions.begin() as session:
        report = MeterReport(desk.home.meter_id, LATER, (RegisterReading(START + 3 * HOUR, 90_200_000),))
        await take_report(session, report, LATER)
        decision = asyncio.create_task(desk.release(START + HOUR))
        await until(lambda: _waits(sessions))
        assert not decision.done()
    await decision
    await desk.rejudge()
    assert await desk.volume() == 90_200_000


async def _waits(sessions: Sessions) -> bool:
    async with sessions() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(await session.scalar(text(query)))


good = st.lists(st.tuples(st.integers(1, 40 * 24), st.integers(0, 2_000_000)), min_size=1, max_size=12)
wrong = st.lists(st.tuples(st.integers(1, 40 * 24), st.integers(0, 100_000_000)), min_size=1, max_size=4)


@given(good, wrong, st.randoms(use_true_random=False))
@settings(max_examples=rounds(10, 40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_t4_wrong_readings_leave_no_trace_once_they_are_rejected(
    sessions: Sessions, moves: list[tuple[int, int]], errors: list[tuple[int, int]], chance: Any
) -> None:
    """Whatever they blocked, and in whatever order all of it came."""
    readings: dict[datetime, int] = {}
    register = 0
    for hour in sorted({hour for hour, _ in moves}):
        register += dict(moves)[hour]
        readings[START + hour * HOUR] = register
    mistakes = {START + hour * HOUR + HOUR / 2: value for hour, value in errors}
    clean, spoilt = await desk_of(sessions), await desk_of(sessions)
    for at, value in readings.items():
        await take(sessions, clean.home, [(at, value)])
    mixed = [*readings.items(), *mistakes.items()]
    chance.shuffle(mixed)
    for item in mixed:
        await take(sessions, spoilt.home, [item])
    for at in mistakes:
        await spoilt.reject(at)
    # One look may free the lowest only; a second one frees what stood upon it.
    for _ in range(len(readings)):
        if not (await spoilt.rejudge()).counted:
            break
    found, wanted = await state(sessions, spoilt.home), await state(sessions, clean.home)
    assert (found["days"], found["charges"], found["wallet"]) == (wanted["days"], wanted["charges"], wanted["wallet"])


# --- Air (T8) ---


async def test_t8_air_is_held_and_the_next_reading_does_not_bill_it(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + HOUR, 500_000)])
    await air(desk, START + 2 * HOUR, 3_500_000)
    await air(desk, START + 3 * HOUR, 4_500_000)
    await take(sessions, desk.home, [(START + 4 * HOUR, 4_600_000), (START + 5 * HOUR, 4_700_000)])
    assert [item.reason for item in await desk.held()] == ["EMPTY_PIPE", "EMPTY_PIPE"]
    assert await desk.volume() == 700_000
    assert (await desk.rejudge()).counted == 0
    # It was water after all: the first hour of it.
    await desk.release(START + 2 * HOUR)
    assert await desk.volume() == 3_700_000
    # The second hour was air: it goes from the list, and is billed to nobody.
    await desk.reject(START + 3 * HOUR)
    assert await desk.held() == []
    assert await desk.volume() == 3_700_000
    await desk.release(START + 3 * HOUR)
    assert await desk.volume() == 4_700_000
    assert (await state(sessions, desk.home))["wallet"] == -cost_minor(table_of(BLOCKS), 4_700_000)


async def test_t8_late_air_that_has_been_charged_meanwhile_is_a_person_s_matter(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    await take(sessions, desk.home, [(START + HOUR, 500_000), (START + 3 * HOUR, 4_500_000)])
    await air(desk, START + 2 * HOUR, 4_000_000)
    assert (await desk.reading(START + 2 * HOUR)).counted_ml is None
    assert await desk.volume() == 4_500_000
    # Who knows that it was air takes it out as a step back of the register.
    await desk.swap(START + 2 * HOUR, 500_000, 4_000_000)
    assert await desk.volume() == 1_000_000


# --- Statements, the command line ---


async def test_a_decision_about_a_closed_month_is_an_adjustment_of_a_later_one(sessions: Sessions) -> None:
    desk = await desk_of(sessions)
    at = datetime.fromisoformat("2026-04-10T10:00:00+00:00")
    await take(sessions, desk.home, [(at, 90_000_000)])
    async with sessions.begin() as session:
        await issue(session, desk.home.meter_id, APRIL, LATER)
    await desk.correct(at, 10_000_000)
    async with sessions() as session:
        april = await statement_by_month(session, desk.home.meter_id, APRIL, LATER)
        may = await statement_by_month(session, desk.home.meter_id, MAY, LATER)
    assert april is not None
    assert may is not None
    [change] = may[0].adjustments
    before_minor = cost_minor(table_of(BLOCKS), 90_000_000)
    assert april[0].use.total_minor == change.was.total_minor == before_minor
    assert (change.now.total_minor, change.difference_minor) == (50_000, 50_000 - before_minor)


async def test_readings_on_the_command_line(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    desk = await desk_of(sessions)
    serial = desk.home.serial
    await take(sessions, desk.home, [(START + 5 * HOUR, 500_000), (START + 6 * HOUR, 90_000_000)])
    await take(sessions, desk.home, [(START + 7 * HOUR, 90_100_000), (START + 8 * HOUR, 400_000)])
    office = await hire(database_url, tmp_path)
    held = json.loads(await office.good("readings", "held", "--json"))
    assert [(row["serial"], row["reason"], row["register m³"], row["before it m³"]) for row in held] == [
        (serial, "IMPLAUSIBLE_FLOW", "90.000", "0.500"), (serial, "IMPLAUSIBLE_FLOW", "90.100", "0.500"),
        (serial, "BACKWARDS", "0.400", "0.500"),
    ]  # fmt: skip
    first, _, last = (row["at"] for row in held)
    assert "nothing" in await office.good("readings", "held", "NOBODY")
    assert "nothing" in await office.good("readings", "held", "--older-than-days", "9000")
    assert "operator key" in (await office.run("readings", "release", serial, first, "--note", "x", key="")).stderr
    said = await office.good("readings", "release", serial, first, "--note", "a burst pipe")
    assert "1 counted; charges changed by KES8,475.00; 2 still held" in said
    assert "1 counted; charges changed by KES10.00; 1 still held" in await office.good("readings", "rejudge", serial)
    assert "neighbours" in await office.refused("readings", "correct", serial, last, "0.4", "--note", "x")
    await office.good("readings", "correct", serial, last, "90.200", "--note", "misread: one digit")
    swap = await office.good(
        *("readings", "swap", serial, "2026-04-01T10:00:00+03:00", "--final", "91.000", "--start", "0.125"),
        *("--note", "job 17"),
    )
    assert "0 still held" in swap
    await office.good("readings", "reject", serial, last, "--note", "not needed")
    for words in (
        ("readings", "reject", serial, "yesterday", "--note", "x"),
        ("readings", "reject", serial, "2026-04-01T10:00:00", "--note", "x"),
        ("readings", "correct", serial, last, "1.2345678", "--note", "x"),
        ("readings", "correct", serial, last, "NaN", "--note", "x"),
        ("readings", "rejudge", "NOBODY"),
    ):
        assert "standpipe:" in await office.refused(*words)
    async with sessions() as session:
        trail = list((await session.scalars(select(OperatorAction).order_by(OperatorAction.id))).all())
    assert [(row.action, row.operator) for row in trail] == [
        ("operator.add", "amina"), ("reading.release", "amina"), ("reading.rejudge", "amina"),
        ("reading.correct", "amina"), ("reading.swap", "amina"), ("reading.reject", "amina"),
    ]  # fmt: skip
    release = trail[1].detail
    assert (release["note"], release["was"]["quality"], release["is"]["quality"]) == (
        "a burst pipe",
        "HELD",
        "MEASURED",
    )
    assert {row.subject_id for row in trail[1:]} == {desk.home.meter_id}
