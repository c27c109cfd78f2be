"""Months are made ahead and let go; after that, what comes late is judged and charged as if nothing had gone."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select, text, update

from standpipe.billing.models import PeriodCharge
from standpipe.billing.review import reject, release
from standpipe.billing.rounds import rate_now
from standpipe.billing.statements import issue
from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.commands import lock_meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, create_engine, create_sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.notify import WORK, Listener
from standpipe.platform.units import period_of, service_day
from standpipe.readings.models import DailyUsage, MonthlyUsage, Reading, ReadingQuality
from standpipe.readings.retention import horizon, let_go, sweep
from standpipe.readings.rollups import roll_up
from standpipe.readings.storage import (
    add_partitions,
    cut_first,
    keep_partitions,
    month_start,
    months_from,
    partitions,
)
from standpipe.worker import daily, run_worker
from tests.support.command import standpipe
from tests.support.database import DatabaseServer
from tests.support.rating import take_report
from tests.support.town import Home, make_home, make_settings, make_utility, until

pytestmark = pytest.mark.calendar

START = datetime(2025, 10, 20, 7, tzinfo=UTC)
HORIZON = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def home_in(sessions: Sessions, zone: str) -> Home:
    utility_id, tariff_id = await make_utility(sessions, zone)
    return await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=START, zone=zone)


async def take(sessions: Sessions, home: Home, readings: Sequence[tuple[datetime, int]], now: datetime = NOW) -> None:
    report = MeterReport(home.meter_id, now, tuple(RegisterReading(at, ml) for at, ml in readings))
    async with sessions.begin() as session:
        await take_report(session, report, now)


async def close_months(sessions: Sessions, home: Home, until_month: date = date(2026, 2, 1)) -> None:
    month = date(2025, 10, 1)
    while month <= until_month:
        async with sessions.begin() as session:
            assert await issue(session, home.meter_id, month, NOW) is not None
        month = period_of(month)[1]


async def correct(sessions: Sessions, home: Home, at: datetime, counted_ml: int | None) -> None:
    """What a person's word does to a reading: it stands elsewhere, or for nothing; its day and the next are anew."""
    async with sessions.begin() as session:
        meter = await lock_meter(session, home.meter_id)
        quality = ReadingQuality.REJECTED if counted_ml is None else ReadingQuality.CORRECTED
        await session.execute(
            update(Reading)
            .where(Reading.meter_id == home.meter_id, Reading.read_at == at)
            .values(quality=quality, counted_ml=counted_ml)
        )
        above = await session.scalar(
            select(func.min(Reading.read_at)).where(Reading.meter_id == home.meter_id, Reading.read_at > at)
        )
        zone = ZoneInfo(meter.time_zone)
        days = frozenset(service_day(day, zone) for day in (at, above) if day is not None)
        await roll_up(session, meter, days)
        await rate_now(await session.connection(), meter.id, NOW, changed_days=days)


async def books(sessions: Sessions, home: Home) -> dict[str, Any]:
    """All that a customer is charged by, and what it came to."""
    async with sessions() as session:
        days = await session.scalars(select(DailyUsage).where(DailyUsage.meter_id == home.meter_id))
        months = await session.scalars(select(MonthlyUsage).where(MonthlyUsage.meter_id == home.meter_id))
        charges = await session.scalars(select(PeriodCharge).where(PeriodCharge.meter_id == home.meter_id))
        return {
            "days": {row.day: (row.volume_ml, row.register_end_ml) for row in days},
            "months": {row.month: (row.volume_ml, row.days) for row in months},
            "charges": {row.period_start: row.charged_minor for row in charges},
            "wallet": await wallet_balance_minor(session, home.meter_id, "KES"),
        }


async def forget(sessions: Sessions, before: datetime = HORIZON) -> int:
    """Let go and sweep to the end; returns how many rows the sweep deleted."""
    async with sessions.begin() as session:
        going = await let_go(session, before, NOW)
    total, last = 0, ""
    while going.swept is not None and last is not None:
        async with sessions.begin() as session:
            last, gone = await sweep(session, before, last)  # type: ignore[assignment]
        total += gone
    return total


async def of_before(sessions: Sessions, before: datetime = HORIZON) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(Reading).where(Reading.read_at < before)) or 0


