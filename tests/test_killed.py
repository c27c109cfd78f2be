"""Workers killed (-9) at every point between load and save: what they had done is as if it had never begun."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text

from standpipe.ledger.models import Account, Entry
from standpipe.meters.due import mark_due
from standpipe.meters.models import CreditGrant, MeterCommand
from standpipe.meters.reports import RegisterReading
from standpipe.payments.models import Payment, TopUp
from standpipe.platform.database import Sessions
from standpipe.platform.ids import new_id
from standpipe.readings.models import DailyUsage
from standpipe.readings.raw import RawReadings, store_raw
from tests.support.town import Home, make_home, make_settings, make_utility

NOW = datetime(2026, 6, 20, 9, tzinfo=UTC)
START = datetime(2026, 3, 20, tzinfo=UTC)
MOST_POINTS = 80
"""No run takes so many statements."""


@asynccontextmanager
async def worker(name: str, url: str, *ids: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process of tests/support/killed.py."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.killed", name, url, NOW.isoformat(), *ids,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def killed_at(process: asyncio.subprocess.Process, number: int) -> bool:
    """A run that dies before its n-th statement or commit; False where it has come to its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n".encode())
    answer = (await process.stdout.readline()).decode().strip()
    assert answer in {"killed", "done"}, answer
    return answer == "killed"


async def homes_of(sessions: Sessions, count: int) -> list[Home]:
    utility_id, tariff_id = await make_utility(sessions)
    return [
        await make_home(
            sessions, make_settings(), utility_id, tariff_id, installed_at=START, zone="Africa/Nairobi"
        )
        for _ in range(count)
    ]  # fmt: skip


async def balances(sessions: Sessions, homes: Sequence[Home]) -> list[int]:
    """What the entries of each meter's accounts come to."""
    async with sessions() as session:
        rows = await session.execute(
            select(Account.owner_id, func.sum(Entry.amount_minor)).join(Entry).group_by(Account.owner_id)
        )
        found = {owner: int(total) for owner, total in rows}
    return [found.get(home.meter_id, 0) for home in homes]


async def run(sessions: Sessions, sql: str) -> None:
    async with sessions.begin() as session:
        await session.execute(text(sql))


@pytest.mark.usefixtures("engine")
async def test_p20_a_rating_killed_at_any_point_is_as_if_it_had_never_begun(
    sessions: Sessions, database_url: str
) -> None:
    homes = await homes_of(sessions, 3)
    ids = [home.meter_id for home in homes]
    readings = (
        RegisterReading(NOW - timedelta(days=40), 3_000_000),
        RegisterReading(NOW - timedelta(hours=1), 9_000_000),
    )
    async with sessions.begin() as session:
        conn = await session.connection()
        await store_raw(conn, [RawReadings(meter_id, NOW, readings) for meter_id in ids])
        await mark_due(conn, ids)
    async with worker("rate", database_url) as process:
        for number in range(1, MOST_POINTS):
            if not await killed_at(process, number):
                break
            assert await balances(sessions, homes) == [0, 0, 0]
            await run(sessions, "UPDATE meter_due SET lease_until = now() - interval '1 second'")
    assert number > 20, "it died nowhere"
    charged = await balances(sessions, homes)
    assert charged[0] < 0
    assert charged == [charged[0]] * 3
    async with sessions() as session:
        used = (await session.execute(select(func.sum(DailyUsage.volume_ml)).group_by(DailyUsage.meter_id))).scalars()
        assert list(used) == [9_000_000] * 3
        assert await session.scalar(text("SELECT count(*) FROM raw_reports")) == 0


async def test_p20_a_settlement_killed_at_any_point_is_booked_once(sessions: Sessions, database_url: str) -> None:
    homes = await homes_of(sessions, 3)
    ids = [await order(sessions, home) for home in homes]
    async with worker("settle", database_url, *ids) as process:
        for number in range(1, MOST_POINTS):
            if not await killed_at(process, number):
                break
            assert await balances(sessions, homes) == [0, 0, 0]
        # And once more, by somebody who does not know that it is done.
        assert not await killed_at(process, MOST_POINTS)
    assert number > 8, "it died nowhere"
    assert await balances(sessions, homes) == [1500] * 3
    async with sessions() as session:
        assert await session.scalar(select(func.sum(CreditGrant.amount))) == 3 * 1500
        assert list(await session.scalars(select(MeterCommand.value))) == [1500] * 3
        facts = await session.scalar(text("SELECT count(*) FROM outbox_facts WHERE kind = 'TopUpPaid'"))
        assert facts == 3


async def order(sessions: Sessions, home: Home) -> str:
    top_up_id = new_id("top")
    async with sessions.begin() as session:
        session.add(
            TopUp(
                id=top_up_id, customer_id=home.customer_id, meter_id=home.meter_id, pay_minor=1500, currency="KES",
                idempotency_key=top_up_id, request_hash="", created_at=NOW,
            )
        )  # fmt: skip
        await session.flush()
        session.add(
            Payment(
                id=top_up_id, top_up_id=top_up_id, rail="told", rail_ref=f"{top_up_id}:1500", asked_minor=1500,
                currency="KES", status="PENDING", updated_at=NOW,
            )
        )  # fmt: skip
    return top_up_id
