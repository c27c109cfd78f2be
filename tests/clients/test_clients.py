"""Clients of others against the real app: graphql-ws, urql and Apollo Client as npm has them, and our own, compiled."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from standpipe.households.models import Customer
from standpipe_demo.simulator.fake_stripe import event
from tests.support.clients import orders, told, working
from tests.support.database import free_port
from tests.support.node import Node
from tests.support.town import Town


def live(city: Town, operation: str, **variables: str) -> dict[str, Any]:
    url = f"{city.api.replace('http', 'ws', 1)}/graphql"
    return orders(city, url=url, operation=operation, variables=variables)


class Cable:
    """Between a client and the app; ``cut`` it, and every connection through it is gone."""

    def __init__(self, port: int) -> None:
        self.port, self._to, self._ends = free_port(), port, set[asyncio.StreamWriter]()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends |= {writer, there_writer}
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()

    def cut(self) -> None:
        for writer in self._ends:
            writer.transport.abort()
        self._ends.clear()


async def test_graphql_ws_hears_now_first_and_then_what_changes(city: Town, node: Node, scripts: Path) -> None:
    config = live(city, "MeterUpdated", meterId=city.home.meter_id)
    async with node.running(scripts / "ws.mjs", **config) as script:
        first = (await told(script, "next"))["data"]["meterUpdated"]["balance"]
        assert (first["ledger"]["amount"], first["onMeter"]) == ("0.00", None)
        _, intent = await city.pay_by_card()
        await city.tell(event("payment_intent.succeeded", intent))
        await city.drain()
        changed = (await told(script, "next"))["data"]["meterUpdated"]["balance"]
        assert (changed["ledger"]["amount"], changed["inFlight"]["amount"]) == ("15.00", "15.00")


async def test_graphql_ws_sees_a_top_up_end_by_itself(city: Town, node: Node, scripts: Path) -> None:
    top_up_id = (await city.start("sandbox"))["topUp"]["id"]
    async with node.running(scripts / "ws.mjs", **live(city, "TopUpUpdated", topUpId=top_up_id)) as script:
        assert (await told(script, "next"))["data"]["topUpUpdated"]["status"] == "AWAITING_CUSTOMER"
        await city.http.post(f"{city.sandbox_url}/v1/references/{top_up_id}/decline")
        await city.poll()
        ended = (await told(script, "next"))["data"]["topUpUpdated"]
        assert (ended["status"], ended["terminal"], ended["pollAfterMs"]) == ("FAILED", True, None)
        assert await script.line() == {"event": "complete"}
        assert await script.ended() == 0


@pytest.mark.parametrize("token", ["garbage", ""])
async def test_g8_graphql_ws_is_told_that_its_token_is_refused(
    city: Town, node: Node, scripts: Path, token: str
) -> None:
    config = live(city, "MeterUpdated", meterId=city.home.meter_id) | {"token": token}
    async with node.running(scripts / "ws.mjs", **config) as script:
        assert await script.line() == {"event": "closed", "code": 4403}
        assert await script.line() == {"event": "error", "code": 4403}
        assert await script.ended() == 0
    # The package tries again after 4403, so an app that fetches a fresh token then is back by itself.
    config |= {"retries": 1, "nextToken": city.home.token}
    async with node.running(scripts / "ws.mjs", **config) as script:
        assert await script.line() == {"event": "closed", "code": 4403}
        assert await script.line() == {"event": "connected"}
        assert (await script.line())["data"]["meterUpdated"]["id"] == city.home.meter_id


async def test_graphql_ws_comes_back_after_a_cut_and_has_missed_nothing(city: Town, node: Node, scripts: Path) -> None:
    cable = Cable(city.settings.http_port)
    async with await asyncio.start_server(cable.carry, "127.0.0.1", cable.port):
        config = live(city, "MeterUpdated", meterId=city.home.meter_id)
        config |= {"url": f"ws://127.0.0.1:{cable.port}/graphql", "retries": 5}
        async with node.running(scripts / "ws.mjs", **config) as script:
            await told(script, "next")
            cable.cut()
            assert (await told(script, "closed"))["code"] != 1000
            top_up_id, intent = await city.pay_by_card()
            await city.tell(event("payment_intent.succeeded", intent))
            await city.drain()
            await told(script, "connected")
            seen = (await told(script, "next"))["data"]["meterUpdated"]["balance"]["ledger"]["amount"]
            # Whether the money came before or after it was back: the newest state is what it has in the end.
            while seen != "15.00":
                seen = (await told(script, "next"))["data"]["meterUpdated"]["balance"]["ledger"]["amount"]
            assert await city.status(top_up_id) == "PAID"


async def test_urql_signs_in_asks_for_a_quote_and_tops_up(city: Town, node: Node, scripts: Path) -> None:
    async with working(city), node.running(scripts / "urql.mjs", **orders(city, amount="20.00", stopAt="PAID")) as urql:
        assert await urql.line() == {"step": "home", "serial": city.home.serial}
        assert await urql.line() == {"step": "quote", "pay": "20.00", "userErrors": []}
        assert (await urql.line())["status"] == "AWAITING_CUSTOMER"
        assert (await urql.line())["step"] == "paid"
    assert await city.wallet() == 2_000


async def test_apollo_client_reads_the_home_screen_and_starts_a_top_up(city: Town, node: Node, scripts: Path) -> None:
    async with node.running(scripts / "apollo.mjs", **orders(city)) as apollo:
        assert await apollo.line() == {"step": "home", "typename": "Viewer", "serial": city.home.serial}
        assert (await apollo.line())["status"] == "AWAITING_CUSTOMER"


async def test_our_client_compiles_and_goes_the_whole_way(city: Town, node: Node, our_client: Path) -> None:
    config = orders(city, token=None, amount="20.00", stopAt="PAID", language="en")
    async with working(city), node.running(our_client / "dist/examples/journey.js", **config) as journey:
        steps = [await journey.line() for _ in range(3)]
        assert steps == [
            {"step": "home", "what": {"serial": city.home.serial, "ledger": "KES0.00", "tiers": 2}},
            {"step": "quote", "what": {"pay": "KES20.00", "volume": "400.1 L"}},
            {"step": "started", "what": {"status": "AWAITING_CUSTOMER", "same": True}},
        ]
        statuses = []
        while not statuses or statuses[-1]["status"] != "PAID":
            statuses.append((await journey.line())["what"])
        assert statuses[-1]["credit"] == "20.00"
        assert await journey.ended() == 0
    assert await city.wallet() == 2_000
    assert await city.count(Customer) == 1


async def test_manifests_hold_every_operation_in_both_formats(our_client: Path) -> None:
    plain = json.loads((our_client / "manifests/plain.json").read_text())
    apollo = json.loads((our_client / "manifests/apollo.json").read_text())
    assert (apollo["format"], apollo["version"]) == ("apollo-persisted-query-manifest", 1)
    assert {operation["id"]: operation["body"] for operation in apollo["operations"]} == plain
    assert {"HomeScreen", "Quote", "TopUpStart"} <= {operation["name"] for operation in apollo["operations"]}
    assert {operation["type"] for operation in apollo["operations"]} == {"query", "mutation", "subscription"}
