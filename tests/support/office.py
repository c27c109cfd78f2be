"""The utility's command line, as its own process."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


def run_office(
    database_url: str, folder: Path, *words: str, key: str = "", more: tuple[tuple[str, str], ...] = (), typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """One command; settings come from here alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    environment |= {"STANDPIPE_DATABASE_URL": database_url, "STANDPIPE_OPERATOR_KEY": key, "COLUMNS": "200"}
    environment |= {"STANDPIPE_DATA_DIR": str(folder), "STANDPIPE_LOG_LEVEL": "ERROR"} | dict(more)
    command = [sys.executable, "-m", "standpipe.cli", *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60, input=typed
    )


@dataclass(frozen=True)
class Office:
    """Runs commands on a database. ``key``: the operator's; made by ``hire``."""

    database_url: str
    folder: Path
    key: str = ""
    more: tuple[tuple[str, str], ...] = ()

    async def run(self, *words: str, key: str | None = None, typed: str = "") -> subprocess.CompletedProcess[str]:
        """One command; ``typed`` is what it reads from standard input."""
        said, where = self.key if key is None else key, (self.database_url, self.folder)
        return await asyncio.to_thread(run_office, *where, *words, key=said, more=self.more, typed=typed)

    async def good(self, *words: str, typed: str = "") -> str:
        """What a command says that must succeed."""
        done = await self.run(*words, typed=typed)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    async def refused(self, *words: str, typed: str = "") -> str:
        """What a command says that must be refused with one clear line."""
        done = await self.run(*words, typed=typed)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


async def hire(database_url: str, folder: Path, name: str = "amina", **more: str) -> Office:
    """An office with its first operator."""
    nobody = Office(database_url, folder, more=tuple(more.items()))
    key = (await nobody.good("operator", "add", name)).strip()
    return Office(database_url, folder, key, nobody.more)
