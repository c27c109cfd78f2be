"""Speaking graphql-transport-ws as an app does."""

import json
from typing import Any

from websockets.asyncio.client import connect

from tests.support.town import Town


async def opened(town: Town, token: str) -> Any:
    socket = await connect(town.api.replace("http", "ws", 1) + "/graphql", subprotocols=["graphql-transport-ws"])
    await socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}))
    assert json.loads(await socket.recv())["type"] == "connection_ack"
    return socket


async def subscribe(socket: Any, query: str, value: str) -> None:
    payload = {"query": query, "variables": {"i": value}}
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))


async def status_of(socket: Any) -> str:
    message = json.loads(await socket.recv())
    assert message["type"] == "next", message
    return str(message["payload"]["data"]["topUpUpdated"]["status"])


async def first_of_subscription(town: Town, token: str, query: str, value: str) -> dict[str, Any]:
    async with await opened(town, token) as socket:
        await subscribe(socket, query, value)
        message: dict[str, Any] = json.loads(await socket.recv())
        if isinstance(message.get("payload"), dict):
            message["payload"].pop("extensions", None)
        return message
