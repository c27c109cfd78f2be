"""The counter of statements sees all that the driver sends."""

from io import BytesIO

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.platform.database import Sessions, create_engine
from tests.support.statements import counted


async def test_plumbing_is_counted_too(engine: AsyncEngine, sessions: Sessions) -> None:
    with counted(sessions) as sent:
        async with sessions.begin() as session:
            await session.execute(text("SELECT 1 AS one"))
            async with session.begin_nested():
                await session.execute(text("SELECT pg_notify('a', 'b')"))
    assert [line.split(" ")[0].rstrip(";") for line in sent.texts] == [
        *("BEGIN", "SELECT", "SAVEPOINT", "SELECT", "RELEASE", "COMMIT"),
    ]
    assert "6 statements, 2 of them plumbing" in str(sent)


async def test_the_drivers_own_ways_are_counted(engine: AsyncEngine, database_url: str) -> None:
    with counted(engine) as sent:
        connection = await asyncpg.connect(database_url)
        await connection.execute("CREATE TEMP TABLE t (x int)")
        await connection.execute("INSERT INTO t VALUES ($1)", 1)
        await connection.executemany("INSERT INTO t VALUES ($1)", [(2,), (3,)])
        await connection.copy_records_to_table("t", records=[(4,)])
        await connection.copy_to_table("t", source=BytesIO(b"5\n"))
        await connection.copy_from_table("t", output=BytesIO())
        assert await connection.fetchval("SELECT count(*) FROM t") == 5
        await (await connection.prepare("SELECT x FROM t")).fetch()
        await connection.close()
    assert sent.count == 8, str(sent)


async def test_another_database_and_another_task_are_not_counted(
    engine: AsyncEngine, sessions: Sessions, database_url: str
) -> None:
    elsewhere = create_engine(database_url.rpartition("/")[0] + "/postgres")
    async with elsewhere.connect() as other, engine.connect() as outside:
        with counted(engine) as sent, counted(engine, by_task=True) as own:
            await other.execute(text("SELECT 1 AS one"))
            await outside.execute(text("SELECT 2 AS two"))
        await outside.execute(text("SELECT 3 AS three"))
    assert sent.texts == own.texts == ["BEGIN;", "SELECT 2 AS two"]
    await elsewhere.dispose()
