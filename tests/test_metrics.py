"""/metrics, /healthz and /readyz of a role: what they say, and that asking them costs the database next to nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette

from standpipe.api.admin import make_admin
from standpipe.platform import metrics
from standpipe.platform.database import Sessions, after_commit, create_engine, create_sessions
from standpipe.platform.notify import WORK, Listener
from standpipe.platform.ready import KEEP_S, Readiness, older_revisions
from tests.support.database import free_port
from tests.support.roles import running, until_answers
from tests.support.town import Town, until

DOCS = Path(__file__).resolve().parents[1] / "docs"
FINE = {"database": "ok", "migrations": "ok", "listener": "ok"}


def client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin")


@asynccontextmanager
async def listening(database_url: str) -> AsyncIterator[Listener]:
    listener = Listener(database_url, WORK)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


async def read(http: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Every sample by name and its labels in order."""
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_a_top_up_is_seen_in_the_metrics(town: Town) -> None:
    admin = make_admin(town.sessions, town.app.state.readiness)
    async with client(admin) as http:
        before = await read(http)
        top_up_id, intent = await town.pay_by_card()
        event_ = {"id": "evt_1", "object": "event", "type": "payment_intent.succeeded", "data": {"object": intent}}
        await town.tell(event_ | {"created": 1, "livemode": False, "api_version": "2020-01-01"})
        await town.tell_raw(b"not signed", at_s=0)
        await town.gql("{ nothing }")
        await town.start(amount="0.01")
        await town.http.get(f"{town.api}/a/path/that/is/not/there")
        await town.drain()
        assert await town.status(top_up_id) == "PAID"
        admin.state.depths = type(admin.state.depths)(town.sessions)
        after = await read(http)

    def rose(*key: str) -> float:
        name, *labels = key
        key = (name, *sorted(labels))
        return after.get(key, 0) - before.get(key, 0)

    assert rose("standpipe_http_requests_total", "POST", "/webhooks/{rail}", "200") == 1
    assert rose("standpipe_http_requests_total", "POST", "/webhooks/{rail}", "400") == 1
    assert rose("standpipe_http_requests_total", "GET", "none", "404") == 1
    assert rose("standpipe_http_request_seconds_count", "/graphql") == 4
    assert rose("standpipe_graphql_errors_total", "query", "INVALID") == 1
    assert rose("standpipe_graphql_errors_total", "user", "AMOUNT_OUT_OF_RANGE") == 1
    assert rose("standpipe_top_ups_total", "stripe", "CREATED") == 1
    assert rose("standpipe_top_ups_total", "stripe", "SUCCEEDED") == 1
    assert rose("standpipe_payments_settled_total", "stripe") == 1
    assert rose("standpipe_provider_call_seconds_count", "stripe", "create", "answered") == 1
    assert rose("standpipe_provider_call_seconds_count", "stripe", "fetch", "answered") >= 1
    assert after["standpipe_queue_depth", "commands"] == 1
    assert after["standpipe_queue_oldest_seconds", "commands"] > 0
    assert (after["standpipe_queue_depth", "inbox"], after["standpipe_queue_oldest_seconds", "inbox"]) == (0, 0)
    assert after["standpipe_db_pool_size",] == 40
    assert "process_resident_memory_bytes" in {key[0] for key in after}


async def test_no_label_holds_what_a_caller_chose(town: Town) -> None:
    strange = "/webhooks/stripe/secret_of_a_stranger", "/receipts/rct_stranger.pdf", "/stranger", "/graphiql/stranger"
    for path in strange:
        await town.http.request("STRANGE", f"{town.api}{path}")
        await town.http.get(f"{town.api}{path}")
    await town.gql("query Stranger { stranger }")
    async with client(make_admin(town.sessions, town.app.state.readiness)) as http:
        labels = {label for key in await read(http) for label in key[1:]}
    assert not [label for label in labels if "stranger" in label.lower() or "STRANGE" in label]


async def test_what_is_rolled_back_is_not_counted(sessions: Sessions) -> None:
    counted: list[str] = []
    async with sessions() as session:
        await session.execute(text("SELECT 1"))
        after_commit(session, lambda: counted.append("never"))
        await session.rollback()
    async with sessions.begin() as session:
        await session.execute(text("SELECT 1"))
        after_commit(session, lambda: counted.append("once"))
        assert counted == []
    assert counted == ["once"]


