"""`make bench`: ratios, each against a plain baseline in the same run, on the embedded PostgreSQL with fsync on.

Loads are bounded in count and stay on the loopback. ``--write`` keeps the result in docs/bench.md.
"""

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from standpipe.app import make_app, make_signer
from standpipe.clock import Clock
from standpipe.db.embedded import embedded
from standpipe.db.engine import Sessions, create_engine, create_sessions
from standpipe.db.migrate import upgrade
from standpipe.ids import new_id
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.payments.models import TopUp
from standpipe.payments.provider import MOBILE_POLLS_S, Capabilities, PaymentStatus, PaymentTruth
from standpipe.payments.settle import settle
from standpipe.settings import Settings
from standpipe.simulator.webhooks import sign
from standpipe.usage.readings import take_report
from standpipe.wiring import Database
from tests.support.database import free_port
from tests.support.town import METER_SECRET, Home, make_home, make_utility

CONNECTIONS = 8
REQUESTS = 600
SETTLEMENTS = 600
STALL_S = 3
METERS, HOURS = 20, 24 * 30
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "bench.md"
HOME_QUERY = """query($f: Date!, $t: Date!) { viewer { phone meters(first: 20) { nodes { id label serial timeZone
  connectivity { online lastSeenAt } valve { state reason }
  balance { ledger { amount currency display } onMeter { amount } onMeterAsOf inFlight { amount }
    lasts { daysLow daysLikely daysHigh emptyOn } }
  tariff { name currentTier tiers { index from { litres } to { litres } pricePerKilolitre { amount } } }
  usage(from: $f, to: $t, interval: DAY) { total { litres } totalCost { amount } compact { start litres cost } }
  topUps(first: 10) { nodes { id status pay { amount } timeline { status at } } } } } } }"""
# The same rows as the GraphQL query reads, by hand: what any server must at least do.
HOME_SQL = (
    "SELECT phone FROM customers WHERE id = $1",
    "SELECT m.*, s.role, t.*, a.balance_minor FROM meters m JOIN memberships s ON s.household_id = m.household_id "
    "LEFT JOIN meter_states t ON t.meter_id = m.id LEFT JOIN ledger_accounts a ON a.kind = 'WALLET' "
    "AND a.owner_id = m.id WHERE s.customer_id = $1 ORDER BY m.id LIMIT 21",
    "SELECT t.id, v.blocks FROM tariffs t JOIN tariff_versions v ON v.tariff_id = t.id WHERE t.id IN "
    "(SELECT tariff_id FROM meters m JOIN memberships s ON s.household_id = m.household_id WHERE s.customer_id = $1)",
    "SELECT d.meter_id, d.day, d.volume_ml FROM daily_usage d JOIN meters m ON m.id = d.meter_id JOIN memberships s "
    "ON s.household_id = m.household_id WHERE s.customer_id = $1 AND d.day >= now() - interval '40 days'",
    "SELECT p.id, p.status, p.pay_minor, e.status, e.at FROM top_ups p JOIN top_up_events e ON e.top_up_id = p.id "
    "WHERE p.customer_id = $1 ORDER BY p.id DESC LIMIT 40",
)


class Row(NamedTuple):
    """A ratio and what it is made of."""

    name: str
    ours: float
    plain: float
    how: str


async def main(arguments: list[str]) -> None:
    """Run all and print them."""
    folder = Path(tempfile.mkdtemp(prefix="standpipe-bench-"))
    folder.chmod(0o755)
    async with embedded(folder, port=free_port()) as url:
        await upgrade(url)
        engine = create_engine(url, pool_size=CONNECTIONS + 2)
        sessions = create_sessions(engine)
        utility_id, tariff_id = await make_utility(sessions)
        settings = Settings.model_validate({"token_secret": "b" * 40, "meter_key_secrets": METER_SECRET})
        start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS)
        homes = [
            await make_home(sessions, settings, utility_id, tariff_id, installed_at=start, zone="Africa/Nairobi")
            for _ in range(METERS)
        ]
        rows = [
            await ingest(sessions, url, homes, start),
            *await settlements(sessions, url, homes[0]),
            await webhooks(settings, sessions, url),
            await home_screen(settings, sessions, url, homes[0]),
        ]
        await engine.dispose()
    report(rows, "--write" in arguments)


