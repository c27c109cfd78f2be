"""Apps that send the ids of trusted documents, against an app that answers nothing else: urql, Apollo Client, our own.

Each brings a manifest of its own making, which an operator adds by the command line.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import make_city, orders, working
from tests.support.node import Node
from tests.support.office import hire
from tests.support.town import Town


@pytest.fixture
async def strict(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """A town that answers trusted documents alone."""
    async with make_city(database_url, tmp_path, documents_mode="enforce") as town:
        town.extras["office"] = await hire(database_url, tmp_path)
        yield town


async def add(town: Town, folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest))
    await town.extras["office"].good("documents", "add", str(path))


async def made(node: Node, script: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The manifest that a client's own way of printing documents makes."""
    async with node.running(script, **config, manifest=True) as child:
        manifest: dict[str, Any] = await child.line()
        return manifest


async def code_of(town: Town, **body: Any) -> str:
    headers = {"authorization": f"Bearer {town.home.token}"}
    answer = await town.http.post(f"{town.api}/graphql", json=body, headers=headers)
    return str(answer.json()["errors"][0]["extensions"]["code"])


@pytest.mark.parametrize("by_get", [False, True], ids=["by POST", "queries by GET"])
async def test_urql_goes_the_whole_way_by_ids(
    strict: Town, node: Node, scripts: Path, tmp_path: Path, by_get: bool
) -> None:
    config = orders(strict, amount="20.00", stopAt="PAID")
    await add(strict, tmp_path, await made(node, scripts / "urql.mjs", config))
    async with (
        working(strict),
        node.running(scripts / "urql.mjs", **config, trusted=True, byGet=by_get) as urql,
    ):
        steps = [await urql.line() for _ in range(4)]
    assert [step["step"] for step in steps] == ["home", "quote", "started", "paid"]
    requests = steps[-1]["requests"]
    assert not any(request["text"] for request in requests)
    assert {"GET" if by_get else "POST"} <= {request["method"] for request in requests}
    assert await strict.wallet() == 2_000


@pytest.mark.parametrize("by_get", [False, True], ids=["by POST", "queries by GET"])
async def test_apollo_client_reads_and_pays_by_ids(
    strict: Town, node: Node, scripts: Path, tmp_path: Path, by_get: bool
) -> None:
    config = orders(strict)
    await add(strict, tmp_path, await made(node, scripts / "apollo.mjs", config))
    async with node.running(scripts / "apollo.mjs", **config, trusted=True, byGet=by_get) as apollo:
        assert (await apollo.line())["serial"] == strict.home.serial
        started = await apollo.line()
    assert started["status"] == "AWAITING_CUSTOMER"
    wanted = [{"method": "GET" if by_get else "POST", "text": False}, {"method": "POST", "text": False}]
    assert started["requests"] == wanted


@pytest.mark.parametrize("manifest", ["plain.json", "apollo.json"])
async def test_our_client_goes_the_whole_way_by_ids(strict: Town, node: Node, our_client: Path, manifest: str) -> None:
    await strict.extras["office"].good("documents", "add", str(our_client / "manifests" / manifest))
    config = orders(strict, token=None, amount="20.00", stopAt="PAID", documentIds=True)
    async with working(strict), node.running(our_client / "dist/examples/journey.js", **config) as journey:
        assert (await journey.line())["step"] == "home"
        assert await asyncio.wait_for(journey.ended(), 60) == 0
    assert await strict.wallet() == 2_000


async def test_what_nobody_added_is_refused(strict: Town, node: Node, scripts: Path) -> None:
    assert await code_of(strict, query="{ viewer { id } }") == "DOCUMENT_NOT_TRUSTED"
    assert await code_of(strict, documentId=f"sha256:{'0' * 64}") == "DOCUMENT_NOT_FOUND"
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}
    assert await code_of(strict, extensions=extensions) == "PERSISTED_QUERY_NOT_FOUND"
