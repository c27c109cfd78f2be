"""A town whose customers sign in by Firebase: the real SDK against the stand-in for Google, on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from standpipe.platform.serving import serve
from standpipe_demo.simulator import fake_google, fake_phone
from standpipe_demo.simulator.fake_google import GoogleState
from tests.support.database import free_port
from tests.support.town import Town, make_town, until


@dataclass(frozen=True)
class Google:
    """The stand-in."""

    url: str
    credentials: Path
    state: GoogleState

    async def control(self, action: str, **asked: str) -> Any:
        async with httpx.AsyncClient() as http:
            return (await http.post(f"{self.url}/_control/{action}", params=asked)).json()

    async def token(self, phone: str | None = None, **asked: str) -> str:
        """An ID token, as an app gets it."""
        answer = await self.control("sign-in", **({"phone": phone} if phone else {}), **asked)
        return str(answer["idToken"])

    def settings(self, **more: Any) -> dict[str, Any]:
        values = {"firebase_project_id": fake_phone.PROJECT, "firebase_credentials": self.credentials}
        return values | {"firebase_auth_url": self.url, "firebase_timeout_s": 5.0} | more


@asynccontextmanager
async def google_servers(folder: Path) -> AsyncIterator[Google]:
    """The stand-in, with the OAuth endpoint that the fake phone has."""
    phone_port, port = free_port(), free_port()
    credentials = folder / "firebase.json"
    fake_phone.write_service_account(credentials, f"http://127.0.0.1:{phone_port}/token")
    phone = fake_phone.make_app(credentials)
    google = fake_google.make_app(fake_phone.PROJECT, phone.state.phone.tokens)
    servers = [
        asyncio.create_task(serve(app, "127.0.0.1", number)) for number, app in ((phone_port, phone), (port, google))
    ]
    try:
        async with httpx.AsyncClient() as http:
            for url in (f"http://127.0.0.1:{phone_port}/messages", f"http://127.0.0.1:{port}/"):
                await until(lambda url=url: _answers(http, url))
        yield Google(f"http://127.0.0.1:{port}", credentials, google.state.google)
    finally:
        google.state.google.speaks.set()
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)


@asynccontextmanager
async def firebase_town(database_url: str, folder: Path, **more: Any) -> AsyncIterator[tuple[Town, Google]]:
    async with (
        google_servers(folder) as google,
        make_town(database_url, folder, **google.settings(**more)) as town,
    ):
        yield town, google


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx.HTTPError:
        return False
