"""What being watched costs: the home screen over HTTP with nothing on, with ids and metrics, and with traces too."""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from bench.doors import HOME_QUERY
from bench.money import make_top_up
from bench.support import CONNECTIONS, Row, print_rows, rate, serving
from standpipe.app import make_app, make_signer
from standpipe.platform import tracing
from standpipe.platform.database import create_engine, create_sessions
from standpipe.platform.embedded import embedded
from standpipe.platform.migrate import upgrade
from standpipe.platform.settings import Settings
from standpipe.wiring import Database
from tests.support.database import free_port
from tests.support.town import METER_SECRET, make_home, make_utility

ROUNDS, REQUESTS = 5, 40


class _Sink(SpanExporter):
    """Makes what would be sent, and sends it nowhere."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


async def main() -> None:
    """Measure and print. The three take turns, so that what else the machine does falls on all alike."""
    folder = Path(tempfile.mkdtemp(prefix="standpipe-bench-"))
    folder.chmod(0o755)
    async with embedded(folder, port=free_port()) as url:
        await upgrade(url)
        engine = create_engine(url, pool_size=CONNECTIONS + 2)
        sessions = create_sessions(engine)
        utility_id, tariff_id = await make_utility(sessions)
        settings = Settings.model_validate(
            {"token_secret": "b" * 40, "meter_key_secrets": METER_SECRET, "cost_capacity": 10**9}
        )
        start = datetime.now(UTC) - timedelta(days=40)
        home = await make_home(sessions, settings, utility_id, tariff_id, installed_at=start, zone="Africa/Nairobi")
        for _ in range(10):
            await make_top_up(sessions, home)
        today = datetime.now(UTC).date()
        body = json.dumps({"query": HOME_QUERY, "variables": {"f": str(today - timedelta(days=30)), "t": str(today)}})
        token = make_signer(settings).issue(home.customer_id)
        bare = make_app(settings, Database(url, sessions))
        bare.user_middleware.clear()
        async with serving(bare) as plain, serving(make_app(settings, Database(url, sessions))) as watched:
            report(await _measure(plain, watched, body, {"authorization": f"Bearer {token}"}))
        await engine.dispose()


async def _measure(
    plain: httpx.AsyncClient, watched: httpx.AsyncClient, body: str, headers: dict[str, str]
) -> list[float]:
    async def requests(http: httpx.AsyncClient, count: int) -> float:
        async def ask() -> None:
            response = await http.post("/graphql", content=body, headers=headers | {"content-type": "application/json"})
            assert response.status_code == 200
            assert b'"errors"' not in response.content

        began_s = time.process_time()
        await rate([ask] * count)
        return count / (time.process_time() - began_s)

    rates: list[list[float]] = [[], [], []]
    for turn in range(ROUNDS + 1):
        found = [await requests(plain, REQUESTS), await requests(watched, REQUESTS)]
        tracing.start(_Sink(), "bench")
        found.append(await requests(watched, REQUESTS))
        tracing.stop()
        if turn:
            for kept, value in zip(rates, found, strict=True):
                kept.append(value)
    return [statistics.median(kept) for kept in rates]


def report(rates: list[float]) -> None:
    """Print the table."""
    off, metrics, all_on = rates
    how = f"{CONNECTIONS} at once, client in-process, median of {ROUNDS} turns"
    print_rows(
        [
            Row(
                "home screen with metrics and request ids ÷ nothing on (requests per second of CPU)", metrics, off, how
            ),
            Row("home screen with traces too ÷ nothing on (requests per second of CPU)", all_on, off, how),
        ]
    )


if __name__ == "__main__":
    asyncio.run(main())
