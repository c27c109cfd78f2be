"""Readings taken in, prices, statements, and series over much history."""

import itertools
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from bench.support import Row, median_ms
from standpipe import tariffs
from standpipe.billing.rounds import rate_due
from standpipe.billing.series import SeriesRequest, UsageInterval, series_of_many
from standpipe.billing.statements import build
from standpipe.meters.due import mark_due
from standpipe.meters.models import Meter
from standpipe.meters.reports import RegisterReading
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, create_engine, create_sessions
from standpipe.platform.migrate import upgrade
from standpipe.platform.units import period_of
from standpipe.readings.raw import RawReadings, store_raw
from standpipe.tariffs.files import read_tariff, to_terms
from standpipe.tariffs.periods import Supply, TariffInForce, price_use, segments_of
from standpipe_demo.synthetic.utility import PREFIX, Scale, generate, months_from
from tests.support.database import renamed
from tests.support.statements import counted
from tests.support.town import Home

METERS, HOURS = 20, 24 * 30
WAITING, LAG_TURNS = 1_000, 5
PRICED = 3_000
SERIES_TIMES = 60
MANY, YEARS = int(os.environ.get("BENCH_METERS", "60")), int(os.environ.get("BENCH_YEARS", "5"))
"""How many meters have so many years of hourly readings: 500 are 22 million readings, and take a while to make."""


async def ingest(sessions: Sessions, url: str, homes: list[Home], start: datetime) -> list[Row]:
    """Readings taken in, judged, rolled up and priced, against COPY of the same rows into a table without a key."""
    readings = [RegisterReading(start + timedelta(hours=n + 1), n * 11_000) for n in range(HOURS)]
    now = readings[-1].read_at
    meter_ids = [home.meter_id for home in homes]
    clock = Clock(0.0, 0.0, now)
    engine: AsyncEngine = sessions.kw["bind"]
    while await rate_due(sessions, clock):
        pass
    began_s, cpu_s = time.perf_counter(), time.process_time()
    with counted(sessions) as sent:
        for at in range(0, HOURS, 24 * 10):
            part = tuple(readings[at : at + 24 * 10])
            async with engine.begin() as conn:
                await store_raw(conn, [RawReadings(meter_id, now, part) for meter_id in meter_ids])
                await mark_due(conn, meter_ids)
            while await rate_due(sessions, clock):
                pass
    ours_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TABLE plain_readings (meter_id text, read_at timestamptz, register_ml bigint, quality text, "
        "reason text, received_at timestamptz)"
    )
    records = [
        (meter_id, reading.read_at, reading.register_ml, "MEASURED", None, now)
        for meter_id in meter_ids
        for reading in readings
    ]
    began_s = time.perf_counter()
    for at in range(0, len(records), 24 * 10):
        await connection.copy_records_to_table("plain_readings", records=records[at : at + 24 * 10])
    plain_s = time.perf_counter() - began_s
    await connection.close()
    how = (
        f"reports of 240; {1000 * cpu_s / len(records):.3f} ms of our processor and {sent.count / len(records):.4f} "
        "statements each"
    )
    return [
        Row(
            "readings judged, rolled up and priced ÷ COPY (readings/s)",
            len(records) / ours_s,
            len(records) / plain_s,
            how,
        ),
        await lag(sessions, homes[0].meter_id, now),
    ]


async def lag(sessions: Sessions, model_id: str, now: datetime) -> Row:
    """How long a thousand meters with one fresh reading each wait for their rating, all marked at one instant."""
    engine: AsyncEngine = sessions.kw["bind"]
    async with engine.begin() as conn:
        await conn.execute(MORE_METERS, {"model_id": model_id, "count": WAITING})
        meter_ids = list(await conn.scalars(text("SELECT id FROM meters WHERE id LIKE 'mtr_lag_%' ORDER BY id")))
    clock = Clock(0.0, 0.0, now)
    while await rate_due(sessions, clock):
        pass
    waits_ms: list[float] = []
    cpu_s, statements = 0.0, 0
    for turn in range(LAG_TURNS):
        read_at = now + timedelta(minutes=1 + turn)
        raw = [RawReadings(meter_id, read_at, (RegisterReading(read_at, 1_000 * turn),)) for meter_id in meter_ids]
        async with engine.begin() as conn:
            await store_raw(conn, raw)
            await mark_due(conn, meter_ids)
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        with counted(sessions) as sent:
            while claimed := await rate_due(sessions, Clock(0.0, 0.0, read_at)):
                waits_ms += [1000 * (time.perf_counter() - began_s)] * claimed
        cpu_s, statements = cpu_s + time.process_time() - cpu_began_s, statements + sent.count
    p95_ms = statistics.quantiles(waits_ms, n=20)[-1]
    how = (
        f"aim: 1 s; {1000 * cpu_s / len(waits_ms):.2f} ms of our processor and {statements / len(waits_ms):.2f} "
        "statements a meter"
    )
    return Row(f"p95 until rated with {WAITING:,} meters due ÷ 1 s (ms)", p95_ms, 1000.0, how)


