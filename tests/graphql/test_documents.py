"""Trusted documents: brought by manifest, asked for by id, kept by the phone's cache; and what is not trusted."""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from standpipe.app import make_app
from standpipe.documents.models import TrustedDocument
from standpipe.documents.store import Document, add, read_manifest
from standpipe.graphql.exchange import RESPONSE
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.settings import DocumentsMode
from standpipe.wiring import Database
from tests.support.office import hire
from tests.support.sockets import opened
from tests.support.town import Town

HOME = "query Home($n: Int!) { viewer { id meters(first: $n) { nodes { id label } } } }"
START = 'mutation Remove { deviceRemove(input: {installationId: "x"}) { userErrors { code } } }'


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def apollo(*bodies: str) -> dict[str, Any]:
    operations = [
        {"id": sha(body), "name": body.split("(")[0].split()[1], "type": "query", "body": body} for body in bodies
    ]
    return {"format": "apollo-persisted-query-manifest", "version": 1, "operations": operations}


@pytest.fixture
async def trusted(town: Town) -> Town:
    """A town that trusts HOME and START."""
    async with town.sessions.begin() as session:
        assert await add(session, [Document(sha(body), body) for body in (HOME, START)], client="android@2.1") == 2
    return town


async def test_the_office_adds_lists_checks_and_removes(town: Town, database_url: str, tmp_path: Path) -> None:
    office = await hire(database_url, tmp_path)
    manifest, plain = tmp_path / "manifest.json", tmp_path / "plain.json"
    manifest.write_text(json.dumps(apollo(HOME)))
    plain.write_text(json.dumps({f"sha256:{sha(START)}": START}))
    said = await office.good("documents", "add", str(manifest), str(plain), "--client", "android@2.1")
    assert said.startswith("2 documents are trusted")
    assert (await office.good("documents", "add", str(manifest))).startswith("0 documents")
    listed = json.loads(await office.good("documents", "list", "--json"))
    assert {(one["id"], one["client"]) for one in listed} == {
        (f"sha256:{sha(HOME)}", "android@2.1"), (f"sha256:{sha(START)}", "android@2.1")}  # fmt: skip
    assert "2 documents run" in await office.good("documents", "check")
    await office.good("documents", "remove", f"sha256:{sha(START)}")
    assert await town.count(TrustedDocument) == 1


async def ask(town: Town, body: dict[str, Any], accept: str = RESPONSE) -> httpx.Response:
    headers = {"authorization": f"Bearer {town.home.token}", "accept": accept}
    return await town.http.post(f"{town.api}/graphql", json=body, headers=headers)


