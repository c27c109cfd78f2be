"""`make bench`: ratios, each against a plain baseline in the same run, on the embedded PostgreSQL with fsync on.

Loads are bounded in count and stay on the loopback. ``--write`` keeps the result in docs/bench.md.
"""

import asyncio
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.doors import home_screen, webhooks
from bench.ledger import ledger
from bench.money import settlements
from bench.support import CONNECTIONS, Row, print_rows
from bench.water import HOURS, METERS, history, ingest, pricing
from standpipe.platform.database import create_engine, create_sessions
from standpipe.platform.embedded import embedded
from standpipe.platform.migrate import upgrade
from standpipe.platform.settings import Settings
from tests.support.database import free_port
from tests.support.town import METER_SECRET, make_home, make_utility

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "bench.md"


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
        # Its household has this one meter; the first of the others gets a thousand neighbours.
        alone = await make_home(sessions, settings, utility_id, tariff_id, installed_at=start, zone="Africa/Nairobi")
        rows = [
            pricing(),
            *await ingest(sessions, url, homes, start),
            *await settlements(sessions, url, homes[0]),
            *await ledger(url),
            await webhooks(settings, sessions, url),
            await home_screen(settings, sessions, url, alone),
            *await history(url),
        ]
        await engine.dispose()
    report(rows, "--write" in arguments)


def report(rows: list[Row], keep: bool) -> None:
    """Print the table; keep it where asked."""
    lines = print_rows(rows)
    if keep:
        when = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}"
        words = DOCUMENT.read_text()
        DOCUMENT.write_text(
            "# Bench\n\nRatios from one run of `make bench` on one machine; the absolute numbers mean little "
            f"elsewhere. Last kept: {when}.\n\n" + "\n".join(lines) + "\n" + words[words.index("\n## ") :]
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
