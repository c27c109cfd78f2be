"""A town with a phone that gets texts, and signing in as an app or a page does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from standpipe.platform.serving import serve
from standpipe_demo.simulator import fake_phone
from tests.support.database import free_port
from tests.support.town import Town, make_town, until

NEW = "+254712000111"
START = (
    "mutation($p: PhoneNumber!) { signInStart(input: {phone: $p}) "
    "{ sent userErrors { __typename code field retryable ... on RateLimited { retryAfterS retryAt } } } }"
)
TOKENS = "token expiresInS refreshToken refreshExpiresInS sessionId userErrors { __typename code field }"
FINISH = (
    'mutation($p: PhoneNumber!, $c: String!, $web: Boolean! = false, $label: String! = "") '
    f"{{ signInFinish(input: {{phone: $p, code: $c, web: $web, label: $label}}) {{ {TOKENS} }} }}"
)
REFRESH = f"mutation($t: String) {{ sessionRefresh(input: {{refreshToken: $t}}) {{ {TOKENS} }} }}"
VIEWER = "{ viewer { phone sessions { id kind label current } } }"


@asynccontextmanager
async def make_city(database_url: str, folder: Path, **more: Any) -> AsyncIterator[Town]:
    """A town with a phone."""
    port = free_port()
    fake_phone.write_service_account(folder / "firebase.json", f"http://127.0.0.1:{port}/token")
    task = asyncio.create_task(serve(fake_phone.make_app(folder / "firebase.json"), "127.0.0.1", port))
    settings = {"sms_url": f"http://127.0.0.1:{port}/sms", "sms_countries": "KE"} | more
    async with make_town(database_url, folder, **settings) as town:
        town.extras["phone"] = f"http://127.0.0.1:{port}"
        await until(lambda: _answers(town))
        yield town
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _answers(town: Town) -> bool:
    return (await town.http.get(f"{town.extras['phone']}/messages")).status_code == 200


async def texts(town: Town) -> list[dict[str, Any]]:
    """All texts that the phone got."""
    sent: list[dict[str, Any]] = (await town.http.get(f"{town.extras['phone']}/messages")).json()["messages"]
    return sent


async def code_of(town: Town) -> str:
    return str((await texts(town))[-1]["body"]).split()[-1].rstrip(".")


async def start(town: Town, phone: str = NEW) -> Any:
    return (await town.gql(START, token="", p=phone))["data"]["signInStart"]


async def finish(town: Town, code: str, phone: str = NEW, **more: Any) -> Any:
    return (await town.gql(FINISH, token="", p=phone, c=code, **more))["data"]["signInFinish"]


async def sign_in(town: Town, phone: str = NEW, **more: Any) -> Any:
    """signInFinish's payload for an app that has just got its code."""
    await start(town, phone)
    return await finish(town, await code_of(town), phone, **more)


async def refresh(town: Town, token: str | None) -> Any:
    return (await town.gql(REFRESH, token="", t=token))["data"]["sessionRefresh"]


async def viewer(town: Town, token: str) -> Any:
    """Who the token's holder is; None when it is not taken."""
    answer = await town.gql(VIEWER, token=token)
    return answer["data"]["viewer"] if "data" in answer else None


async def post(
    town: Town, query: str, headers: dict[str, str], http: httpx.AsyncClient | None = None, **variables: Any
) -> httpx.Response:
    """A request with headers of one's own; ``http`` keeps cookies as a browser does."""
    body = {"query": query, "variables": variables}
    return await (http or town.http).post(f"{town.api}/graphql", json=body, headers=headers)
