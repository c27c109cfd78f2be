"""`make bench`: the processor's time of the dearest requests that the limits let through, against the smallest one.

Each is asked for by somebody with six meters and a month of hourly readings; the least of several tries counts.
"""

import asyncio
import json
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from bench.doors import HOME_QUERY
from bench.money import make_top_up
from bench.support import serving
from standpipe.app import make_app, make_signer
from standpipe.billing.rounds import rate_now
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.database import create_engine, create_sessions
from standpipe.platform.embedded import embedded
from standpipe.platform.migrate import upgrade
from standpipe.platform.settings import Settings
from standpipe.wiring import Database
from tests.support.database import free_port
from tests.support.delivery import take_report
from tests.support.town import METER_SECRET, make_home, make_utility

TRIES = 7
HOURS = 24 * 31


USAGE = 'usage(from: "{since}", to: "{today}", interval: HOUR) {{ {wanted} }}'
BUCKETS = (
    "buckets { start end volume { litres display } cost { amount display currency } tiers { tier volume { litres } } "
    "quality }"
)


def dearest(meter_id: str, today: str, since: str) -> dict[str, dict[str, Any]]:
    """Requests near each limit, by what they strain."""

    def of_meter(*fields: str) -> str:
        wanted = " ".join(f"a{n}: {field}" for n, field in enumerate(fields))
        return f'{{ node(id: "{meter_id}") {{ ... on Meter {{ {wanted} }} }} }}'

    spread = "{ " + " ".join(f"...F{n}" for n in range(34)) + " } "
    fragments = [f"fragment F{n} on Query {{ viewer {{ phone meters {{ nodes {{ serial }} }} }} }}" for n in range(34)]
    statement = f'statement(month: "{today[:8]}01") {{ statement {{ month }} }}'
    columns = USAGE.format(since=since, today=today, wanted="compact { litres cost }")
    buckets = USAGE.format(since=_back(today, 10), today=today, wanted=BUCKETS)
    return {
        "the smallest": {"query": "{ viewer { id } }"},
        "the home screen": {"query": HOME_QUERY, "variables": {"f": since, "t": today}},
        "490 fields that do not exist": {"query": "{ viewer { " + " ".join(f"f{n}" for n in range(490)) + " } }"},
        "34 fragments on one field": {"query": spread + " ".join(fragments)},
        "11 statements": {"query": of_meter(*[statement] * 11)},
        "hourly columns of a month": {"query": of_meter(columns)},
        "hourly buckets of ten days": {"query": of_meter(buckets)},
    }


def _back(day: str, days: int) -> str:
    return str((datetime.fromisoformat(day) - timedelta(days=days)).date())


async def main() -> None:
    """Measure and print."""
    folder = Path(tempfile.mkdtemp(prefix="standpipe-bench-"))
    folder.chmod(0o755)
    async with embedded(folder, port=free_port()) as url:
        await upgrade(url)
        engine = create_engine(url)
        sessions = create_sessions(engine)
        utility_id, tariff_id = await make_utility(sessions)
        settings = Settings.model_validate(
            {"token_secret": "b" * 40, "meter_key_secrets": METER_SECRET, "cost_capacity": 10**9}
        )
        now = datetime.now(UTC)
        start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS)
        home = await make_home(sessions, settings, utility_id, tariff_id, installed_at=start, zone="UTC")
        for _ in range(10):
            await make_top_up(sessions, home)
        readings = tuple(RegisterReading(start + timedelta(hours=n), 10_000 * n) for n in range(HOURS))
        async with sessions.begin() as session:
            await take_report(session, MeterReport(home.meter_id, now, readings), now)
            await rate_now(await session.connection(), home.meter_id, now)
        headers = {"authorization": f"Bearer {make_signer(settings).issue(home.customer_id)}"}
        today = str(now.date())
        async with serving(make_app(settings, Database(url, sessions))) as http:
            for name, body in dearest(home.meter_id, today, _back(today, 30)).items():
                await _report(http, headers, name, body)
        await engine.dispose()


async def _report(http: httpx.AsyncClient, headers: dict[str, str], name: str, body: dict[str, Any]) -> None:
    least_s, answer = 9.0, {}
    for attempt in range(TRIES):
        # A space more makes it a new document: what is remembered by its text must not help.
        fresh = body | {"query": body["query"] + " " * attempt}
        began_s = time.process_time()
        response = await http.post(
            "/graphql", content=json.dumps(fresh), headers=headers | {"content-type": "application/json"}
        )
        least_s = min(least_s, time.process_time() - began_s)
        answer = response.json()
    cost = (answer.get("extensions") or {}).get("cost", {}).get("points", "refused")
    print(f"{name:36} {least_s * 1e3:6.1f} ms of processor, client included; points: {cost}")


if __name__ == "__main__":
    asyncio.run(main())
