"""What is too large is refused before anything looks at it, alike on every transport; what is asked has a price."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from graphql import parse
from hypothesis import given
from hypothesis import strategies as st

from standpipe.graphql import guard, prices
from standpipe.graphql.budget import Budgets, Streams
from standpipe.graphql.guard import prepare
from standpipe.graphql.limits import (
    MAX_ALIASES,
    MAX_DEPTH,
    MAX_DIRECTIVES,
    MAX_FIELDS,
    MAX_FRAGMENTS,
    MAX_OPERATIONS,
    too_large,
)
from standpipe.graphql.schema import schema
from tests.support.sockets import opened
from tests.support.town import Town, until

CORE = schema._schema


def nested(fields: list[str], leaf: str) -> str:
    return " { ".join([*fields, leaf]) + " }" * len(fields)


def doubling(fragments: int) -> str:
    """Each fragment spreads the next one twice: 2 to the power of ``fragments`` fields in a few hundred bytes."""
    parts = [f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(fragments)]
    return " ".join(["{ ...F0 }", *parts, f"fragment F{fragments} on Query {{ viewer {{ id }} }}"])


TOO_LARGE = {
    "levels": "{ " + nested(["viewer"] * MAX_DEPTH, "id") + " }",
    "aliases": "{ " + " ".join(f"a{n}: viewer {{ id }}" for n in range(MAX_ALIASES + 1)) + " }",
    "directives": "{ viewer { " + " ".join("id @skip(if: false)" for _ in range(MAX_DIRECTIVES + 1)) + " } }",
    "fields": "{ viewer { " + " ".join(f"f{n}" for n in range(MAX_FIELDS)) + " } }",
    "fragments": "{ viewer { id } }" + " fragment F on Viewer { id }".replace("F", "F{0}") * 0
    + "".join(f" fragment F{n} on Viewer {{ id }}" for n in range(MAX_FRAGMENTS + 1)),
    "operations": " ".join(f"query Q{n} {{ viewer {{ id }} }}" for n in range(MAX_OPERATIONS + 1)),
    "same fields": "{ viewer { " + "id " * 100 + "} }",
    "fields by fragments": doubling(25),
    "fragments without an end": doubling(25).replace("fragment F25 on", "fragment Other on") + " { ...Other }",
    "an unused fragment": "{ viewer { id } } fragment F on Viewer { id }",
    "a cycle": "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
    "aliases by fragments": "{ "
    + " ".join(f"...F{n}" for n in range(9))
    + " } "
    + " ".join(f"fragment F{n} on Query {{ a{n}: viewer {{ id }} b{n}: viewer {{ id }} }}" for n in range(9)),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_g2_what_is_too_large_is_refused(kind: str) -> None:
    refusal = too_large(parse(TOO_LARGE[kind], max_tokens=1_500))
    assert refusal is not None
    assert refusal.extensions == {"code": "TOO_LARGE"} or "never used" in refusal.message


@pytest.mark.parametrize(
    "query",
    [
        "{ " + nested(["viewer"] * (MAX_DEPTH - 1), "id") + " }",
        "{ " + " ".join(f"a{n}: viewer {{ id }}" for n in range(MAX_ALIASES)) + " }",
        "{ viewer { id @skip(if: false) } ...F } fragment F on Query { viewer { phone } }",
        "{ ...Unknown }",
    ],
)
def test_g2_what_is_just_small_enough_is_not(query: str) -> None:
    assert too_large(parse(query)) is None


@given(
    spreads=st.lists(st.lists(st.integers(0, 11), max_size=4), min_size=1, max_size=12),
    fields=st.lists(st.integers(0, 3), min_size=12, max_size=12),
)
def test_g2_a_size_is_that_of_the_document_written_out(spreads: list[list[int]], fields: list[int]) -> None:
    """Against a slow count that writes every fragment out; spreads go only to later fragments, so that it ends."""
    known = [[to for to in found if n < to < len(spreads)] for n, found in enumerate(spreads)]

    def written_out(n: int) -> int:
        return fields[n] + sum(written_out(to) for to in known[n])

    parts = []
    for n, to in enumerate(known):
        inside = " ".join([*(f"f{n}x{k}" for k in range(fields[n])), *(f"...F{one}" for one in to)])
        parts.append(
            f"fragment F{n} on Query {{ {inside or '__typename'} }}" if n else f"{{ {inside or '__typename'} }}"
        )
    total = written_out(0)
    empty = any(not fields[n] and not to for n, to in enumerate(known))
    refusal = too_large(parse(" ".join(parts)))
    if total > MAX_FIELDS:
        assert refusal is not None
        assert "fields" in refusal.message or "never used" in refusal.message
    elif not empty:
        assert refusal is None or "same fields" in refusal.message or "never used" in refusal.message


async def _over_http(town: Town, query: str, accept: str) -> str:
    headers = {"authorization": f"Bearer {town.home.token}", "accept": accept}
    response = await town.http.post(f"{town.api}/graphql", json={"query": query}, headers=headers)
    return response.text


async def _over_websocket(town: Town, query: str) -> str:
    async with await opened(town, town.home.token) as socket:
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": query}}))
        return str(await socket.recv())


@pytest.mark.parametrize("kind", ["levels", "aliases", "fields by fragments", "a cycle"])
async def test_g2_alike_over_http_sse_and_websocket(town: Town, kind: str) -> None:
    query = TOO_LARGE[kind]
    for text in (
        await _over_http(town, query, "application/json"),
        await _over_http(town, query, "text/event-stream"),
        await _over_websocket(town, query),
    ):
        assert "TOO_LARGE" in text, text
    assert (await town.http.get(f"{town.api}/healthz")).status_code == 200


async def test_g2_a_refusal_is_told_as_it_is_where_the_operation_has_a_name(town: Town) -> None:
    large, broken = "query Home { viewer { " + "id " * 100 + "} }", "query Home { viewer {"
    for token, query, code in (
        (town.home.token, large, "TOO_LARGE"),
        (town.home.token, broken, None),
        ("", large, "TOO_LARGE"),
        ("", "query Home { thereIsNoSuchThing }", "UNAUTHENTICATED"),
    ):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        body = {"query": query, "operationName": "Home"}
        for accept in ("application/json", "text/event-stream"):
            asked = headers | {"accept": accept}
            response = await town.http.post(f"{town.api}/graphql", json=body, headers=asked)
            assert "Unknown operation" not in response.text
            assert code is None or code in response.text, (query, response.text)
    async with await opened(town, town.home.token) as socket:
        payload = {"query": large, "operationName": "Home"}
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        assert "TOO_LARGE" in await socket.recv()


async def test_g2_many_tokens_deep_lists_and_batches_are_refused(town: Town) -> None:
    for query in ("{ " + "a " * 1_100 + "}", "{ node(id: " + "[" * 400 + "]" * 400 + ") { id } }"):
        answer = json.loads(await _over_http(town, query, "application/graphql-response+json"))
        assert "data" not in answer
        assert answer["errors"]
    batch = await town.http.post(f"{town.api}/graphql", json=[{"query": "{viewer{id}}"}] * 2)
    assert batch.status_code == 400


def points(query: str, **variables: Any) -> int:
    [priced] = prices.plans_of(CORE, parse(query)).values()
    return priced.cost(variables)[0]


def test_a_list_costs_as_many_times_as_it_may_be_long() -> None:
    query = 'query($n: Int!) { viewer { meter(id: "m") { topUps(first: $n) { nodes { id status } } } } }'
    assert points(query, n=10) - points(query, n=1) == 9 * 3
    assert points(query, n=10) == points(query.replace("$n)", "10)"), n=1)
    assert points(query, n=10**6) == points(query, n=100)
    usage = (
        'query($f: Date!, $t: Date!) { node(id: "m") { ... on Meter { '
        "usage(from: $f, to: $t, interval: HOUR) { compact { litres } } } } }"
    )
    month, day = ({"f": "2026-03-01", "t": to} for to in ("2026-03-31", "2026-03-02"))
    assert points(usage, **month) - points(usage, **day) == 29 * 24 * prices.BUCKET
    assert points(usage, f="nonsense", t="2026-03-02") > 0
    # What a variable is by default counts like what is sent.
    default = usage.replace("$f: Date!", '$f: Date! = "2026-03-01"').replace("$t: Date!", '$t: Date! = "2026-03-31"')
    assert points(default) == points(usage, **month)


def test_a_nested_product_of_lists_is_too_dear_however_short_it_is_to_write() -> None:
    query = "topUps(first: 100) { nodes { meter { topUps(first: 100) { nodes { id } } } } }"
    query = '{ node(id: "m") { ... on Meter { ' + query + " } } }"
    assert points(query) > prices.MAX_COST


def test_every_price_names_a_field_that_exists() -> None:
    for name in [*prices.EXTRA, *prices.LISTS, prices.LATE]:
        owner, _, field = name.partition(".")
        known: Any = CORE.get_type(owner)
        assert field in known.fields or field in ("__schema", "__type"), name


async def test_an_answer_says_what_it_cost_and_a_dear_request_is_refused(town: Town) -> None:
    ask = {"query": "{ viewer { meters(first: 100) { nodes { id serial } } } }"}
    headers = {"authorization": f"Bearer {town.home.token}", "accept": "application/graphql-response+json"}
    response = await town.http.post(f"{town.api}/graphql", json=ask, headers=headers)
    cost = response.json()["extensions"]["cost"]
    # One meter is there, so one is paid for, although a hundred were asked for.
    assert cost["points"] < 10
    assert town.settings.cost_capacity - cost["points"] <= cost["left"] <= town.settings.cost_capacity
    dear = (
        "{ viewer { meters { nodes { "
        + " ".join(f'a{n}: statement(month: "2026-05-01") {{ statement {{ month }} }}' for n in range(14))
        + " } } } }"
    )
    refused = await town.http.post(f"{town.api}/graphql", json={"query": dear}, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["extensions"]["code"] == "TOO_LARGE"


async def test_a_budget_runs_out_for_one_customer_and_says_when_to_come_back(town: Town) -> None:
    headers = {"authorization": f"Bearer {town.home.token}", "accept": "application/graphql-response+json"}
    dear = (
        "{ viewer { meters { nodes { "
        + " ".join(f'a{n}: statement(month: "2026-05-01") {{ statement {{ month }} }}' for n in range(11))
        + " } } } }"
    )
    for _ in range(12):
        response = await town.http.post(f"{town.api}/graphql", json={"query": dear}, headers=headers)
        if response.status_code == 429:
            break
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) == response.json()["errors"][0]["extensions"]["retryAfterS"] > 0
    other = await town.http.post(f"{town.api}/graphql", json={"query": "{ viewer { id } }"})
    assert other.json()["data"] == {"viewer": None}


def test_a_budget_fills_again_and_never_above_its_rim() -> None:
    now_s = 0.0
    budgets = Budgets(100, 10, lambda: now_s)
    assert [budgets.take("a", 60), budgets.take("a", 60), budgets.take("b", 100)] == [40, -20, 0]
    now_s = 2.0
    assert budgets.take("a", 60) == 0
    now_s = 1_000.0
    assert budgets.take("a", 1) == 99
    assert budgets.wait_s(11) == 2


def test_places_of_subscriptions_are_given_back() -> None:
    streams = Streams()
    assert [streams.enter("a", 2) for _ in range(3)] == [True, True, False]
    streams.leave("a")
    assert streams.enter("a", 2)


async def test_g6_a_stranger_learns_nothing_of_what_there_is(town: Town) -> None:
    async def ask(query: str, accept: str = "application/graphql-response+json") -> httpx.Response:
        return await town.http.post(f"{town.api}/graphql", json={"query": query}, headers={"accept": accept})

    refused = [
        await ask(query)
        for query in (
            "{ __schema { types { name } } }",
            '{ __type(name: "Meter") { name } }',
            'mutation { topUpCancel(input: {topUpId: "t"}) { replayed } }',
            "mutation { thereIsNoSuchThing(x: 1) { y } }",
            "{ thereIsNoSuchThing { y } }",
            "subscription { meterUpdated(meterId: 1) { id } }",
        )
    ]
    assert {(one.status_code, one.text) for one in refused} == {(401, refused[0].text)}
    for there, not_there in (
        ("{ viewer { phone } }", "{ viewer { nothing } }"),
        ('{ node(id: "x") { id } }', "{ node { nothing } }"),
        ("{ ...F } fragment F on Query { viewer { ...G } } fragment G on Viewer { id }",
         "{ ...F } fragment F on Query { viewer { ...G } } fragment G on Nothing { nothing }"),
        ("query($a: ID!) { viewer { meter(id: $a) { id } } }", "query($a: No!) { viewer { meter(id: $a) { x } } }"),
    ):  # fmt: skip
        assert (await ask(there)).json()["data"] == (await ask(not_there)).json()["data"]
    wrong = [
        (await ask(query)).text
        for query in (
            "mutation { signInStart(input: {phon: 1}) { sent } }",
            "mutation { signInStart(input: {phone: 1}) { nothing } }",
        )
    ]
    assert len(set(wrong)) == 1
    assert "signIn" not in wrong[0]


@pytest.mark.parametrize("introspection", [False, True])
def test_introspection_is_for_those_signed_in_where_it_is_on(introspection: bool) -> None:
    query = "{ __schema { queryType { name } } }"
    found = prepare(CORE, query, stranger=False, introspection=introspection)
    assert bool(found.errors) is not introspection
    assert prepare(CORE, query, stranger=True, introspection=introspection).errors
    endless = "{ __schema { types { fields { type { fields { type { fields { type { fields { name } } } } } } } } } }"
    assert prepare(CORE, endless, stranger=False, introspection=True).errors


async def test_healthz_answers_during_attacks(town: Town) -> None:
    headers = {"authorization": f"Bearer {town.home.token}", "content-type": "application/json"}
    bodies = [json.dumps({"query": query}).encode() for query in TOO_LARGE.values()]
    bodies += [b"[" * 60_000, b'{"query": "' + b"{viewer" * 8_000 + b'"}', b"\xff" * 60_000, b"null"]
    deep = b"[" * 20_000 + b"]" * 20_000
    bodies.append(b'{"query": "query($v: [Int]) { viewer { id } }", "variables": {"v": ' + deep + b"}}")

    async def attack(body: bytes) -> int:
        return (await town.http.post(f"{town.api}/graphql", content=body, headers=headers)).status_code

    attacks = [asyncio.create_task(attack(body)) for body in bodies * 5]
    alive = 0
    while not all(one.done() for one in attacks):
        assert (await town.http.get(f"{town.api}/healthz")).status_code == 200
        alive += 1
    assert alive > 1
    assert all(200 <= one.result() < 500 for one in attacks)


async def test_g8_subscriptions_are_capped_for_each_customer_over_all_their_connections(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_STREAMS", 2)
    query = {
        "query": "subscription($i: ID!) { meterUpdated(meterId: $i) { id } }",
        "variables": {"i": town.home.meter_id},
    }
    async with await opened(town, town.home.token) as one, await opened(town, town.home.token) as other:
        for socket in (one, other):
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": query}))
            assert json.loads(await socket.recv())["type"] == "next"
        await other.send(json.dumps({"id": "2", "type": "subscribe", "payload": query}))
        assert "RATE_LIMITED" in await other.recv()
        await one.send(json.dumps({"id": "1", "type": "complete"}))

        async def free() -> bool:
            await other.send(json.dumps({"id": "3", "type": "subscribe", "payload": query}))
            return bool(json.loads(await other.recv())["type"] == "next")

        await until(free)


async def test_g6_what_a_stranger_left_out_is_not_run_and_nothing_is_told_of_variables(town: Town) -> None:
    async def ask(query: str, name: str | None = None, **variables: Any) -> dict[str, Any]:
        body = {"query": query, "variables": variables, "operationName": name}
        answer: dict[str, Any] = (await town.http.post(f"{town.api}/graphql", json=body)).json()
        answer.pop("extensions", None)
        return answer

    start = 'signInStart(input: {phone: "+254711000222"}) { sent }'
    for query in (
        f"mutation {{ ... @include(if: false) {{ {start} }} }}",
        f"mutation {{ ...F @skip(if: true) }} fragment F on Mutation {{ {start} }}",
        "{ ...Missing }",
        "query @nothing { appConfig { languages } }",
    ):
        assert "data" not in await ask(query), query
    assert (await ask("{ viewer @skip(if: true) { id } appConfig { __typename } }"))["data"] == {
        "appConfig": {"__typename": "AppConfig"}
    }
    both = "query A { x: appConfig { __typename } } query B { x: viewer { id } }"
    assert (await ask(both, "A"))["data"] == {"x": {"__typename": "AppConfig"}}
    assert (await ask(both, "B"))["data"] == {"x": None}
    typed = "mutation($i: SignInStartInput!) { signInStart(input: $i) { sent } }"
    wrong = [await ask(typed, i={"phne": "x"}), await ask(typed, i={"phone": 5}), await ask(typed)]
    assert wrong[0] == wrong[1] == wrong[2]
    assert "phone" not in json.dumps(wrong)


async def test_g1_half_a_surrogate_pair_is_a_400_wherever_it_stands(town: Town) -> None:
    headers = {"authorization": f"Bearer {town.home.token}", "content-type": "application/json"}
    for body in (
        '{"query": "{ viewer { id } } # \\ud800"}',
        '{"query": "{ viewer { id } }", "operationName": "\\ud800"}',
        '{"query": "query($r: HouseholdRole) { viewer { id } }", "variables": {"r": "\\udfff"}}',
        '{"query": "{ viewer { id } }", "variables": {"\\ud800": 1}}',
    ):
        response = await town.http.post(f"{town.api}/graphql", content=body, headers=headers)
        assert response.status_code == 400, body
    paired = '{"query": "{ viewer { id } } # \\ud83d\\udca7"}'
    assert (await town.http.post(f"{town.api}/graphql", content=paired, headers=headers)).status_code == 200


async def test_live_events_are_paid_for_and_wait_where_there_is_not_enough(town: Town) -> None:
    context = SimpleNamespace(payer="x", services=SimpleNamespace(budgets=Budgets(100, 10_000)))
    guard._priced.set(guard.Price(points=90, each=0))
    await guard.pay_for_event(cast("Any", context))
    assert context.services.budgets.take("x", 0) < 100
    await guard.pay_for_event(cast("Any", context))
