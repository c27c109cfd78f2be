"""Connections that the server ends under us: the next use finds another, or says that it is to be asked again."""

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.engine.batcher import Batcher
from standpipe.engine.unit_of_work import unit
from standpipe.outbox.facts import MeterStated, add_fact
from standpipe.platform.database import Sessions
from standpipe.platform.reconnect import is_lost, once_more
from tests.support.lost import end_all
from tests.support.statements import counted


async def fill(engine: AsyncEngine, size: int = 5) -> None:
    connections = [await engine.connect() for _ in range(size)]
    for connection in connections:
        await connection.execute(text("SELECT 1 AS one"))
        await connection.close()


async def test_a_pool_of_ended_connections_is_replaced_without_a_ping(engine: AsyncEngine, database_url: str) -> None:
    await fill(engine)
    assert await end_all(database_url) == 5
    for _ in range(8):
        with counted(engine) as sent:
            async with engine.connect() as conn:
                assert await conn.scalar(text("SELECT 1 AS one")) == 1
        assert sent.texts == ["BEGIN;", "SELECT 1 AS one", "ROLLBACK;"]


async def test_a_connection_lost_in_a_transaction_is_met_by_another_try(
    engine: AsyncEngine, sessions: Sessions, database_url: str
) -> None:
    tries: list[int] = []

    async def write() -> int:
        async with sessions.begin() as session:
            await session.execute(text("INSERT INTO outbox_facts (kind, payload) VALUES ('MeterStated', '{}')"))
            if not tries:
                tries.append(await end_all(database_url))
            return int(await session.scalar(text("SELECT count(*) FROM outbox_facts")) or 0)

    assert await once_more(write) == 1
    assert tries == [1]


async def test_a_commit_that_was_begun_is_not_tried_again(
    engine: AsyncEngine, sessions: Sessions, database_url: str
) -> None:
    tries: list[int] = []

    async def write() -> None:
        async with sessions.begin() as session:
            await session.execute(text("INSERT INTO outbox_facts (kind, payload) VALUES ('MeterStated', '{}')"))
            tries.append(await end_all(database_url))

    with pytest.raises(DBAPIError) as caught:
        await once_more(write)
    assert is_lost(caught.value)
    assert tries == [1]
    calls: list[int] = []

    async def idempotent() -> None:
        calls.append(1)
        if len(calls) == 1:
            await write()

    await once_more(idempotent, idempotent=True)
    assert len(calls) == 2


async def test_an_error_of_the_statement_is_not_tried_again(sessions: Sessions) -> None:
    calls: list[int] = []

    async def wrong() -> None:
        calls.append(1)
        async with sessions() as session:
            await session.execute(text("SELECT nothing_of_that_name"))

    with pytest.raises(DBAPIError):
        await once_more(wrong)
    assert len(calls) == 1


async def test_a_batch_that_loses_its_connection_is_worked_off_on_another(
    engine: AsyncEngine, database_url: str
) -> None:
    lost: list[int] = []

    async def work(items: Sequence[int]) -> list[int]:
        async with unit(engine) as work:
            for item in items:
                add_fact(work, MeterStated(f"m{item}"))
            await work.flush()
            if not lost:
                lost.append(await end_all(database_url))
        return list(items)

    batcher = Batcher("t", work, again_after_s=(0.0,))
    assert await asyncio.gather(*(batcher(number) for number in range(10))) == list(range(10))
    assert lost == [1]
    async with engine.connect() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM outbox_facts")) == 10
