"""Leases: held for as long as somebody works, and another's within seconds where nobody does."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from standpipe.engine.queue import LEASE_S, claim, hold
from standpipe.outbox.models import OutboxFact
from standpipe.platform.database import Sessions
from tests.support.town import until


async def queued(sessions: Sessions) -> int:
    async with sessions.begin() as session:
        row = OutboxFact(kind="Nothing", payload={})
        session.add(row)
        await session.flush()
        return row.id


async def claimed(sessions: Sessions, lease_s: float = LEASE_S) -> list[int]:
    async with sessions.begin() as session:
        return [row.id for row in await claim(session, OutboxFact, limit=10, lease_s=lease_s)]


async def left_s(sessions: Sessions, fact_id: int) -> float:
    """How long a row is leased for yet."""
    async with sessions() as session:
        left = await session.scalar(
            select(func.extract("epoch", OutboxFact.due_at - func.now())).where(OutboxFact.id == fact_id)
        )
    assert left is not None
    return float(left)


async def test_what_is_held_is_leased_anew_for_as_long_as_it_takes(sessions: Sessions) -> None:
    fact_id = await queued(sessions)
    assert await claimed(sessions, lease_s=60) == [fact_id]

    async def is_renewed() -> bool:
        return await left_s(sessions, fact_id) > 500

    async with hold(sessions, OutboxFact, [fact_id], lease_s=600, every_s=0.01):
        await until(is_renewed)
    assert await claimed(sessions) == []


async def test_what_was_let_go_is_its_own_masters(sessions: Sessions) -> None:
    first, second = await queued(sessions), await queued(sessions)
    await claimed(sessions, lease_s=60)

    async def is_renewed() -> bool:
        return await left_s(sessions, second) > 500

    async with hold(sessions, OutboxFact, [first, second], lease_s=600, every_s=0.01) as held:
        await held.let_go(first)
        await until(is_renewed)
    assert await left_s(sessions, first) <= 60


async def test_a_row_that_was_called_back_meanwhile_stays_due(sessions: Sessions) -> None:
    fact_id = await queued(sessions)
    await claimed(sessions, lease_s=60)
    async with sessions.begin() as session:
        await session.execute(update(OutboxFact).values(due_at=func.now() - timedelta(seconds=1)))
    async with hold(sessions, OutboxFact, [fact_id], lease_s=600) as held:
        await held.renew(sessions, OutboxFact, 600)
    assert await claimed(sessions) == [fact_id]


async def test_a_batch_that_fails_as_a_whole_is_due_again_at_once(sessions: Sessions) -> None:
    """Not only when its lease ends: money would wait for that."""
    first, second = await queued(sessions), await queued(sessions)
    await claimed(sessions, lease_s=600)

    async def fail() -> None:
        async with hold(sessions, OutboxFact, [first, second]) as held:
            await held.let_go(second)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await left_s(sessions, first) <= 1
    assert await left_s(sessions, second) > 500


async def test_a_killed_worker_s_rows_are_anothers_within_seconds(sessions: Sessions) -> None:
    fact_id = await queued(sessions)
    await claimed(sessions)
    assert 0 < await left_s(sessions, fact_id) <= 10
