"""Sending unsigned callbacks as mobile money does: once, perhaps late, twice, out of order, or not at all."""

import asyncio
from typing import Any

import httpx
import structlog

MODES = ("on", "off", "double", "shuffle", "delay")
DELAY_S = 15
_log = structlog.get_logger(__name__)


class CallbackSender:
    """Posts JSON in the background. ``mode``: on, off (lost), double, shuffle (each pair changes places), delay."""

    def __init__(self, *, method: str = "POST") -> None:
        self.mode = "on"
        self._method = method
        self._held: list[tuple[str, dict[str, Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, url: str, body: dict[str, Any], *, times: int = 1, after_s: float = 0) -> None:
        """Tell, in the way of the present mode."""
        if self.mode == "off":
            return
        if self.mode == "shuffle":
            self._held.append((url, body))
            if len(self._held) < 2:  # noqa: PLR2004 - a pair.
                return
            for held_url, held_body in reversed(self._held):
                self._begin(held_url, held_body, 0)
            self._held.clear()
            return
        after_s = max(after_s, DELAY_S) if self.mode == "delay" else after_s
        for _ in range(max(times, 2 if self.mode == "double" else 1)):
            self._begin(url, body, after_s)

    async def ask(self, url: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        """Post and read the answer; None where none came in time."""
        try:
            async with httpx.AsyncClient(timeout=timeout_s) as http:
                answer = (await http.post(url, json=body)).json()
        except (httpx.HTTPError, ValueError):
            return None
        return answer if isinstance(answer, dict) else None

    async def settle(self) -> None:
        """Wait until all that was sent has arrived."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End, as a process does."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, url: str, body: dict[str, Any], after_s: float) -> None:
        task = asyncio.create_task(self._post(url, body, after_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, url: str, body: dict[str, Any], after_s: float) -> None:
        await self.wait(after_s)
        async with httpx.AsyncClient(timeout=10) as http:
            await self.deliver(http, url, body)

    async def wait(self, after_s: float) -> None:
        """The network takes its time."""
        await asyncio.sleep(after_s)

    async def deliver(self, http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> None:
        """One attempt, and no other."""
        try:
            response = await http.request(self._method, url, json=body)
        except httpx.HTTPError as error:
            _log.info("callback not delivered", url=url, error=type(error).__name__)
            return
        if not response.is_success:
            _log.info("callback refused", url=url, status=response.status_code)
