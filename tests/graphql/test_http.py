"""GraphQL over HTTP as its specification of September 2026 has it, and what a slow or strange client gets."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from standpipe.graphql import view
from standpipe.graphql.exchange import EVENTS, JSON, RESPONSE, negotiate
from standpipe.meters.models import Meter
from standpipe.platform.serving import serve
from tests.support.database import free_port
from tests.support.sockets import opened
from tests.support.town import Town, until

VIEWER = "{ viewer { id } }"


async def post(town: Town, body: Any, accept: str = RESPONSE, **headers: str) -> httpx.Response:
    sent = {
        "authorization": f"Bearer {town.home.token}",
        "accept": accept,
        "content-type": "application/json",
    } | headers
    return await town.http.post(f"{town.api}/graphql", content=json.dumps(body), headers=sent)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, RESPONSE),
        ("", RESPONSE),
        ("*/*", JSON),
        ("application/json", JSON),
        (f"{RESPONSE}, application/json;q=0.9", RESPONSE),
        (f"application/json;q=0.9, {RESPONSE}; charset=utf-8", RESPONSE),
        ("application/json, application/graphql-response+json", JSON),
        ("TEXT/EVENT-STREAM", EVENTS),
        (f"{RESPONSE};q=0, application/json;q=0.1", JSON),
        ("text/html", None),
        ("application/json;q=nonsense", None),
    ],
)
def test_g11_the_media_type_is_the_clients_choice(accept: str | None, media: str | None) -> None:
    assert negotiate(accept) == media


async def test_g11_status_codes_by_media_type(town: Town) -> None:
    cases: list[tuple[Any, int, int]] = [
        ({"query": VIEWER}, 200, 200),
        ({"query": VIEWER, "operationName": "", "extensions": None, "more": "is ignored"}, 200, 200),
        ({"query": "{ viewer { nothing } }"}, 400, 200),
        ({"query": "{ viewer"}, 400, 200),
        ({"query": "query($i: ID!) { node(id: $i) { id } }"}, 400, 200),
        ({"query": "query A { viewer { id } } query B { viewer { id } }"}, 400, 200),
        ({"query": "query A { viewer { id } }", "operationName": "B"}, 400, 400),
        ({"qeury": VIEWER}, 400, 400),
        ({"query": VIEWER, "variables": [7]}, 400, 400),
        ({"query": VIEWER, "operationName": 7}, 400, 400),
        ("NONSENSE", 400, 400),
        ({"query": "subscription { meterUpdated(meterId: 1) { id } }"}, 400, 400),
    ]
    for body, new, old in cases:
        modern, legacy = await post(town, body), await post(town, body, JSON)
        assert (modern.status_code, legacy.status_code) == (new, old), body
        for response in (modern, legacy):
            assert response.headers["cache-control"] == "no-store"
            answer = response.json()
            assert ("data" in answer) is (response.status_code == 200 and "errors" not in answer)
    assert (await post(town, {"query": VIEWER})).headers["content-type"] == f"{RESPONSE}; charset=utf-8"
    assert (await post(town, {"query": VIEWER}, "text/html")).status_code == 406


async def test_g11_a_partial_success_is_294(town: Town) -> None:
    async with town.sessions.begin() as session:
        (await session.get_one(Meter, town.home.meter_id)).time_zone = "Nowhere/Nothing"
    query = "{ viewer { id meters { nodes { id } } } }"
    response = await post(town, {"query": query})
    assert response.status_code == 294
    assert "data" in response.json()
    assert (await post(town, {"query": query}, JSON)).status_code == 200


async def test_g5_only_json_by_post_and_only_queries_by_get(town: Town) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        refused = await post(town, {"query": VIEWER}, **{"content-type": kind})
        assert refused.status_code == 415, kind
    assert (await post(town, {"query": VIEWER}, **{"content-type": "application/json; charset=utf-8"})).is_success
    mutation = {"query": 'mutation { deviceRemove(input: {installationId: "x"}) { userErrors { code } } }'}
    headers = {"authorization": f"Bearer {town.home.token}"}
    by_get = await town.http.get(f"{town.api}/graphql", params=mutation, headers=headers)
    assert by_get.status_code == 405
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await town.http.request(method, f"{town.api}/graphql", headers=headers)).status_code == 405
    ok = await town.http.get(f"{town.api}/graphql", params={"query": VIEWER}, headers=headers)
    assert ok.json()["data"]["viewer"]["id"] == town.home.customer_id


async def test_sse_sends_the_state_then_each_change_and_its_end(town: Town) -> None:
    started = (await town.start(method="sandbox"))["topUp"]["id"]
    query = {"query": "subscription($i: ID!) { topUpUpdated(topUpId: $i) { status } }", "variables": {"i": started}}
    headers = {"authorization": f"Bearer {town.home.token}", "accept": EVENTS}
    seen: list[str] = []
    async with town.http.stream("POST", f"{town.api}/graphql", json=query, headers=headers, timeout=20) as response:
        assert response.headers["content-type"].startswith(EVENTS)
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                seen.append(json.loads(line[6:])["data"]["topUpUpdated"]["status"])
                cancel = "mutation($i: ID!) { topUpCancel(input: {topUpId: $i}) { userErrors { code } } }"
                await town.gql(cancel, i=started)
            elif line == "event: complete":
                seen.append("complete")
    assert seen[0] == "AWAITING_CUSTOMER"
    assert seen[-1] == "complete"
    assert {"CANCELLED", "EXPIRED"} & set(seen)


async def test_g7_sse_tells_a_stranger_nothing(town: Town) -> None:
    query = {
        "query": "subscription($i: ID!) { meterUpdated(meterId: $i) { id } }",
        "variables": {"i": town.home.meter_id},
    }
    response = await town.http.post(f"{town.api}/graphql", json=query, headers={"accept": EVENTS})
    assert "UNAUTHENTICATED" in response.text
    assert town.home.meter_id not in response.text


STRANGE = [
    "[]", '"x"', '{"type": 5}', '{"type": "nothing"}', '{"type": "subscribe"}', "no json", "[" * 30_000,
    '{"type": "subscribe", "id": 1, "payload": {}}', '{"type": "subscribe", "id": "1", "payload": {"query": 5}}',
    '{"type": "subscribe", "id": "1", "payload": {"query": "{a}", "variables": "x"}}',
]  # fmt: skip


@pytest.mark.parametrize("message", STRANGE)
async def test_g1_strange_messages_close_a_socket_and_nothing_else(town: Town, message: str) -> None:
    async with await opened(town, town.home.token) as socket:
        await socket.send(message)
        await until(lambda: _closed(socket))
        assert socket.close_code == 4400
    assert (await town.http.get(f"{town.api}/healthz")).status_code == 200


async def _closed(socket: Any) -> bool:
    try:
        async with asyncio.timeout(0.05):
            await socket.recv()
    except TimeoutError:
        return False
    except Exception:
        return True
    return False


async def test_g10_slow_headers_and_bodies_are_dropped_and_others_served() -> None:
    async def take(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    port = free_port()
    app = Starlette(routes=[Route("/", take, methods=["POST"])])
    task = asyncio.create_task(serve(app, "127.0.0.1", port, headers_timeout_s=0.3, body_timeout_s=0.3))
    try:
        async with httpx.AsyncClient() as http:

            async def up() -> bool:
                try:
                    return (await http.post(f"http://127.0.0.1:{port}/", content=b"12")).text == "2"
                except httpx.ConnectError:
                    return False

            await until(up)
            head = b"POST / HTTP/1.1\r\nHost: x\r\n"
            late = (head + b"Content-Length: 9\r\n\r\n12", b"HTTP/1.1 408")
            for sent, answer in ((b"", b""), (b"POST / HTT", b""), (head + b"X-Slow: ", b""), late):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                async with asyncio.timeout(10):
                    assert (await reader.read())[: len(answer) or 1] == answer, sent
                writer.close()
                assert await up()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_takes_too_long_ends_and_says_so(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "EXECUTION_TIMEOUT_S", 0.0)
    response = await post(town, {"query": VIEWER})
    assert response.status_code == 504
    assert response.json()["errors"][0]["extensions"]["code"] == "TIMEOUT"


async def test_g8_a_client_that_reads_nothing_is_dropped(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "SEND_TIMEOUT_S", 0.05)
    query = {
        "query": "subscription($i: ID!) { meterUpdated(meterId: $i) { id } }",
        "variables": {"i": town.home.meter_id},
    }
    headers = {"accept": EVENTS, "content-type": JSON, "authorization": f"Bearer {town.home.token}", "host": "town"}
    scope = {
        "type": "http", "method": "POST", "path": "/graphql", "query_string": b"", "app": town.app, "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": json.dumps(query).encode(), "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async with asyncio.timeout(20):
        await town.app(scope, receive, send)


@pytest.mark.parametrize(
    ("language", "refused", "unknown", "thanked"),
    [
        ("fr-CI", "Connectez-vous d'abord.", "Le jeton d'accès n'est pas valable", "<h1>Merci</h1>"),
        ("sw", "Ingia kwanza.", "Tokeni ya kuingia si halali", "<h1>Asante</h1>"),
        ("xx", "Sign in first.", "The access token is not valid", "<h1>Thank you</h1>"),
    ],
)
async def test_refusals_and_pages_are_in_the_readers_language(
    town: Town, language: str, refused: str, unknown: str, thanked: str
) -> None:
    said, address = {"accept-language": language}, f"{town.api}/graphql"
    cancel = {"query": 'mutation { topUpCancel(input: { topUpId: "top_1" }) { topUp { id } } }'}
    answer = await town.http.post(address, json=cancel, headers=said)
    assert answer.json()["errors"][0]["message"] == refused
    answer = await town.http.post(address, json=cancel, headers=said | {"authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    assert answer.json()["errors"][0]["message"].startswith(unknown)
    page = await town.http.get(f"{town.api}/return/top_nobody", headers=said)
    assert thanked in page.text