async def test_scrapes_and_probes_do_not_hammer_the_database(
    engine: AsyncEngine, sessions: Sessions, database_url: str
) -> None:
    asked: list[str] = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(str(statement))
    )
    async with listening(database_url) as listener:
        readiness = Readiness(sessions, listener, older=older_revisions())
        async with client(make_admin(sessions, readiness)) as http:
            answers = await asyncio.gather(*(http.get("/readyz") for _ in range(50)))
            assert {answer.status_code for answer in answers} == {200}
            assert answers[0].json() == {"status": "ready", "checks": FINE}
            assert len(asked) <= 4, asked
            asked.clear()
            await asyncio.gather(*(http.get("/metrics") for _ in range(50)))
            assert len([statement for statement in asked if "count(" in statement]) == 4, "one for each queue"
            asked.clear()
            await asyncio.gather(*(http.get("/healthz") for _ in range(50)))
            assert asked == []


async def _checks(readiness: Readiness) -> dict[str, str]:
    await asyncio.sleep(0)
    readiness._asked_s = -KEEP_S
    return await readiness.checks()


async def test_readyz_names_what_fails_and_healthz_does_not_mind(sessions: Sessions, database_url: str) -> None:
    # One that lies before the first, until there is a second.
    older = older_revisions() | {"0000"}
    async with listening(database_url) as listener:
        readiness = Readiness(sessions, listener, older=older)
        async with sessions.begin() as session:
            await session.execute(text("UPDATE alembic_version SET version_num = :older"), {"older": max(older)})
        assert await _checks(readiness) == FINE | {"migrations": "behind"}
        async with sessions.begin() as session:
            await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert await _checks(readiness) == FINE, "a newer one only adds"
        async with sessions.begin() as session:
            await session.execute(text("DROP TABLE alembic_version"))
        assert await _checks(readiness) == FINE | {"migrations": "missing"}
    assert await _checks(readiness) == FINE | {"migrations": "missing", "listener": "not connected"}
    nowhere = create_engine(f"postgresql://nobody@127.0.0.1:{free_port()}/x")
    down = create_sessions(nowhere)
    async with client(make_admin(down, Readiness(down, None, older=older))) as http:
        refused = await http.get("/readyz")
        assert refused.status_code == 503
        assert refused.json()["checks"]["database"] == "unreachable"
        assert (await http.get("/healthz")).status_code == 200
        assert not [key for key in await read(http) if key[0].startswith("standpipe_queue_depth")]
    await nowhere.dispose()


async def test_readyz_gives_up_on_a_database_that_hangs(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        readiness = Readiness(sessions, None, older=older_revisions())
        assert (await readiness.checks())["database"] == "unreachable"


async def test_each_role_has_an_admin_port(database_url: str) -> None:
    port = free_port()
    environment = {
        "DATABASE_URL": database_url,
        "METRICS_PORT": str(port),
        "TOKEN_SECRET": "t" * 40,
        "HTTP_PORT": str(free_port()),
        "LOG_LEVEL": "ERROR",
    }
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for role in ("serve", "worker"):
            async with running(environment) as roles:
                await roles.start(role)
                await until_answers(http, "/readyz")
                assert (await http.get("/readyz")).json() == {"status": "ready", "checks": FINE}
                assert ("standpipe_queue_depth", "outbox") in await read(http)
                async with asyncio.timeout(20):
                    await roles.stop()


async def _is(look: Any) -> bool:
    return bool(look())


async def test_the_listeners_loss_shows_and_heals(sessions: Sessions, database_url: str) -> None:
    async with listening(database_url) as listener:
        async with sessions.begin() as session:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'standpipe-listen'"
            await session.execute(text(f"{kill} AND datname = current_database()"))
        await until(lambda: _is(lambda: not listener.is_connected))
        await until(lambda: _is(lambda: listener.is_connected))


def test_the_example_alerts_are_rules_over_series_that_exist() -> None:
    known = {sample.name for family in metrics.REGISTRY.collect() for sample in family.samples}
    known |= {
        f"{family.name}{end}" for family in metrics.REGISTRY.collect() for end in ("", "_total", "_bucket", "_count")
    }
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 8
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        named = set(re.findall(r"standpipe_\w+", rule["expr"]))
        assert named <= known, named - known


def test_every_series_is_explained() -> None:
    page = (DOCS / "observability.md").read_text()
    ours = {family.name for family in metrics.REGISTRY.collect() if family.name.startswith("standpipe_")}
    assert len(ours) > 10
    assert [name for name in sorted(ours) if f"`{name}" not in page] == []
