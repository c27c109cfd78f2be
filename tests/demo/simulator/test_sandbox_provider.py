"""The sandbox provider over HTTP: what a merchant's integration may rely on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from standpipe.payments.rails.signatures import verify
from standpipe_demo.simulator import sandbox_provider
from tests.support.loopback import loopback
from tests.support.town import until

KEY, SECRET = "sandbox_key", "sandbox_secret"
ORDER = {"reference": "top_1", "amount": 1_500, "currency": "KES", "description": "Top-up"}


class Shop:
    """Takes webhooks; answers 503 while ``closed``."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        self.tries, self.closed = 0, False
        self.app = Starlette(routes=[Route("/hook", self.hook, methods=["POST"])])

    async def hook(self, request: Request) -> Response:
        body = await request.body()
        event = json.loads(body)
        verify(request.headers.get("sandbox-signature"), body, [SECRET], event["created"])
        self.tries += 1
        if self.closed:
            return Response(status_code=503)
        self.events.append(event)
        return Response()


@pytest.fixture
async def shop():
    made = Shop()
    async with loopback(made.app) as url:
        made.url = f"{url}/hook"
        yield made


@asynccontextmanager
async def rail(shop: Shop, store) -> AsyncIterator[httpx.AsyncClient]:
    app = sandbox_provider.make_app(
        webhook_url=shop.url, webhook_secret=SECRET, api_key=KEY, public_url="http://pay", store=store
    )
    async with loopback(app) as url, httpx.AsyncClient(base_url=url) as http:
        http.headers["authorization"] = f"Bearer {KEY}"
        yield http


async def _create(http: httpx.AsyncClient, key: str = "k1", **changes) -> httpx.Response:
    return await http.post("/v1/charges", json=ORDER | changes, headers={"Idempotency-Key": key})


async def test_p28_one_key_makes_one_charge(shop, tmp_path):
    async with rail(shop, tmp_path / "s.json") as http:
        first, again = (await _create(http)).json(), (await _create(http)).json()
        assert first["id"] == again["id"]
        assert (await _create(http, amount=9)).status_code == 409
        assert (await http.get("/v1/charges", params={"reference": "top_1"})).json()["id"] == first["id"]


async def test_a_restart_keeps_pending_charges(shop, tmp_path):
    async with rail(shop, tmp_path / "s.json") as http:
        charge_id = (await _create(http)).json()["id"]
    async with rail(shop, tmp_path / "s.json") as http:
        assert (await http.post("/v1/references/top_1/approve")).json()["id"] == charge_id
        await until(lambda: _seen(shop, 1))


async def test_a_webhook_that_nobody_took_survives_a_restart(shop, tmp_path):
    shop.closed = True
    async with rail(shop, tmp_path / "s.json") as http:
        await _create(http)
        await http.post("/v1/references/top_1/approve")
        await until(lambda: _tried(shop))
    shop.closed = False
    async with rail(shop, tmp_path / "s.json"):
        await until(lambda: _seen(shop, 1))


async def test_p11_duplicate_sends_one_event_three_times(shop, tmp_path):
    async with rail(shop, tmp_path / "s.json") as http:
        await _create(http)
        await http.post("/v1/references/top_1/duplicate")
        await until(lambda: _seen(shop, 3))
    assert len({event["id"] for event in shop.events}) == 1


async def test_p16_a_declined_charge_may_be_approved_later(shop, tmp_path):
    async with rail(shop, tmp_path / "s.json") as http:
        await _create(http)
        assert (await http.post("/v1/references/top_1/decline")).json()["status"] == "failed"
        paid = (await http.post("/v1/references/top_1/approve")).json()
        assert (paid["status"], paid["captured"], paid["failure_code"]) == ("succeeded", 1_500, None)


async def test_approving_again_is_no_error(shop, tmp_path):
    async with rail(shop, tmp_path / "s.json") as http:
        await _create(http)
        for _ in range(2):
            assert (await http.post("/v1/references/top_1/approve")).status_code == 200
        await until(lambda: _seen(shop, 1))
        assert shop.tries == 1


async def test_refunds_stay_within_what_was_captured_and_count_once_per_key(shop, tmp_path):
    async with rail(shop, tmp_path / "s.json") as http:
        charge_id = (await _create(http)).json()["id"]
        await http.post("/v1/references/top_1/approve")
        path = f"/v1/charges/{charge_id}/refunds"
        for _ in range(2):
            await http.post(path, json={"amount": 500}, headers={"Idempotency-Key": "r1"})
        assert (await http.get(f"/v1/charges/{charge_id}")).json()["refunded"] == 500
        assert (await http.post(path, json={"amount": 1_001})).is_client_error
        other = await http.post(path, json={"amount": 600}, headers={"Idempotency-Key": "r1"})
        assert other.status_code == 409
        same_key_as_create = await http.post(path, json={"amount": 100}, headers={"Idempotency-Key": "k1"})
        assert same_key_as_create.status_code == 409


@pytest.mark.parametrize("header", ["", "Bearer wrong", b"Bearer \xe9"])
async def test_a_wrong_key_is_401(shop, tmp_path, header):
    async with rail(shop, tmp_path / "s.json") as http:
        answer = await http.post("/v1/charges", json=ORDER, headers={"authorization": header})
        assert answer.status_code == 401


@pytest.mark.parametrize("amount", [0, -1, True, 1.5, "5", None])
async def test_p25_an_amount_that_is_none_is_refused(shop, tmp_path, amount):
    async with rail(shop, tmp_path / "s.json") as http:
        assert (await _create(http, amount=amount)).is_client_error


async def test_the_page_escapes_what_the_merchant_wrote_and_works_by_forms(shop, tmp_path):
    async with rail(shop, tmp_path / "s.json") as http:
        charge_id = (await _create(http, description="<script>x</script>")).json()["id"]
        assert "<script>x" not in (await http.get(f"/pay/{charge_id}")).text
        answer = await http.post(f"/pay/{charge_id}/approve")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/pay/{charge_id}")
        await asyncio.wait_for(until(lambda: _seen(shop, 1)), 5)


async def _seen(shop: Shop, count: int) -> bool:
    return len(shop.events) >= count


async def _tried(shop: Shop) -> bool:
    return shop.tries > 0