MORE_METERS = text("""
INSERT INTO meters (id, serial, label, utility_id, household_id, tariff_id, wallet_kind, currency,
                    time_zone, installed_at)
SELECT 'mtr_lag_' || n, 'LAG' || n, 'Lag', utility_id, household_id, tariff_id, wallet_kind, currency, time_zone,
       installed_at
FROM meters, generate_series(1, :count) AS n WHERE id = :model_id
""")


def pricing() -> Row:
    """A month's use priced, with its lines and levies, against the least that any engine does: one multiplication."""
    file = read_tariff((Path(tariffs.__file__).parent / "town" / "domestic.yaml").read_text())
    terms, since = to_terms(file), date(2025, 1, 1)
    version = TariffInForce("trf", "trv", "Domestic", "KES", since, terms)
    segments = segments_of(date(2026, 5, 1), [Supply(since, "trf")], {"trf": [version]})
    chance = random.Random(1)
    volumes_ml = [chance.randrange(60_000_000) for _ in range(PRICED)]
    began = time.perf_counter()
    for volume_ml in volumes_ml:
        price_use(segments, [volume_ml])
    ours_s = time.perf_counter() - began
    price = Decimal("9500.00")
    began = time.perf_counter()
    for volume_ml in volumes_ml:
        (Decimal(volume_ml) * price / 1_000_000).quantize(Decimal(1))
    plain_s = time.perf_counter() - began
    how = "three blocks, a levy, lines and accounts; baseline: one Decimal product, rounded"
    return Row("a period priced ÷ one multiplication (periods/s)", PRICED / ours_s, PRICED / plain_s, how)


@dataclass(frozen=True)
class Past:
    """A database with a synthetic utility in it."""

    url: str
    sessions: Sessions
    meters: list[Meter]


@asynccontextmanager
async def past(url: str, name: str, meters: int, months: int) -> AsyncIterator[Past]:
    """A database of its own with so much history."""
    admin = await asyncpg.connect(url)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    own = renamed(url, name)
    await upgrade(own)
    engine = create_engine(own)
    sessions = create_sessions(engine)
    began = time.perf_counter()
    scale = Scale(meters=meters, months=months)
    await generate(sessions, scale, datetime.now(UTC), more=False, progress=lambda _done, _total: None)
    connection = await asyncpg.connect(own)
    await connection.execute("VACUUM ANALYZE")
    count = await connection.fetchval("SELECT count(*) FROM readings")
    await connection.close()
    print(f"{name}: {meters} meters, {count:,} readings, made in {time.perf_counter() - began:.0f} s")
    async with sessions() as session:
        found = list(await session.scalars(select(Meter).where(Meter.serial.like(f"{PREFIX}%")).order_by(Meter.id)))
    yield Past(own, sessions, found)
    await engine.dispose()


async def history(url: str) -> list[Row]:
    """Statements and series where there is much, and the same series where there is one month."""
    async with past(url, "one_month", MANY, 1) as young, past(url, "years", MANY, 12 * YEARS) as old:
        return [await statements(old), *await series_of_both(young, old), *await long_series(old)]


