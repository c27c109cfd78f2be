"""Sending webhooks as providers do: signed, retried with growing pauses until somebody answers 2xx."""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from typing import Any

import httpx
import structlog

from standpipe_demo.simulator.store import JsonStore

RETRY_AFTER_S = (1, 2, 5, 10, 30, 60, 120, 300)
MAX_TRIES = 300
"""At five minutes each, a day."""
_log = structlog.get_logger(__name__)


def sign(body: bytes, secret: str, timestamp_s: int | None = None) -> str:
    """A ``t=…,v1=…`` header over ``t.body`` (Stripe's scheme)."""
    stamp = int(time.time()) if timestamp_s is None else timestamp_s
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


class WebhookSender:
    """Posts events to one address in the background. What is not delivered yet lies in the store, for a restart."""

    def __init__(self, url: str, secret: str, header: str, store: JsonStore) -> None:
        self._url, self._secret, self._header, self._store = url, secret, header, store
        self._pending: dict[str, dict[str, Any]] = store.data.setdefault("webhooks", {})
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Take up what an earlier process left undelivered."""
        for entry_id in list(self._pending):
            self._begin(entry_id)

    def send(self, event: dict[str, Any], *, after_s: float = 0) -> None:
        """Deliver an event after a pause, trying again until it is taken."""
        entry_id = secrets.token_hex(8)
        self._pending[entry_id] = {"event": event, "due_s": time.time() + after_s, "tries": 0}
        self._store.save()
        self._begin(entry_id)

    async def stop(self) -> None:
        """End, as a process does; what was not delivered stays in the store."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, entry_id: str) -> None:
        task = asyncio.create_task(self._deliver(entry_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, entry_id: str) -> None:
        entry = self._pending[entry_id]
        body = json.dumps(entry["event"]).encode()
        async with httpx.AsyncClient(timeout=10) as http:
            while entry["tries"] < MAX_TRIES:
                await asyncio.sleep(max(entry["due_s"] - time.time(), 0))
                if await self._taken(http, body):
                    break
                entry["due_s"] = time.time() + RETRY_AFTER_S[min(entry["tries"], len(RETRY_AFTER_S) - 1)]
                entry["tries"] += 1
                self._store.save()
        del self._pending[entry_id]
        self._store.save()

    async def _taken(self, http: httpx.AsyncClient, body: bytes) -> bool:
        headers = {self._header: sign(body, self._secret), "Content-Type": "application/json"}
        try:
            response = await http.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as error:
            _log.info("webhook not delivered", url=self._url, error=type(error).__name__)
            return False
        if not response.is_success:
            _log.info("webhook refused", url=self._url, status=response.status_code)
        return response.is_success
