"""The utility's command line: one command after the other, by an operator."""

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import standpipe


def run_office(
    database_url: str, folder: Path, *words: str, key: str = "", more: tuple[tuple[str, str], ...] = (), typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """One command; settings come from here alone."""
    settings = {name.removeprefix("STANDPIPE_").lower(): value for name, value in more}
    return standpipe(database_url, folder, *words, typed=typed, **({"operator_key": key} | settings))


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