async def statements(old: Past) -> Row:
    """A closed month's statement against the bare statements that it runs, by the driver."""
    month = months_from(datetime.now(UTC).date(), -2)

    def one(meter: Meter) -> Callable[[], Awaitable[object]]:
        return lambda: _in_session(old.sessions, lambda session: build(session, meter, month))

    heard = await _heard(old.sessions, one(old.meters[0]))
    connection = await asyncpg.connect(old.url)
    meters = list(itertools.islice(itertools.cycle(old.meters), SERIES_TIMES))

    def bare(meter: Meter) -> Callable[[], Awaitable[object]]:
        return lambda: _again(connection, heard, old.meters[0].id, meter.id)

    await median_ms([[one(meter) for meter in meters[:5]], [bare(meter) for meter in meters[:5]]])
    ours_ms, plain_ms = await median_ms([[one(meter) for meter in meters], [bare(meter) for meter in meters]])
    await connection.close()
    how = f"{len(heard)} statements of SQL each, one after the other"
    return Row("a month's statement ÷ its bare SQL (statements/s)", 1000 / ours_ms, 1000 / plain_ms, how)


async def series_of_both(young: Past, old: Past) -> list[Row]:
    """The same request, for last month, to a database with one month of history and to one with years of it."""
    start, end = period_of(months_from(datetime.now(UTC).date(), -1))
    rows = []
    for interval in UsageInterval:
        jobs = [_asks(one, interval, start, end) for one in (old, young)]
        await median_ms([asked[:5] for asked in jobs])
        old_ms, young_ms = await median_ms(jobs)
        buckets = {"HOUR": (end - start).days * 24, "DAY": (end - start).days, "MONTH": 1}[interval]
        name = f"{interval} series, {YEARS} years ÷ one month of history (ms)"
        rows.append(Row(name, old_ms, young_ms, f"last month, {buckets} buckets, {MANY} meters; aim: 1.2 at most"))
    return rows


async def long_series(old: Past) -> list[Row]:
    """As much as may be asked for at once, against reading the same roll-ups or readings by the driver."""
    until = datetime.now(UTC).date()
    connection = await asyncpg.connect(old.url)
    rows = []
    for interval, days, sql in (
        (UsageInterval.HOUR, 41, "SELECT read_at, counted_ml FROM readings WHERE meter_id = $1 AND read_at >= $2"),
        (UsageInterval.DAY, 1000, "SELECT day, volume_ml FROM daily_usage WHERE meter_id = $1 AND day >= $2"),
        (
            UsageInterval.MONTH,
            365 * 5,
            "SELECT month, volume_ml FROM monthly_usage WHERE meter_id = $1 AND month >= $2",
        ),
    ):
        since: Any = until - timedelta(days=days)
        jobs = _asks(old, interval, since, until)
        if interval is UsageInterval.HOUR:
            since = datetime(since.year, since.month, since.day, tzinfo=UTC)
        meters = list(itertools.islice(itertools.cycle(old.meters), len(jobs)))
        plain = [lambda m=meter, q=sql, s=since: connection.fetch(q, m.id, s) for meter in meters]
        ours_ms, plain_ms = await median_ms([jobs, plain])
        rows.append(
            Row(
                f"{interval} series over {days} days ÷ its rows by the driver (ms)",
                ours_ms,
                plain_ms,
                "each bucket priced",
            )
        )
    await connection.close()
    return rows


def _asks(one: Past, interval: UsageInterval, start: date, end: date) -> list[Callable[[], Awaitable[object]]]:
    now = datetime.now(UTC)

    def ask(meter: Meter) -> Callable[[], Awaitable[object]]:
        first_day = meter.installed_at.date()
        request = SeriesRequest(meter.id, meter.tariff_id, meter.time_zone, start, end, interval, first_day)
        return lambda: _in_session(one.sessions, lambda session: series_of_many(session, [request], now))

    return [ask(meter) for meter in itertools.islice(itertools.cycle(one.meters), SERIES_TIMES)]


async def _in_session(sessions: Sessions, work: Callable[[AsyncSession], Awaitable[object]]) -> object:
    async with sessions() as session:
        return await work(session)


async def _heard(sessions: Sessions, work: Callable[[], Awaitable[object]]) -> list[tuple[str, tuple[Any, ...]]]:
    heard: list[tuple[str, tuple[Any, ...]]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        heard.append((statement, tuple(parameters)))

    engine = sessions.kw["bind"].sync_engine
    event.listen(engine, "before_cursor_execute", hear)
    await work()
    event.remove(engine, "before_cursor_execute", hear)
    return heard


async def _again(connection: Any, heard: list[tuple[str, tuple[Any, ...]]], was: str, now: str) -> None:
    for statement, parameters in heard:
        await connection.fetch(statement, *(now if value == was else value for value in parameters))
