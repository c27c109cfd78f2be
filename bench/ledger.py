"""The ledger: postings by ``post_many``, alone and 200 at once, against the same rows by plain driver code.

Both write the same rows under the same constraints: a transaction, its three entries, and two guarded accounts.
``python -m bench.ledger``; beside each rate stand its statements and its processor time, ours and the database's.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.support import Row, cpu_s, print_rows
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, Posting, post_many
from standpipe.platform.database import create_engine
from standpipe.platform.embedded import embedded
from standpipe.platform.ids import new_id
from standpipe.platform.migrate import upgrade
from tests.support.database import free_port
from tests.support.statements import counted

METERS = 1000
ALONE = 600
BATCHES = 20
TOGETHER = 200
NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Run(NamedTuple):
    """What one way of posting took."""

    per_s: float
    statements: float
    ours_ms: float
    database_ms: float

    @property
    def cost(self) -> str:
        """Per posting."""
        return f"{self.statements:.2g} statements, {self.ours_ms:.2f} + {self.database_ms:.2f} ms of processor"


def posting(key: str, meter: int) -> Posting:
    """A top-up of 1500 of which 500 repay a debt."""
    owner = f"m{meter % METERS}"
    lines = (
        Line(AccountRef(AccountKind.CLEARING, "bench", "KES"), -1500),
        Line(AccountRef(AccountKind.WALLET, owner, "KES"), 1000),
        Line(AccountRef(AccountKind.RECEIVABLE, owner, "KES"), 500),
    )
    return Posting(key, "TOP_UP", lines, NOW)


async def main() -> None:
    """Run on a database of its own, and print."""
    folder = Path(tempfile.mkdtemp(prefix="standpipe-bench-"))
    folder.chmod(0o755)
    async with embedded(folder, port=free_port()) as url:
        await upgrade(url)
        print_rows(await ledger(url))


async def ledger(url: str) -> list[Row]:
    """One posting after the other, and 200 at once, each against plain driver code one by one."""
    engine = create_engine(url)
    plain = await asyncpg.connect(url)
    async with engine.begin() as conn:
        await post_many(conn, [posting(f"first:{meter}", meter) for meter in range(METERS)])
    async with engine.connect() as conn:
        await conn.execute(text("ANALYZE"))
        await conn.commit()
    alone = await _run(engine, [lambda n=n: _post(engine, [posting(f"alone:{n}", n)]) for n in range(ALONE)], 1)
    together = await _run(
        engine,
        [
            lambda n=n: _post(engine, [posting(f"many:{n}:{each}", n * TOGETHER + each) for each in range(TOGETHER)])
            for n in range(BATCHES)
        ],
        TOGETHER,
    )
    baseline = await _run(engine, [lambda n=n: _plain_post(plain, f"plain:{n}", n) for n in range(ALONE)], 1)
    await plain.close()
    await engine.dispose()
    what = "ledger: post_many of"
    return [
        Row(
            f"{what} one ÷ the same rows by asyncpg (postings/s)",
            alone.per_s,
            baseline.per_s,
            f"{alone.cost}; baseline: {baseline.cost}",
        ),
        Row(f"{what} {TOGETHER} ÷ the same, one by one (postings/s)", together.per_s, baseline.per_s, together.cost),
    ]


async def _post(engine: AsyncEngine, postings: Sequence[Posting]) -> None:
    async with engine.begin() as conn:
        await post_many(conn, postings)


async def _run(engine: AsyncEngine, jobs: Sequence[Callable[[], Awaitable[None]]], size: int) -> Run:
    for job in jobs[: len(jobs) // 10]:
        await job()
    timed = jobs[len(jobs) // 10 :]
    with counted(engine) as sent:
        async with _database_cpu(engine) as database_s:
            began_s, cpu_began_s = time.perf_counter(), time.process_time()
            for job in timed:
                await job()
            took_s, ours_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    postings = len(timed) * size
    return Run(
        postings / took_s,
        (sent.count - _QUESTIONS) / postings,
        1000 * ours_s / postings,
        1000 * database_s[0] / postings,
    )


_QUESTIONS = 6
"""Statements that ask for the backends, before and after."""


@asynccontextmanager
async def _database_cpu(engine: AsyncEngine) -> AsyncIterator[list[float]]:
    """The processor time of the database's backends meanwhile, in seconds, once it is over."""
    query = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    async with engine.connect() as conn:
        before = {pid: cpu_s(pid) for pid in await conn.scalars(query)}
    took = [0.0]
    yield took
    async with engine.connect() as conn:
        took[0] = sum(cpu_s(pid) - before.get(pid, 0.0) for pid in await conn.scalars(query))


async def _plain_post(db: Any, key: str, meter: int) -> None:
    transaction, owner = new_id("ltx"), f"m{meter % METERS}"
    async with db.transaction():
        found = await db.fetch(
            "SELECT id, kind, balance_minor, version FROM ledger_accounts WHERE (kind, owner_id) IN "
            "(('CLEARING', 'bench'), ('WALLET', $1), ('RECEIVABLE', $1)) AND currency = 'KES'",
            owner,
        )
        clearing = next(row for row in found if row["kind"] == "CLEARING")
        ids = [row["id"] for row in found if row is not clearing]
        rows = await db.fetch(
            "SELECT id, kind, balance_minor, version FROM ledger_accounts WHERE id = ANY($1) ORDER BY id "
            "FOR NO KEY UPDATE",
            ids,
        )
        await db.execute(
            "INSERT INTO ledger_transactions (id, key, kind, occurred_at) VALUES ($1, $2, 'TOP_UP', $3) "
            "ON CONFLICT DO NOTHING",
            transaction,
            key,
            NOW,
        )
        moved = [(row, 1000 if row["kind"] == "WALLET" else 500) for row in rows]
        await db.executemany(
            "UPDATE ledger_accounts SET balance_minor = $2, version = $3 WHERE id = $1",
            [(row["id"], row["balance_minor"] + amount, row["version"] + 1) for row, amount in moved],
        )
        await db.execute(
            "INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor, account_version, "
            "balance_after_minor, floor_minor) VALUES ($1, $2, 'KES', -1500, NULL, NULL, NULL), "
            "($1, $3, 'KES', $4, $5, $6, 0), ($1, $7, 'KES', $8, $9, $10, 0)",
            transaction,
            clearing["id"],
            *(
                value
                for row, amount in moved
                for value in (row["id"], amount, row["version"] + 1, row["balance_minor"] + amount)
            ),
        )


if __name__ == "__main__":
    asyncio.run(main())