async def ingest(sessions: Sessions, url: str, homes: list[Home], start: datetime) -> Row:
    """Readings taken in (stored, rolled up, charged) against COPY of the same rows into a table without a key."""
    readings = [RegisterReading(start + timedelta(hours=n + 1), n * 11_000) for n in range(HOURS)]
    now = readings[-1].read_at
    began = time.perf_counter()
    for home in homes:
        for at in range(0, HOURS, 24 * 10):
            async with sessions.begin() as session:
                part = tuple(readings[at : at + 24 * 10])
                await take_report(session, MeterReport(home.meter_id, now, part), now)
    ours_s = time.perf_counter() - began
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TABLE raw_readings (meter_id text, read_at timestamptz, register_ml bigint, quality text, "
        "reason text, received_at timestamptz)"
    )
    records = [
        (home.meter_id, reading.read_at, reading.register_ml, "MEASURED", None, now)
        for home in homes
        for reading in readings
    ]
    began = time.perf_counter()
    for at in range(0, len(records), 24 * 10):
        await connection.copy_records_to_table("raw_readings", records=records[at : at + 24 * 10])
    plain_s = time.perf_counter() - began
    await connection.close()
    return Row("reading ingest ÷ COPY (readings/s)", len(records) / ours_s, len(records) / plain_s, "batches of 240")


class Paid:
    """A provider that answers at once that all is paid: only our own work is measured."""

    name = "bench"
    capabilities = Capabilities(MOBILE_POLLS_S, reports_refunds=True)

    def __init__(self, truths: dict[str, PaymentTruth]) -> None:
        self._truths = truths

    async def fetch(self, provider_ref: str) -> PaymentTruth:
        """The truth, without a network."""
        return self._truths[provider_ref]


async def settlements(sessions: Sessions, url: str, home: Home) -> list[Row]:
    """``settle`` against the same statements by plain driver code, both with CONNECTIONS at once; then with one
    transaction that has posted to the provider's account and stalls for the whole run, against none.
    """
    async with sessions() as session:
        meter = await session.get_one(Meter, home.meter_id)
        utility_id, tariff_id = meter.utility_id, meter.tariff_id
    settings = Settings.model_validate({"token_secret": "b" * 40})
    homes = [
        await make_home(
            sessions, settings, utility_id, tariff_id, installed_at=datetime.now(UTC), zone="Africa/Nairobi"
        )
        for _ in range(CONNECTIONS * 4)
    ]
    owners = [homes[number % len(homes)] for number in range(SETTLEMENTS)]
    ours = [await _top_up(sessions, owner) for owner in owners]
    truths = {ref: _truth(ref, top_up_id) for top_up_id, ref in ours}
    providers: Any = {"bench": Paid(truths)}
    ours_rate = await rate([lambda i=i: settle(sessions, providers, i, Clock()) for i, _ in ours])
    plain = [await _top_up(sessions, owner) for owner in owners]
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    plain_rate = await rate(
        [lambda i=i, o=o: _plain_settle(pool, i, o) for (i, _), o in zip(plain, owners, strict=True)]
    )
    await pool.close()
    free, stalled = await _many(sessions, owners), await _many(sessions, owners)
    for top_ups in (free, stalled):
        truths.update({ref: _truth(ref, top_up_id) for top_up_id, ref in top_ups})
    free_rate = await rate([lambda i=i: settle(sessions, providers, i, Clock()) for i, _ in free])
    async with sessions.begin() as session:
        lines = [
            Line(AccountRef(AccountKind.CLEARING, "bench", "KES"), -1),
            Line(AccountRef(AccountKind.WALLET, home.meter_id, "KES"), 1),
        ]
        await post(session, key="stalled", kind="TOP_UP", lines=lines, occurred_at=datetime.now(UTC))
        began = time.perf_counter()
        stalled_rate = await rate([lambda i=i: settle(sessions, providers, i, Clock()) for i, _ in stalled])
        held_s = time.perf_counter() - began
        assert held_s > STALL_S, f"the run was shorter than the stall: {held_s:.1f} s"
    return [
        Row("settle ÷ the same SQL (settlements/s)", ours_rate, plain_rate, f"{CONNECTIONS} connections, fsync on"),
        Row(
            "settle beside a stalled posting to the same clearing account ÷ without it (settlements/s)",
            stalled_rate,
            free_rate,
            f"stalled for {held_s:.1f} s",
        ),
    ]


async def _many(sessions: Sessions, owners: list[Home]) -> list[tuple[str, str]]:
    return [await _top_up(sessions, owner) for owner in owners]


