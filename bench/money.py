"""Settling payments, against the same statements by plain driver code."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from bench.support import CONNECTIONS, Row, rate
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.models import Meter
from standpipe.payments.asking import Ask
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import MOBILE_POLLS_S, Capabilities, PaymentStatus, PaymentTruth
from standpipe.payments.settle import settle, settle_many
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.ids import new_id
from standpipe.platform.settings import Settings
from tests.support.statements import counted
from tests.support.town import Home, make_home

SETTLEMENTS = 600
BATCH = 200


class Paid:
    """A provider that answers at once that all is paid: only our own work is measured."""

    name = "bench"
    capabilities = Capabilities(MOBILE_POLLS_S, reports_refunds=True)

    def __init__(self, truths: dict[str, PaymentTruth]) -> None:
        self.truths = truths

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """The truth, without a network."""
        return self.truths[rail_ref]


async def settlements(sessions: Sessions, url: str, home: Home) -> list[Row]:
    """``settle`` against the same rows by plain driver code: one by one, and under load (ours in batches, theirs with
    CONNECTIONS at once); then with one transaction that has posted to the rail's account and stalls for the whole run,
    against none. Statements and processor time beside each are of this process, for one settlement.
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
    rail = Paid({})
    rails: Any = {"bench": rail}
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    ours = [await _orders(sessions, rail, owners) for _ in range(3)]
    plain = [await _orders(sessions, rail, owners) for _ in range(3)]
    # Once unmeasured, for what is prepared and cached at the first time.
    await settle_many(sessions, rails, [Ask(one) for one in ours[0][:BATCH]], Clock())
    alone = await _measured(
        sessions, [lambda i=i: settle(sessions, rails, i, Clock()) for i in ours[1]], at_once=1, items=len(ours[1])
    )
    plain_alone = await _measured(
        sessions,
        [lambda i=i, o=o: _plain_settle(pool, i, o) for i, o in zip(plain[1], owners, strict=True)],
        at_once=1,
        items=len(owners),
    )
    lots = [ours[2][at : at + BATCH] for at in range(0, len(ours[2]), BATCH)]
    loaded = await _measured(
        sessions,
        [lambda lot=lot: _settle_lot(sessions, rails, lot) for lot in lots],
        at_once=2,
        items=len(ours[2]),
    )
    plain_loaded = await _measured(
        sessions,
        [lambda i=i, o=o: _plain_settle(pool, i, o) for i, o in zip(plain[2], owners, strict=True)],
        at_once=CONNECTIONS,
        items=len(owners),
    )
    await pool.close()
    return [
        Row("settle, one by one ÷ the same rows by the driver (settlements/s)", alone.rate, plain_alone.rate,
            f"{alone}; driver {plain_alone}"),
        Row("settle under load ÷ the same rows by the driver (settlements/s)", loaded.rate, plain_loaded.rate,
            f"batches of {BATCH}, {loaded}; driver {CONNECTIONS} at once, {plain_loaded}"),
        await _beside_a_stall(sessions, rail, home, owners),
    ]  # fmt: skip


async def _beside_a_stall(sessions: Sessions, rail: Paid, home: Home, owners: list[Home]) -> Row:
    rails: Any = {"bench": rail}
    free, stalled = await _orders(sessions, rail, owners), await _orders(sessions, rail, owners)
    free_rate = await rate([lambda i=i: settle(sessions, rails, i, Clock()) for i in free])
    async with sessions.begin() as session:
        lines = [
            Line(AccountRef(AccountKind.CLEARING, "bench", "KES"), -1),
            Line(AccountRef(AccountKind.WALLET, home.meter_id, "KES"), 1),
        ]
        await post(session, key="stalled", kind="TOP_UP", lines=lines, occurred_at=datetime.now(UTC))
        began = time.perf_counter()
        stalled_rate = await rate([lambda i=i: settle(sessions, rails, i, Clock()) for i in stalled])
        held_s = time.perf_counter() - began
    return Row(
        "settle beside a stalled posting to the same clearing account ÷ without it (settlements/s)",
        stalled_rate,
        free_rate,
        f"stalled for {held_s:.1f} s",
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    rate: float
    statements: float
    cpu_ms: float

    def __str__(self) -> str:
        return f"{self.statements:.1f} statements and {self.cpu_ms:.2f} ms of our processor each"


async def _measured(
    sessions: Sessions, jobs: list[Callable[[], Awaitable[None]]], *, at_once: int, items: int
) -> _Measured:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    with counted(sessions) as sent:
        await rate(jobs, at_once=at_once)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return _Measured(items / took_s, sent.count / items, 1000 * cpu_s / items)


async def _settle_lot(sessions: Sessions, rails: Any, lot: list[str]) -> None:
    outcomes = await settle_many(sessions, rails, [Ask(top_up_id) for top_up_id in lot], Clock())
    failed = [outcome for outcome in outcomes if outcome is not None]
    assert not failed, failed


async def _orders(sessions: Sessions, rail: Paid, owners: list[Home]) -> list[str]:
    made = [await make_top_up(sessions, owner) for owner in owners]
    rail.truths.update({ref: _truth(ref, top_up_id) for top_up_id, ref in made})
    return [top_up_id for top_up_id, _ in made]


async def make_top_up(sessions: Sessions, home: Home) -> tuple[str, str]:
    top_up_id, ref = new_id("top"), new_id("ref")
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        session.add(
            TopUp(
                id=top_up_id,
                customer_id=home.customer_id,
                meter_id=home.meter_id,
                pay_minor=1500,
                currency="KES",
                idempotency_key=top_up_id,
                request_hash="",
                created_at=now,
            )
        )
        await session.flush()
        session.add(
            Payment(
                id=top_up_id,
                top_up_id=top_up_id,
                rail="bench",
                rail_ref=ref,
                asked_minor=1500,
                currency="KES",
                status="PENDING",
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
        await db.fetchrow("SELECT * FROM payments WHERE id = $1", top_up_id)
        async with db.transaction():
            await db.fetchrow("SELECT * FROM payments WHERE id = $1 FOR NO KEY UPDATE", top_up_id)
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
            total, sequence = meter["credit_granted"] + 1500, meter["last_sequence"] + 1
            await db.execute(
                "INSERT INTO credit_grants (credit_key, meter_id, source_id, amount, total_after, "
                "unit, granted_at) VALUES ($1, $2, $1, 1500, $3, 'KES', $4) ON CONFLICT DO NOTHING",
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
                "UPDATE meters SET credit_granted = $2, last_sequence = $3 WHERE id = $1",
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
                "UPDATE payments SET status = 'SUCCEEDED', captured_minor = 1500, version = 1, due_at = NULL "
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
