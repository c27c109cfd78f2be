"""What history costs: the home screen and each series are answered from indices and roll-ups, however much there is."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text

from standpipe.app import make_signer
from standpipe.households.models import Membership
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.readings.models import Reading
from standpipe_demo.synthetic.utility import Scale, generate
from tests.graphql.test_graphql import HOME
from tests.support.database import DatabaseServer
from tests.support.rating import take_report
from tests.support.town import Town, make_town, settled

pytestmark = pytest.mark.calendar

USAGE = {"daily_usage", "monthly_usage"}
MONEY = {"ledger_entries", "ledger_transactions", "top_ups", "top_up_events", "credit_grants", "meter_commands"}
SERIES = """query($m: ID!, $f: Date!, $t: Date!, $i: UsageInterval!) { viewer { meter(id: $m) {
    usage(from: $f, to: $t, interval: $i) { compact { start litres cost } } } } }"""
METERS, YEARS = 12, 2


@dataclass(frozen=True)
class History:
    """A town with two years of two dozen meters, one of them and its owner's token."""

    town: Town
    meter_id: str
    token: str


@dataclass(frozen=True)
class Touch:
    """A table that a plan reads, how, and whether from end to end."""

    node: str
    table: str
    whole: bool


@pytest.fixture(scope="module")
async def history(postgres: DatabaseServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[History]:
    async with postgres.clone() as url, make_town(url, Path(tmp_path_factory.mktemp("town")), **settled()) as town:
        scale = Scale(meters=METERS, months=12 * YEARS)
        await generate(town.sessions, scale, town.now(), more=False, progress=lambda _done, _total: None)
        async with town.sessions() as session:
            await session.execute(text("ANALYZE"))
            await session.commit()
            meter = (await session.scalars(select(Meter).where(Meter.serial == "GEN0007"))).one()
            owner = select(Membership.customer_id).where(Membership.household_id == meter.household_id)
            customer_id = (await session.scalars(owner)).one()
        yield History(town, meter.id, make_signer(town.settings).issue(customer_id))


@contextmanager
def listening(town: Town) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that goes to the database meanwhile."""
    heard: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        rows = parameters if many and not isinstance(parameters, tuple) else [parameters]
        heard.extend((statement, tuple(row)) for row in rows)

    engine = town.sessions.kw["bind"].sync_engine
    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(engine, "before_cursor_execute", hear)


async def plans_of(town: Town, heard: list[tuple[str, Any]], *, tiny: bool) -> list[list[Touch]]:
    """What each statement's plan reads. ``tiny``: though no table be so small that reading it whole is cheapest."""
    found = []
    async with town.sessions.kw["bind"].connect() as connection:
        if tiny:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, parameters in heard:
            if statement.lstrip().split()[0] not in {"SELECT", "INSERT", "UPDATE", "WITH", "DELETE"}:
                found.append([])
                continue
            rows = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plan = rows.scalar_one()
            found.append(list(_touches((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])))
    return found


def _touches(node: dict[str, Any]) -> Iterator[Touch]:
    if "Relation Name" in node and node["Node Type"] != "ModifyTable":
        below = [child["Node Type"] for child in node.get("Plans", [])]
        whole = "Seq Scan" in node["Node Type"] or not ("Index Cond" in node or "Bitmap Index Scan" in below or below)
        yield Touch(node["Node Type"], node["Relation Name"], whole)
    for child in node.get("Plans", []):
        yield from _touches(child)


async def read_by(town: Town, heard: list[tuple[str, Any]]) -> set[str]:
    """The tables that these statements read. No large one of them is read from end to end, and of the readings no
    statement touches more than three months.
    """
    plans = await plans_of(town, heard, tiny=False)
    whole = {touch for plan in plans for touch in plan if touch.whole}
    assert not {touch for touch in whole if touch.table in USAGE or touch.table.startswith("readings")}
    assert max(len(months_in(plan)) for plan in plans) <= 3
    whole = {touch for plan in await plans_of(town, heard, tiny=True) for touch in plan if touch.whole}
    assert not {touch for touch in whole if touch.table in MONEY}
    return {touch.table for plan in plans for touch in plan}


def months_in(plan: list[Touch]) -> set[str]:
    return {touch.table for touch in plan if touch.table.startswith("readings")}


async def test_the_home_screen_is_read_by_index_and_from_roll_ups(history: History) -> None:
    today = history.town.today()
    with listening(history.town) as heard:
        answer = await history.town.gql(
            HOME, token=history.token, **{"from": str(today - timedelta(days=30)), "to": str(today)}
        )
    assert "errors" not in answer, answer
    [meter] = answer["data"]["viewer"]["meters"]["nodes"]
    assert len(meter["usage"]["compact"]["litres"]) == 30
    assert len(meter["topUps"]["nodes"]) == 10
    read = await read_by(history.town, heard)
    assert {"daily_usage", "top_ups", "credit_grants", "ledger_accounts"} <= read
    assert not {table for table in read if table.startswith("readings")}


@pytest.mark.parametrize(
    ("interval", "days", "table"), [("DAY", 1000, "daily_usage"), ("MONTH", 365 * 5, "monthly_usage")]
)
async def test_days_and_months_are_read_from_roll_ups_alone(
    history: History, interval: str, days: int, table: str
) -> None:
    read = await series(history, interval, days, ago=0)
    assert table in read
    assert not {name for name in read if name.startswith("readings")}


@pytest.mark.parametrize("ago", [0, 100, 600])
async def test_hours_are_read_from_the_months_asked_for(history: History, ago: int) -> None:
    read = await series(history, "HOUR", 41, ago=ago)
    # 41 days and a neighbour on either side.
    assert 2 <= len({name for name in read if name.startswith("readings")}) <= 4, read


async def series(history: History, interval: str, days: int, ago: int) -> set[str]:
    """Ask for a series; returns the tables that are read for it."""
    until = history.town.today() - timedelta(days=ago - 1)
    asked = {"m": history.meter_id, "f": str(until - timedelta(days=days)), "t": str(until), "i": interval}
    with listening(history.town) as heard:
        answer = await history.town.gql(SERIES, token=history.token, **asked)
    assert "errors" not in answer, answer
    litres = answer["data"]["viewer"]["meter"]["usage"]["compact"]["litres"]
    assert len(litres) >= {"HOUR": 40 * 24, "DAY": 999, "MONTH": 60}[interval]
    assert sum(volume is not None for volume in litres) >= {"HOUR": 40 * 24 - 12, "DAY": 700, "MONTH": 24}[interval]
    return await read_by(history.town, heard)


async def test_a_report_is_taken_in_beside_the_months_it_is_about(history: History) -> None:
    town = history.town
    async with town.sessions() as session:
        last = select(Reading).where(Reading.meter_id == history.meter_id).order_by(Reading.read_at.desc()).limit(1)
        reading = (await session.scalars(last)).one()
    now = reading.read_at + timedelta(hours=1)
    report = MeterReport(history.meter_id, now, (RegisterReading(now, reading.register_ml + 9_000),))
    with listening(town) as heard:
        async with town.sessions.begin() as session:
            await take_report(session, report, now)
    plans = await plans_of(town, heard, tiny=False)
    stated = [statement for statement, _ in heard]
    about = [(one, months_in(plan)) for one, plan in zip(stated, plans, strict=True) if "claimed_at" not in one]
    assert any(months for _, months in about)
    # Of months that are over, no more than two; whether anything came later is looked for in those to come.
    this_month = f"readings_{now:%Y_%m}"
    wide = [statement for statement, months in about if len({name for name in months if name < this_month}) > 2]
    assert not wide
