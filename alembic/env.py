"""Alembic's environment: the models' metadata against one PostgreSQL, over the product's own driver."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from standpipe.platform.base import Base
from standpipe.platform.database import async_url
from standpipe.tables import MODULES  # noqa: F401 - for their tables.


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions come and go with the months; their parent stands for them."""
    return not (kind == "table" and (name or "").startswith("readings_"))


def run(connection: Connection) -> None:
    """Migrate on one connection; the advisory lock lets several starting processes take turns."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=False,
        include_name=is_ours,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('standpipe:migrate', 0))"))
        context.run_migrations()


async def run_online() -> None:
    """Connect to the URL that the caller set, else to the environment's."""
    url = context.config.attributes.get("url") or os.environ["STANDPIPE_DATABASE_URL"]
    engine = create_async_engine(async_url(url), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


asyncio.run(run_online())
