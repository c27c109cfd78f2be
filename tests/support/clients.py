"""What the tests that drive foreign clients share: a town with a phone, its worker, and what a script is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import update

from standpipe.households.models import Customer
from standpipe.platform.serving import serve
from standpipe_demo.simulator import fake_phone
from tests.support.database import free_port
from tests.support.node import Script
from tests.support.town import Town, make_town, until

PHONE = "+254712000111"


@asynccontextmanager
async def make_city(database_url: str, folder: Path, **more: str) -> AsyncIterator[Town]:
    """A town whose customer gets texts, at the number PHONE; with further settings."""
    port = free_port()
    fake_phone.write_service_account(folder / "firebase.json", f"http://127.0.0.1:{port}/token")
    task = asyncio.create_task(serve(fake_phone.make_app(folder / "firebase.json"), "127.0.0.1", port))
    texts = {"sms_url": f"http://127.0.0.1:{port}/sms", "sms_countries": "KE"}
    async with make_town(database_url, folder, **texts, **more) as town:
        town.extras |= {"phone": f"http://127.0.0.1:{port}", "number": PHONE}
        await until(lambda: _answers(town))
        async with town.sessions.begin() as session:
            await session.execute(update(Customer).where(Customer.id == town.home.customer_id).values(phone=PHONE))
        yield town
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _answers(town: Town) -> bool:
    return (await town.http.get(f"{town.extras['phone']}/messages")).status_code == 200


def orders(city: Town, **more: Any) -> dict[str, Any]:
    """What a script needs to know of a town."""
    known = {"url": f"{city.api}/graphql", "token": city.home.token, "phone": city.extras["number"]}
    return known | {"phoneUrl": city.extras["phone"], "sandboxUrl": city.sandbox_url} | more


async def told(script: Script, kind: str) -> Any:
    """The next event of a kind; others may come before it."""
    while (line := await script.line())["event"] != kind:
        pass
    return line


@asynccontextmanager
async def working(city: Town) -> AsyncIterator[None]:
    """The town's worker, working for as long as the block lasts."""

    async def work() -> None:
        while True:
            await city.drain()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
