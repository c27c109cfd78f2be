"""Sending webhooks as providers do: signed, retried with growing pauses until somebody answers 2xx."""

import asyncio
import hashlib
import hmac
import json
import time
from typing import Any

import httpx
import structlog

RETRY_AFTER_S = (1, 2, 5, 10, 30, 60, 120, 300)
_log = structlog.get_logger(__name__)


def sign(body: bytes, secret: str, timestamp_s: int | None = None) -> str:
    """A ``t=…,v1=…`` header over ``t.body`` (Stripe's scheme)."""
    stamp = int(time.time()) if timestamp_s is None else timestamp_s
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


class WebhookSender:
    """Posts events to one address in the background."""

    def __init__(self, url: str, secret: str, header: str) -> None:
        self._url, self._secret, self._header = url, secret, header
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, event: dict[str, Any], *, after_s: float = 0) -> None:
        """Deliver an event after a pause, trying again until it is taken."""
        task = asyncio.create_task(self._deliver(event, after_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Drop what was not delivered, as a dead provider would."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, event: dict[str, Any], after_s: float) -> None:
        body = json.dumps(event).encode()
        async with httpx.AsyncClient(timeout=10) as http:
            for pause_s in (after_s, *RETRY_AFTER_S):
                await asyncio.sleep(pause_s)
                headers = {self._header: sign(body, self._secret), "Content-Type": "application/json"}
                try:
                    response = await http.post(self._url, content=body, headers=headers)
                except httpx.HTTPError as error:
                    _log.info("webhook not delivered", url=self._url, error=type(error).__name__)
                    continue
                if response.is_success:
                    return
                _log.info("webhook refused", url=self._url, status=response.status_code)
