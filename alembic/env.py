"""Alembic's environment: the models' metadata against one PostgreSQL, over the product's own driver."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import standpipe.customers.models
import standpipe.documents.models
import standpipe.ledger.models
import standpipe.meters.claim_models
import standpipe.meters.field_models
import standpipe.meters.keypad_models
import standpipe.meters.lora_models
import standpipe.meters.models
import standpipe.notifications.models
import standpipe.outbox.models
import standpipe.payments.book_models
import standpipe.payments.models
import standpipe.payments.vend_models
import standpipe.tariffs.models
import standpipe.usage.models
import standpipe.vending.models  # noqa: F401 - imported for their tables.
from standpipe.db.base import Base
from standpipe.db.engine import async_url


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
