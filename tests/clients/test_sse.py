"""The npm package graphql-sse, in distinct-connections mode, against the real app."""

from pathlib import Path
from typing import Any

from standpipe_demo.simulator.fake_stripe import event
from tests.support.clients import orders, told
from tests.support.node import Node
from tests.support.town import Town


def live(city: Town, operation: str, **variables: str) -> dict[str, Any]:
    return orders(city, operation=operation, variables=variables)


async def test_graphql_sse_hears_now_first_and_then_what_changes(city: Town, node: Node, scripts: Path) -> None:
    config = live(city, "MeterUpdated", meterId=city.home.meter_id)
    async with node.running(scripts / "sse.mjs", **config) as script:
        first = (await told(script, "next"))["data"]["meterUpdated"]["balance"]
        assert (first["ledger"]["amount"], first["onMeter"]) == ("0.00", None)
        _, intent = await city.pay_by_card()
        await city.tell(event("payment_intent.succeeded", intent))
        await city.drain()
        changed = (await told(script, "next"))["data"]["meterUpdated"]["balance"]
        assert (changed["ledger"]["amount"], changed["inFlight"]["amount"]) == ("15.00", "15.00")


async def test_graphql_sse_sees_a_top_up_end_by_itself(city: Town, node: Node, scripts: Path) -> None:
    top_up_id = (await city.start("sandbox"))["topUp"]["id"]
    async with node.running(scripts / "sse.mjs", **live(city, "TopUpUpdated", topUpId=top_up_id)) as script:
        assert (await told(script, "next"))["data"]["topUpUpdated"]["status"] == "AWAITING_CUSTOMER"
        await city.http.post(f"{city.sandbox_url}/v1/references/{top_up_id}/decline")
        await city.poll()
        ended = (await told(script, "next"))["data"]["topUpUpdated"]
        assert (ended["status"], ended["terminal"]) == ("FAILED", True)
        assert await script.line() == {"event": "complete"}
        assert await script.ended() == 0


async def test_g8_graphql_sse_is_told_that_its_token_is_refused(city: Town, node: Node, scripts: Path) -> None:
    config = live(city, "MeterUpdated", meterId=city.home.meter_id) | {"token": "garbage"}
    async with node.running(scripts / "sse.mjs", **config) as script:
        assert (await told(script, "error"))["status"] == 401