async def lived(sessions: Sessions, zone: str, *, silent: bool) -> Home:
    """A meter with readings around the horizon, each hour or after a long silence, and its statements."""
    home = await home_in(sessions, zone)
    hours = [START + number * HOUR for number in range(1, 24 * 20)]
    if not silent:
        hours += [HORIZON + number * HOUR for number in (*range(-60, -27), *range(-22, -4), *range(33, 80))]
    hours.append(HORIZON + timedelta(days=50))
    await take(sessions, home, [(at, (at - START) // HOUR * 9_500) for at in hours])
    await close_months(sessions, home)
    return home


ZONES = ("Africa/Nairobi", "America/Los_Angeles", "Pacific/Kiritimati", "UTC")


@pytest.mark.parametrize(
    ("zone", "silent", "cut"),
    [*((zone, False, False) for zone in ZONES), *((zone, False, True) for zone in ZONES[:2]),
     (ZONES[0], True, False), (ZONES[1], True, True)],
)  # fmt: skip
async def test_t4_late_readings_and_corrections_come_to_the_same_after_retention(
    postgres: DatabaseServer, zone: str, silent: bool, cut: bool
) -> None:
    found = []
    for retains in (False, True):
        async with postgres.clone() as url:
            engine = create_engine(url)
            sessions = create_sessions(engine)
            home = await lived(sessions, zone, silent=silent)
            before = await books(sessions, home)
            if retains:
                if cut:
                    async with sessions.begin() as session:
                        await cut_first(session, date(2025, 10, 1))
                swept = await forget(sessions)
                assert await of_before(sessions) <= 3
                assert (swept > 0) is not cut
                assert await books(sessions, home) == before
            steps = [await books(sessions, home)]
            # At the horizon itself, within its service day wherever that begins, and days later: late, one by one.
            for offset in (0 * HOUR, 2 * HOUR, 12 * HOUR, 30 * HOUR, 480 * HOUR):
                at = HORIZON + offset
                await take(sessions, home, [(at, (at - START) // HOUR * 9_500)])
                steps.append(await books(sessions, home))
            await correct(sessions, home, HORIZON + 2 * HOUR, (HORIZON - START) // HOUR * 9_500 + 1_000)
            steps.append(await books(sessions, home))
            await correct(sessions, home, HORIZON, None)
            steps.append(await books(sessions, home))
            found.append(steps)
            await engine.dispose()
    without, after = found
    assert after == without
    assert len({repr(step) for step in without}) > 3, "the readings must change something"


async def test_what_comes_from_before_the_horizon_is_held(sessions: Sessions) -> None:
    home = await lived(sessions, "Africa/Nairobi", silent=False)
    await forget(sessions)
    before = await books(sessions, home)
    at = HORIZON - timedelta(days=15)
    await take(sessions, home, [(at, (at - START) // HOUR * 9_500)])
    assert await books(sessions, home) == before
    async with sessions() as session:
        held = (await session.scalars(select(Reading).where(Reading.quality == "HELD"))).one()
        assert (held.read_at, held.reason) == (at, "BEFORE_RETENTION")
    # It waits for a person: the next retention does not take it away, nor the sweep that follows.
    await close_months(sessions, home, date(2025, 9, 1))
    await forget(sessions)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Reading).where(Reading.quality == "HELD")) == 1


async def test_what_was_held_from_before_the_horizon_can_be_put_away_and_nothing_else(sessions: Sessions) -> None:
    home = await lived(sessions, "Africa/Nairobi", silent=False)
    await forget(sessions)
    at = HORIZON - timedelta(days=15)
    await take(sessions, home, [(at, (at - START) // HOUR * 9_500)])
    before = await books(sessions, home)
    who = {
        "operator": "op",
        "meter_id": home.meter_id,
        "read_at": at,
        "note": "too late to matter",
        "now": HORIZON + timedelta(days=60),
    }
    async with sessions.begin() as session:
        with pytest.raises(InvalidInputError, match="no readings any more"):
            await release(session, **who)
    async with sessions.begin() as session:
        assert (await reject(session, **who)).charged_minor == 0
    assert await books(sessions, home) == before
    async with sessions.begin() as session:
        with pytest.raises(InvalidInputError, match="no readings any more"):
            await reject(session, **who)


async def test_retention_goes_on_from_retention(sessions: Sessions) -> None:
    home = await lived(sessions, "Africa/Nairobi", silent=True)
    async with sessions.begin() as session:
        await cut_first(session, date(2025, 10, 1))
    await forget(sessions, datetime(2025, 12, 1, tzinfo=UTC))
    # The last reading of before is older than both horizons: it is handed on.
    await forget(sessions)
    assert await of_before(sessions) == 1
    await forget(sessions)
    async with sessions() as session:
        names = [one.name for one in await partitions(session)]
        assert await horizon(session) == HORIZON
    assert names[:2] == ["readings_before_2026_01", "readings_2026_01"]
    late = HORIZON + timedelta(days=3)
    await take(sessions, home, [(late, (late - START) // HOUR * 9_500)])
    days = (await books(sessions, home))["days"]
    assert days[date(2026, 1, 4)][0] == days[date(2026, 1, 4)][1] - days[date(2025, 11, 9)][1]


@pytest.mark.parametrize(
    ("before", "words"),
    [(NOW - timedelta(days=59), "whole months"), (datetime(2026, 5, 1, tzinfo=UTC), "60 days"),
     (datetime(2026, 4, 1, tzinfo=UTC), "1 meters have no statement"),
     (datetime(2025, 12, 1, tzinfo=UTC), "let go already")],
)  # fmt: skip
async def test_retention_refuses_what_may_still_change(sessions: Sessions, before: datetime, words: str) -> None:
    await lived(sessions, "Africa/Nairobi", silent=True)
    await forget(sessions)
    count = await of_before(sessions, NOW)
    with pytest.raises(InvalidInputError, match=words):
        await forget(sessions, before)
    assert await of_before(sessions, NOW) == count


async def test_months_are_made_ahead_once_whoever_makes_them(sessions: Sessions) -> None:
    home = await home_in(sessions, "Africa/Nairobi")
    async with sessions.begin() as session:
        last = max(one.until for one in await partitions(session) if one.until is not None)
        # A clock from the future: held, and stored in the rest until its month has a partition.
        values = {"meter_id": home.meter_id, "register_ml": 5, "quality": "HELD", "received_at": NOW}
        await session.execute(Reading.__table__.insert(), [values | {"read_at": last + HOUR}])
    now = last - timedelta(days=40)
    clock = Clock(factor=1e-9, anchor_real_s=0, anchor_at=now)
    await asyncio.gather(*(keep_partitions(sessions, clock) for _ in range(4)))
    async with sessions.begin() as session:
        found = {one.name: one for one in await partitions(session)}
        assert await add_partitions(session, now) == []
    made = [name for name, one in found.items() if one.since is not None and one.since >= last]
    assert made == [f"readings_{months_from(last.date(), step):%Y_%m}" for step in range(5)]
    async with sessions() as session:
        rows = await session.execute(text("SELECT tableoid::regclass::text FROM readings"))
        assert [name for (name,) in rows] == [f"readings_{last:%Y_%m}"]
        indices = "SELECT count(*) FROM pg_indexes WHERE tablename = :name"
        assert await session.scalar(text(indices), {"name": f"readings_{last:%Y_%m}"}) == 3
    # And it is a partition like any other.
    with pytest.raises(Exception, match="fk_readings_meter_id"):
        async with sessions.begin() as session:
            await session.execute(Reading.__table__.insert(), [values | {"meter_id": "nobody", "read_at": last}])


async def test_the_worker_makes_months_and_tries_again_after_a_failure(sessions: Sessions, database_url: str) -> None:
    later = datetime.now(UTC) + timedelta(days=365 * 4)
    listener = Listener(database_url, WORK)
    await listener.start()
    clock = Clock(factor=1e-9, anchor_at=later)
    worker = asyncio.create_task(run_worker(sessions, listener, {}, None, clock, HOUR))

    async def is_made() -> bool:
        async with sessions() as session:
            return f"readings_{months_from(later.date(), 6):%Y_%m}" in {one.name for one in await partitions(session)}

    await until(is_made)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    await listener.stop()


async def test_what_runs_daily_runs_once_and_again_after_a_failure() -> None:
    calls: list[str] = []

    async def work() -> None:
        calls.append("x")
        if len(calls) == 1:
            raise ValueError("once")

    look = daily(work, 0.0)
    with pytest.raises(ValueError, match="once"):
        await look()
    assert await look() == 0
    assert len(calls) == 2
    slow = daily(work, 3600.0)
    await slow()
    await slow()
    assert len(calls) == 3


async def test_the_command_line_makes_shows_and_lets_go(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    # Commands go by real time: a meter that lived three years ago, and has been closed up to now.
    today = datetime.now(UTC)
    start = month_start(months_from(today.date(), -36))
    utility_id, tariff_id = await make_utility(sessions)
    settings = make_settings()
    home = await make_home(sessions, settings, utility_id, tariff_id, installed_at=start, zone="Africa/Nairobi")
    await take(sessions, home, [(start + number * 5 * HOUR, number * 9_000) for number in range(1, 200)], today)

    key = standpipe(database_url, tmp_path, "operator", "add", "amina").stdout.strip()

    def run(*words: str) -> Any:
        return standpipe(database_url, tmp_path, "storage", *words, operator_key=key)

    nobody = standpipe(database_url, tmp_path, "storage", "retain", "--months", "24")
    assert (nobody.returncode, "operator key" in nobody.stderr) == (1, True)
    refused = run("retain", "--months", "24")
    assert (refused.returncode, "1 meters have no statement" in refused.stderr) == (1, True), refused.stderr
    assert run("retain", "--months", "1").returncode == 2
    async with sessions.begin() as session:
        await issue(session, home.meter_id, months_from(today.date(), -1), today)
    made = run("partitions", "--ahead", "30", "--since", f"{start:%Y-%m}")
    assert made.returncode == 0, made.stderr
    assert f"readings_{start:%Y_%m}" in made.stdout
    assert f"readings_{months_from(today.date(), 30):%Y_%m}" in made.stdout
    shown = json.loads(run("show", "--json").stdout)
    assert shown[0]["partition"] == "readings_first"
    assert shown[-1]["partition"] == "readings_rest"
    assert {row["horizon"] for row in shown} == {""}
    before = await books(sessions, home)
    dry = run("retain", "--months", "24", "--dry-run")
    assert "would be dropped" in dry.stdout, dry.stderr
    assert await of_before(sessions, today) == 199
    done = run("retain", "--months", "24")
    assert (done.returncode, "dropped" in done.stdout) == (0, True), done.stderr
    assert await of_before(sessions, today) == 1
    assert await books(sessions, home) == before
    shown = json.loads(run("show", "--json").stdout)
    assert {row["horizon"] for row in shown} == {f"{months_from(today.date(), -24):%Y-%m-%d}"}
    assert len(shown) == 24 + 1 + 30 + 2