async def webhooks(settings: Settings, sessions: Sessions, url: str) -> Row:
    """Signed webhooks accepted over HTTP against a bare endpoint that makes the same INSERT by driver."""
    secret = "b" * 24
    more = {"sandbox_url": "http://127.0.0.1:1", "sandbox_api_key": "k", "sandbox_webhook_secrets": secret}
    app = make_app(
        Settings.model_validate({"token_secret": "b" * 40, "meter_key_secrets": METER_SECRET} | more),
        Database(url, sessions),
    )
    rates = []
    for served, path in ((app, "/webhooks/sandbox"), (_plain_inbox(url), "/")):
        async with serving(served) as http:

            async def tell(http: httpx.AsyncClient = http, path: str = path) -> None:
                event = {"id": new_id("evt"), "type": "charge.succeeded", "data": {"charge": {"id": "sch_1"}}}
                body = json.dumps(event).encode()
                response = await http.post(path, content=body, headers={"Sandbox-Signature": sign(body, secret)})
                assert response.status_code == 200

            await rate([tell] * 40)
            rates.append(await rate([tell] * REQUESTS))
    assert settings.token_secret is not None
    return Row("webhook accepted ÷ bare INSERT over HTTP (notices/s)", rates[0], rates[1], f"{CONNECTIONS} at once")