async def test_a_document_is_run_by_its_id(trusted: Town) -> None:
    by_id = {"documentId": f"sha256:{sha(HOME)}", "variables": {"n": 1}}
    found = await ask(trusted, by_id)
    assert found.json()["data"]["viewer"]["meters"]["nodes"][0]["id"] == trusted.home.meter_id
    apollos = {"variables": {"n": 1}, "extensions": {"persistedQuery": {"version": 1, "sha256Hash": sha(HOME)}}}
    assert (await ask(trusted, apollos)).json()["data"] == found.json()["data"]
    assert (await ask(trusted, apollos | {"query": HOME})).json()["data"] == found.json()["data"]
    async with await opened(trusted, trusted.home.token) as socket:
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": by_id}))
        assert json.loads(await socket.recv())["payload"]["data"] == found.json()["data"]


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        ({"documentId": "sha256:" + "0" * 64}, "DOCUMENT_NOT_FOUND", 400),
        ({"documentId": "sha256:" + "F" * 64}, "BAD_REQUEST", 400),
        ({"documentId": "md5:abc"}, "BAD_REQUEST", 400),
        ({"documentId": 7}, "BAD_REQUEST", 400),
        ({"documentId": "sha256:" + "0" * 64, "query": "{ viewer { id } }"}, "BAD_REQUEST", 400),
        ({"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}}, "PERSISTED_QUERY_NOT_FOUND", 400),
        ({"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}, "query": "{ viewer { id } }"},
         "BAD_REQUEST", 400),
        ({"extensions": {"persistedQuery": {"version": 2}}}, "BAD_REQUEST", 400),
    ],
)  # fmt: skip
async def test_an_id_that_names_nothing_is_one_clear_error(
    trusted: Town, body: dict[str, Any], code: str, status: int
) -> None:
    response = await ask(trusted, body)
    assert response.status_code == status
    [error] = response.json()["errors"]
    assert error["extensions"]["code"] == code
    async with await opened(trusted, trusted.home.token) as socket:
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": body}))
        assert code in await socket.recv()


async def test_a_text_sent_with_its_hash_runs_and_is_not_stored(trusted: Town) -> None:
    query = "{ viewer { phone } }"
    body = {"query": query, "extensions": {"persistedQuery": {"version": 1, "sha256Hash": sha(query)}}}
    assert (await ask(trusted, body)).json()["data"]["viewer"]["phone"]
    assert await trusted.count(TrustedDocument) == 2


async def test_by_get_an_unchanged_answer_costs_no_bytes_and_a_mutation_is_refused(trusted: Town) -> None:
    params = {"documentId": f"sha256:{sha(HOME)}", "variables": json.dumps({"n": 1})}
    headers = {"authorization": f"Bearer {trusted.home.token}", "accept": RESPONSE}
    first = await trusted.http.get(f"{trusted.api}/graphql", params=params, headers=headers)
    assert first.headers["cache-control"] == "private, no-cache"
    assert "Authorization" in first.headers["vary"]
    again = headers | {"if-none-match": first.headers["etag"]}
    unchanged = await trusted.http.get(f"{trusted.api}/graphql", params=params, headers=again)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    signed_out = await trusted.http.get(f"{trusted.api}/graphql", params=params, headers={"accept": RESPONSE})
    assert signed_out.json()["data"] == {"viewer": None}
    assert signed_out.headers["cache-control"] == "no-store"
    mutation = await trusted.http.get(
        f"{trusted.api}/graphql", params={"documentId": f"sha256:{sha(START)}"}, headers=headers
    )
    assert mutation.status_code == 405
    as_text = await trusted.http.get(f"{trusted.api}/graphql", params={"query": "{ viewer { id } }"}, headers=headers)
    assert as_text.headers["cache-control"] == "no-store"


async def test_modes_run_note_or_refuse_what_nobody_vouched_for(
    trusted: Town, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = {"query": "{ viewer { language } }"}
    for mode, status in ((DocumentsMode.OFF, 200), (DocumentsMode.LOG, 200), (DocumentsMode.ENFORCE, 400)):
        settings = trusted.settings.model_copy(update={"documents_mode": mode})
        app = make_app(settings, Database(database_url, trusted.sessions))
        transport = httpx.ASGITransport(app)
        capsys.readouterr()
        async with httpx.AsyncClient(transport=transport, base_url="http://town") as http:
            headers = {"authorization": f"Bearer {trusted.home.token}", "accept": RESPONSE}
            found = [await http.post("/graphql", json=strange, headers=headers) for _ in range(2)]
            assert {one.status_code for one in found} == {status}
            assert (capsys.readouterr().out.count("document is not trusted")) == (mode is DocumentsMode.LOG)
            if mode is DocumentsMode.ENFORCE:
                assert found[0].json()["errors"][0]["extensions"]["code"] == "DOCUMENT_NOT_TRUSTED"
            # What is vouched for runs in every mode, by its id and by its text.
            for body in ({"documentId": f"sha256:{sha(HOME)}"}, {"query": HOME}):
                assert (
                    await http.post("/graphql", json=body | {"variables": {"n": 1}}, headers=headers)
                ).status_code == 200


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("no json", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "no documents"),
        (json.dumps({"0" * 64: HOME}), "not the SHA-256"),
        (json.dumps({sha(HOME): 5}), "no id and text"),
        (json.dumps({"operations": [5]}), "no object"),
        (json.dumps({"operations": [], "version": 2}), "version 1"),
        (json.dumps({sha("x" * 70_000): "x" * 70_000}), "longer"),
    ],
)
def test_what_is_no_manifest_is_told(content: str, word: str) -> None:
    with pytest.raises(InvalidInputError, match=word):
        read_manifest(content)


async def test_a_manifest_that_cannot_run_is_refused_whole(town: Town, database_url: str, tmp_path: Path) -> None:
    office = await hire(database_url, tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(apollo(HOME, "query Old { viewer { gone } }", "query Dear { " + "id " * 90 + "}")))
    refused = await office.run("documents", "add", str(manifest))
    assert refused.returncode == 1
    for word in ("Old", "gone", "Dear", "too often"):
        assert word in refused.stdout
    assert await town.count(TrustedDocument) == 0
