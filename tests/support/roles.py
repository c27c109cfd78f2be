"""Standpipe's roles as real processes, to be killed and started again at will."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx


class Roles:
    """Processes by role. All of them end with the test."""

    def __init__(self, environment: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
        self._environment = kept | {f"STANDPIPE_{name}": value for name, value in environment.items()}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, *roles: str) -> None:
        for role in roles:
            self._running[role] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "standpipe.cli", role, "--tied"),
                stdin=asyncio.subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )

    async def kill(self, *roles: str) -> None:
        """kill -9: nothing is closed, nothing is said."""
        for role in roles:
            process = self._running.pop(role)
            process.send_signal(signal.SIGKILL)
            await process.wait()

    async def stop(self) -> None:
        for process in self._running.values():
            if process.returncode is None:
                process.terminate()
        for process in self._running.values():
            await process.wait()


@asynccontextmanager
async def running(environment: dict[str, str]) -> AsyncIterator[Roles]:
    roles = Roles(environment)
    try:
        yield roles
    finally:
        await roles.stop()


async def until_answers(http: httpx.AsyncClient, url: str, *, timeout_s: float = 30) -> None:
    """Wait until somebody answers there."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                if (await http.get(url)).status_code < 500:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)
