"""Subscriptions: now first, then each change, and the end when it is over or the token is."""

import json
import time

import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, NegotiationError

from standpipe.households.tokens import AUDIENCE, ISSUER
from standpipe_demo.simulator.fake_stripe import event
from tests.support.sockets import opened, status_of, subscribe
from tests.support.town import Town


async def test_a_subscription_begins_with_now_hears_others_and_ends_at_the_end(town: Town) -> None:
    top_up_id, intent = await town.pay_by_card()
    text = "subscription($i: ID!) { topUpUpdated(topUpId: $i) { status terminal } }"
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, text, top_up_id)
        assert await status_of(socket) == "AWAITING_CUSTOMER"
        # Settled by another process: this one hears of it through PostgreSQL.
        await town.tell(event("payment_intent.succeeded", intent))
        await town.drain()
        assert await status_of(socket) == "PAID"
    unpaid = (await town.start("sandbox"))["topUp"]["id"]
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, text, unpaid)
        assert await status_of(socket) == "AWAITING_CUSTOMER"
        await town.http.post(f"{town.sandbox_url}/v1/references/{unpaid}/decline")
        await town.poll()
        assert await status_of(socket) == "FAILED"
        assert json.loads(await socket.recv())["type"] == "complete"


async def test_meter_updated_shows_the_meter_as_it_changes(town: Town) -> None:
    text = "subscription($i: ID!) { meterUpdated(meterId: $i) { balance { ledger { amount } inFlight { amount } } } }"
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, text, town.home.meter_id)
        first = json.loads(await socket.recv())["payload"]["data"]["meterUpdated"]["balance"]
        assert first["ledger"]["amount"] == "0.00"
        _, intent = await town.pay_by_card()
        await town.tell(event("payment_intent.succeeded", intent))
        await town.drain()
        changed = json.loads(await socket.recv())["payload"]["data"]["meterUpdated"]["balance"]
        assert changed == {"ledger": {"amount": "15.00"}, "inFlight": {"amount": "15.00"}}


async def test_g8_only_signed_in_sockets_of_the_new_protocol(town: Town) -> None:
    address = town.api.replace("http", "ws", 1) + "/graphql"
    for payload in ({}, {"authorization": "Bearer garbage"}):
        async with connect(address, subprotocols=["graphql-transport-ws"]) as socket:
            await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code in (4401, 4403)
    with pytest.raises((ConnectionClosed, InvalidStatus, NegotiationError)):
        async with connect(address, subprotocols=["graphql-ws"]) as socket:
            await socket.recv()


async def test_g8_a_subscription_ends_with_its_token(town: Town) -> None:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": town.home.customer_id, "iat": now, "exp": now + 2}
    async with await opened(town, jwt.encode(claims, "t" * 40)) as socket:
        await subscribe(socket, "subscription($i: ID!) { meterUpdated(meterId: $i) { id } }", town.home.meter_id)
        assert json.loads(await socket.recv())["type"] == "next"
        assert json.loads(await socket.recv())["type"] == "complete"
