"""Readiness of a role: its database answers, has the tables that this code expects, and can call us.

Asked at most once a second, however often somebody asks us: nobody can hammer the database through it.
"""

import asyncio
import time

from alembic.script import ScriptDirectory
from sqlalchemy import text

from standpipe.platform.database import DATABASE_DOWN, Sessions
from standpipe.platform.migrate import config
from standpipe.platform.notify import Listener

KEEP_S = 1.0
TIMEOUT_S = 2.0
OK = "ok"


class Readiness:
    """One role's. ``older``: revisions that this code knows and does not run on."""

    def __init__(self, sessions: Sessions, listener: Listener | None, *, older: frozenset[str]) -> None:
        self._sessions, self._listener, self._older = sessions, listener, older
        self._known: dict[str, str] = {}
        self._asked_s = -KEEP_S
        self._one_at_a_time = asyncio.Lock()

    async def checks(self) -> dict[str, str]:
        """OK, or what fails, for each thing that is needed."""
        async with self._one_at_a_time:
            if time.monotonic() - self._asked_s >= KEEP_S:
                self._known = await self._ask()
                self._asked_s = time.monotonic()
            return self._known

    async def _ask(self) -> dict[str, str]:
        found = {"database": OK, "migrations": OK, "listener": OK}
        if self._listener is not None and not self._listener.is_connected:
            found["listener"] = "not connected"
        try:
            async with asyncio.timeout(TIMEOUT_S), self._sessions() as session:
                there = await session.scalar(text("SELECT to_regclass('alembic_version')::text"))
                at = set(await session.scalars(text("SELECT version_num FROM alembic_version"))) if there else set()
        except DATABASE_DOWN:
            # asyncio's time-out is an OSError too.
            return found | {"database": "unreachable", "migrations": "unknown"}
        # One that this code does not know is newer, and migrations only add.
        if not at:
            found["migrations"] = "missing"
        elif at & self._older:
            found["migrations"] = "behind"
        return found


def older_revisions() -> frozenset[str]:
    """Every revision but the newest, of those that come with this code. Raises SettingsError outside a checkout."""
    scripts = ScriptDirectory.from_config(config(""))
    heads = set(scripts.get_heads())
    return frozenset(script.revision for script in scripts.walk_revisions()) - heads
