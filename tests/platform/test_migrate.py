"""Migrations: the models are what is migrated, and several processes may start migrating at once."""

import asyncio
import sys

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.platform import migrate
from tests.support.database import DatabaseServer, renamed


async def test_models_and_migrations_agree(database_url: str) -> None:
    await migrate.check(database_url)


async def test_processes_that_migrate_at_once_take_turns(postgres: DatabaseServer) -> None:
    await postgres.admin.execute("CREATE DATABASE migrated_twice")
    url = renamed(postgres.url, "migrated_twice")
    script = "import asyncio, sys; from standpipe.platform.migrate import upgrade; asyncio.run(upgrade(sys.argv[1]))"
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", script, url) for _ in range(3)]

    assert [await process.wait() for process in processes] == [0, 0, 0]

    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
    await connection.close()
    await migrate.check(url)
    await postgres.admin.execute("DROP DATABASE migrated_twice WITH (FORCE)")


async def test_each_test_has_a_database_of_its_own(engine: AsyncEngine, postgres: DatabaseServer) -> None:
    async with postgres.clone() as other:
        assert other != engine.url.render_as_string(hide_password=False)
        connection = await asyncpg.connect(other)
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
        await connection.close()
