"""Magic amounts of the sandbox: what happens by itself, over HTTP, and across a restart."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from standpipe_demo.simulator import sandbox_provider
from tests.support.loopback import loopback
from tests.support.town import until

PAUSE_S = 0.02
Ask = Callable[[str, str], Awaitable[dict[str, Any]]]
OUTCOMES = {
    11: ("succeeded", ["charge.succeeded"]),
    12: ("succeeded", ["charge.succeeded", "charge.refunded"]),
    13: ("failed", ["charge.failed"]),
    14: ("expired", ["charge.expired"]),
    15: ("succeeded", ["charge.succeeded"]),
    16: ("succeeded", ["charge.succeeded"] * 3),
    17: ("succeeded", []),
    18: ("succeeded", ["charge.failed", "charge.succeeded"]),
    19: ("succeeded", ["charge.succeeded", "dispute.funds_withdrawn"]),
}


@asynccontextmanager
async def world(store: Path | None, pause_s: float | None) -> AsyncIterator[tuple[Ask, list[str]]]:
    """The provider and a shop that writes down what it is told."""
    events: list[str] = []

    async def hook(request: Request) -> Response:
        events.append((await request.json())["type"])
        return Response()

    async with loopback(Starlette(routes=[Route("/hook", hook, methods=["POST"])])) as shop:
        app = sandbox_provider.make_app(
            webhook_url=f"{shop}/hook",
            webhook_secret="s",
            api_key="key",
            public_url="http://pay",
            store=store,
            magic_pause_s=pause_s,
        )
        headers = {"authorization": "Bearer key"}
        async with loopback(app) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:

            async def ask(method: str, path: str, **body: Any) -> dict[str, Any]:
                charge: dict[str, Any] = (await http.request(method, path, json=body or None)).json()
                return charge

            yield ask, events


async def created(ask: Any, amount: int) -> str:
    return str((await ask("POST", "/v1/charges", reference="r", amount=amount, currency="KES"))["id"])


async def shows(ask: Any, charge_id: str, **wanted: Any) -> bool:
    charge = await ask("GET", f"/v1/charges/{charge_id}")
    return all(charge[name] == value for name, value in wanted.items())


@pytest.mark.parametrize("digits", OUTCOMES)
async def test_an_amount_that_ends_in_magic_digits_acts_by_itself(digits: int) -> None:
    status, told = OUTCOMES[digits]
    async with world(None, PAUSE_S) as (ask, events):
        charge_id = await created(ask, 20_000 + digits)
        taken = {12: {"refunded": 20_000 + digits}, 19: {"dispute": "open"}}.get(digits, {})
        await until(lambda: shows(ask, charge_id, status=status, **taken))
        await until(lambda: heard(events, told))


async def heard(events: list[str], told: list[str]) -> bool:
    # Webhooks may overtake each other, as they do in life.
    return sorted(events) == sorted(told)


async def test_other_amounts_and_a_provider_without_magic_wait_for_somebody() -> None:
    async with world(None, 0) as (ask, _), world(None, None) as (plain, _):
        first, second = await created(ask, 20_010), await created(plain, 20_013)
        # What is planned after it has happened by the time that it could have.
        await until(lambda: _declined(ask))
        assert await shows(ask, first, status="pending")
        assert await shows(plain, second, status="pending")


async def _declined(ask: Any) -> bool:
    charge_id = await created(ask, 20_013)
    return await shows(ask, charge_id, status="failed")


async def test_what_is_to_come_survives_a_restart(tmp_path: Path) -> None:
    async with world(tmp_path / "s.json", 3_600) as (ask, _):
        charge_id = await created(ask, 20_013)
        assert await shows(ask, charge_id, status="pending")
    kept = json.loads((tmp_path / "s.json").read_text())
    [step] = kept["magic"]
    # The hour has passed.
    step["due_s"] -= 3_600
    (tmp_path / "s.json").write_text(json.dumps(kept))
    async with world(tmp_path / "s.json", 3_600) as (ask, _):
        await until(lambda: shows(ask, charge_id, status="failed"))


async def test_who_is_quicker_by_hand_has_the_first_word() -> None:
    async with world(None, PAUSE_S * 10) as (ask, events):
        charge_id = await created(ask, 20_014)
        await ask("POST", f"/v1/charges/{charge_id}/approve")
        other = await created(ask, 20_014)
        await until(lambda: shows(ask, other, status="expired"))
        assert await shows(ask, charge_id, status="succeeded", captured=20_014)
        assert "charge.expired" in events or await until(lambda: heard(events, ["charge.expired", "charge.succeeded"]))