def _plain_inbox(url: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
            app.state.pool = pool
            yield

    async def store(request: Request) -> JSONResponse:
        body = await request.body()
        async with request.app.state.pool.acquire() as db:
            await db.execute(
                "INSERT INTO provider_events (provider, event_id, kind, provider_ref, body, due_at) "
                "VALUES ('plain', $1, 'k', 'sch_1', $2, NULL) ON CONFLICT DO NOTHING",
                json.loads(body)["id"],
                body,
            )
        return JSONResponse({"received": True})

    return Starlette(routes=[Route("/", store, methods=["POST"])], lifespan=lifespan)


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """The app on a port of the loopback, and a client of it."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        yield http
    server.should_exit = True
    await task


async def _top_up(sessions: Sessions, home: Home) -> tuple[str, str]:
    top_up_id, ref = new_id("top"), new_id("ref")
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        session.add(
            TopUp(
                id=top_up_id,
                customer_id=home.customer_id,
                meter_id=home.meter_id,
                provider="bench",
                provider_ref=ref,
                pay_minor=1500,
                currency="KES",
                idempotency_key=top_up_id,
                request_hash="",
                status="PENDING",
                created_at=now,
                updated_at=now,
            )
        )
    return top_up_id, ref


def _truth(ref: str, top_up_id: str) -> PaymentTruth:
    return PaymentTruth(ref, top_up_id, PaymentStatus.SUCCEEDED, "KES", 1500, 1500, 0)


async def _plain_settle(pool: Any, top_up_id: str, home: Home) -> None:
    """The statements of ``settle``, in its order, without anything around them."""
    transaction, now = new_id("ltx"), datetime.now(UTC)
    async with pool.acquire() as db:
        await db.fetchrow("SELECT * FROM top_ups WHERE id = $1", top_up_id)
        async with db.transaction():
            await db.fetchrow("SELECT * FROM top_ups WHERE id = $1 FOR NO KEY UPDATE", top_up_id)
            await db.execute(
                "INSERT INTO ledger_transactions (id, key, kind, occurred_at) VALUES ($1, $2, 'TOP_UP', $3) "
                "ON CONFLICT DO NOTHING",
                transaction,
                f"plain:{top_up_id}",
                now,
            )
            clearing = await _plain_account(db, "CLEARING", "plain", guarded=False)
            wallet = await _plain_account(db, "WALLET", home.meter_id, guarded=True)
            row = await db.fetchrow("SELECT * FROM ledger_accounts WHERE id = $1 FOR NO KEY UPDATE", wallet)
            balance, version = row["balance_minor"] + 1500, row["version"] + 1
            await db.execute(
                "UPDATE ledger_accounts SET balance_minor = $2, version = $3 WHERE id = $1", wallet, balance, version
            )
            await db.execute(
                "INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor, account_version, "
                "balance_after_minor, floor_minor) VALUES ($1, $2, 'KES', -1500, NULL, NULL, NULL), "
                "($1, $3, 'KES', 1500, $4, $5, 0)",
                transaction,
                clearing,
                wallet,
                version,
                balance,
            )
            meter = await db.fetchrow("SELECT * FROM meters WHERE id = $1 FOR NO KEY UPDATE", home.meter_id)
            total, sequence = meter["credit_granted_minor"] + 1500, meter["last_sequence"] + 1
            await db.execute(
                "INSERT INTO credit_grants (credit_key, meter_id, source_id, amount_minor, total_after_minor, "
                "granted_at) VALUES ($1, $2, $1, 1500, $3, $4) ON CONFLICT DO NOTHING",
                top_up_id,
                home.meter_id,
                total,
                now,
            )
            await db.execute(
                "UPDATE meter_commands SET status = 'SUPERSEDED' WHERE meter_id = $1 AND status = 'QUEUED'",
                home.meter_id,
            )
            await db.execute(
                "INSERT INTO meter_commands (id, meter_id, sequence, kind, value, status) "
                "VALUES ($1, $2, $3, 'CREDIT', $4, 'QUEUED')",
                new_id("cmd"),
                home.meter_id,
                sequence,
                total,
            )
            await db.execute(
                "UPDATE meters SET credit_granted_minor = $2, last_sequence = $3 WHERE id = $1",
                home.meter_id,
                total,
                sequence,
            )
            await db.execute("SELECT pg_notify('bench_commands', $1)", home.meter_id)
            await db.execute("INSERT INTO outbox_facts (kind, payload, due_at) VALUES ('TopUpPaid', '{}', NULL)")
            await db.execute("SELECT pg_notify('bench_work', 'outbox')")
            await db.execute(
                "INSERT INTO top_up_events (top_up_id, status, at) VALUES ($1, 'SUCCEEDED', $2)", top_up_id, now
            )
            await db.execute(
                "UPDATE top_ups SET status = 'SUCCEEDED', captured_minor = 1500, version = 1, due_at = NULL "
                "WHERE id = $1",
                top_up_id,
            )
            await db.execute("SELECT pg_notify('bench_live', $1)", top_up_id)
            await db.execute("SELECT pg_notify('bench_live', $1)", home.meter_id)


async def _plain_account(db: Any, kind: str, owner: str, *, guarded: bool) -> str:
    query = "SELECT id FROM ledger_accounts WHERE kind = $1 AND owner_id = $2 AND currency = 'KES'"
    found = await db.fetchval(query, kind, owner)
    if found is None:
        await db.execute(
            "INSERT INTO ledger_accounts (id, kind, owner_id, currency, guarded) VALUES ($1, $2, $3, 'KES', $4) "
            "ON CONFLICT DO NOTHING",
            new_id("acc"),
            kind,
            owner,
            guarded,
        )
        found = await db.fetchval(query, kind, owner)
    return str(found)


async def home_screen(settings: Settings, sessions: Sessions, url: str, home: Home) -> Row:
    """The home screen's query over HTTP against a hand-written JSON endpoint that reads the same rows."""
    for _ in range(10):
        await _top_up(sessions, home)
    token = make_signer(settings).issue(home.customer_id)
    ours, plain = make_app(settings, Database(url, sessions)), _plain_app(url, home.customer_id)
    rates = []
    today = datetime.now(UTC).date()
    variables = {"f": str(today - timedelta(days=30)), "t": str(today)}
    body = json.dumps({"query": HOME_QUERY, "variables": variables})
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    for app, method, path in ((ours, "POST", "/graphql"), (plain, "GET", "/home")):
        async with serving(app) as http:

            async def ask(http: httpx.AsyncClient = http, method: str = method, path: str = path) -> None:
                content = body if method == "POST" else None
                response = await http.request(method, path, content=content, headers=headers)
                assert response.status_code == 200
                assert b'"errors"' not in response.content

            await rate([ask] * 40)
            rates.append(await rate([ask] * REQUESTS))
    return Row("home screen ÷ plain JSON (requests/s)", rates[0], rates[1], f"{CONNECTIONS} at once, client in-process")


def _plain_app(url: str, customer_id: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
            app.state.pool = pool
            yield

    async def home(request: Request) -> JSONResponse:
        async with request.app.state.pool.acquire() as db:
            found = [[dict(row) for row in await db.fetch(sql, customer_id)] for sql in HOME_SQL]
        return JSONResponse(json.loads(json.dumps(found, default=str)))

    return Starlette(routes=[Route("/home", home)], lifespan=lifespan)


async def rate(jobs: list[Callable[[], Awaitable[None]]]) -> float:
    """Jobs per second, CONNECTIONS at once."""
    room = asyncio.Semaphore(CONNECTIONS)

    async def one(job: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await job()

    began = time.perf_counter()
    await asyncio.gather(*(one(job) for job in jobs))
    return len(jobs) / (time.perf_counter() - began)


def report(rows: list[Row], keep: bool) -> None:
    """Print the table; keep it where asked."""
    lines = ["| what | ours | baseline | ratio | how |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {ours:,.0f} | {plain:,.0f} | {ours / plain:.2f} | {how} |" for name, ours, plain, how in rows
    ]
    print("\n".join(lines))
    if keep:
        when = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}"
        DOCUMENT.write_text(
            "# Bench\n\nRatios from one run of `make bench` on one machine; the absolute numbers mean little "
            f"elsewhere. Last kept: {when}.\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
