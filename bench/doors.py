"""Webhooks and the home screen over HTTP, each against a hand-written endpoint."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.money import make_top_up
from bench.support import CONNECTIONS, Row, rate, serving
from standpipe.app import make_app, make_signer
from standpipe.platform.database import Sessions
from standpipe.platform.ids import new_id
from standpipe.platform.settings import Settings
from standpipe.wiring import Database
from standpipe_demo.simulator.webhooks import sign
from tests.support.town import METER_SECRET, Home

REQUESTS = 600
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
    "SELECT t.id, p.status, t.pay_minor, e.status, e.at FROM top_ups t JOIN payments p ON p.top_up_id = t.id "
    "JOIN top_up_events e ON e.top_up_id = t.id WHERE t.customer_id = $1 ORDER BY t.id DESC LIMIT 40",
)


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
                "INSERT INTO rail_events (rail, event_id, kind, rail_ref, body, due_at) "
                "VALUES ('plain', $1, 'k', 'sch_1', $2, NULL) ON CONFLICT DO NOTHING",
                json.loads(body)["id"],
                body,
            )
        return JSONResponse({"received": True})

    return Starlette(routes=[Route("/", store, methods=["POST"])], lifespan=lifespan)


async def home_screen(settings: Settings, sessions: Sessions, url: str, home: Home) -> Row:
    """The home screen's query over HTTP against a hand-written JSON endpoint that reads the same rows."""
    for _ in range(10):
        await make_top_up(sessions, home)
    token = make_signer(settings).issue(home.customer_id)
    # One customer asks hundreds of times a second here, which no budget allows.
    rich = settings.model_copy(update={"cost_capacity": 10**9})
    ours, plain = make_app(rich, Database(url, sessions)), _plain_app(url, home.customer_id)
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
                assert b'"errors"' not in response.content, response.content[:600]

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
