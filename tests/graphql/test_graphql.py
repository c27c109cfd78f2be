"""GraphQL through its door: who may see what, what it costs the database, and what it says when things go wrong."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from sqlalchemy import event as sqlalchemy_event

from standpipe.graphql.snapshot import current, problems
from standpipe.households.tokens import AUDIENCE, ISSUER
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.ids import new_id
from standpipe.tariffs.models import TariffVersion
from standpipe_demo.simulator.fake_stripe import event
from tests.support.rating import take_report
from tests.support.sockets import first_of_subscription
from tests.support.town import BLOCKS, Town, make_home

pytestmark = pytest.mark.calendar

HOME = """
query Home($from: Date!, $to: Date!) { viewer { phone language meters(first: 20) {
  edges { cursor role } pageInfo { hasNextPage }
  nodes { id serial label timeZone connectivity { online lastSeenAt batteryPercent }
    balance { ledger { amount currency display } onMeter { display } onMeterAsOf inFlight { display }
      usedSinceReport { display } lasts { daysLow daysLikely daysHigh emptyOn litresLeft { litres } } }
    valve { state reason changedAt pending }
    tariff { id name effectiveFrom currentTier periodEndsOn toNextTier { litres } usedThisPeriod { litres }
      next { id } tiers { index from { litres } to { litres } pricePerKilolitre { amount } free } }
    usage(from: $from, to: $to, interval: DAY) { total { litres } totalCost { amount } compact { start litres cost }
      buckets { start end volume { display } cost { display } tiers { tier } quality } }
    topUpMethods { id kind label minimum { display } maximum { display } phoneRequired }
    topUps(first: 10) { nodes { id status statusText terminal pay { display } credit { display } pollAfterMs
      meter { id label } nextAction { instructions } failure { code } timeline { status at } }
      pageInfo { endCursor } } }
} } }
"""
DAYS = {"from": "2026-03-01", "to": "2026-04-01"}


async def water(town: Town, meter_id: str, hours: int = 24 * 30) -> None:
    """Water, hour by hour, up to now."""
    now = town.now()
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    readings = tuple(RegisterReading(start + timedelta(hours=n), 10_000 * n) for n in range(hours))
    async with town.sessions.begin() as session:
        await take_report(session, MeterReport(meter_id, now, readings), now)


async def add_meter(town: Town, label: str) -> str:
    """A further meter for the household."""
    async with town.sessions.begin() as session:
        first = await session.get_one(Meter, town.home.meter_id)
        meter = Meter(
            id=new_id("mtr"),
            serial=new_id("s"),
            label=label,
            utility_id=first.utility_id,
            household_id=first.household_id,
            tariff_id=first.tariff_id,
            wallet_kind="MONEY",
            currency="KES",
            time_zone=first.time_zone,
            installed_at=first.installed_at,
        )
        session.add(meter)
    return meter.id


async def statements_of_home_screen(town: Town) -> int:
    counted: list[str] = []

    def count(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        counted.append(statement)

    engine = town.sessions.kw["bind"].sync_engine
    sqlalchemy_event.listen(engine, "before_cursor_execute", count)
    try:
        answer = await town.gql(HOME, **DAYS)
    finally:
        sqlalchemy_event.remove(engine, "before_cursor_execute", count)
    assert "errors" not in answer, answer
    return len(counted)


async def test_the_home_screen_takes_the_same_statements_for_one_meter_and_for_six(town: Town) -> None:
    await water(town, town.home.meter_id)
    await town.pay_by_card()
    one = await statements_of_home_screen(town)
    for number in range(5):
        await water(town, await add_meter(town, f"M{number}"), 24 * 10)
    assert await statements_of_home_screen(town) == one
    assert one <= 11  # The first one asks whether the sign-in still lives.


async def test_the_three_balances_stand_apart(town: Town) -> None:
    await water(town, town.home.meter_id)
    top_up_id, intent = await town.pay_by_card("900.00")
    await town.tell(event("payment_intent.succeeded", intent))
    await town.drain()
    answer = await town.gql(HOME, **DAYS)
    [meter] = answer["data"]["viewer"]["meters"]["nodes"]
    balance = meter["balance"]
    # The meter has never spoken: what it holds is unknown, not zero.
    assert balance["onMeter"] is None
    assert balance["usedSinceReport"] is None
    assert balance["inFlight"]["display"] == "KES900.00"
    assert balance["ledger"]["amount"] == f"{await town.wallet() / 100:.2f}"
    assert balance["lasts"]["daysLow"] <= balance["lasts"]["daysLikely"] <= balance["lasts"]["daysHigh"]
    [top_up] = meter["topUps"]["nodes"]
    assert top_up["id"] == top_up_id
    assert top_up["meter"]["id"] == meter["id"]
    assert [step["status"] for step in top_up["timeline"]] == ["CREATED", "AWAITING_CUSTOMER", "PAID"]


async def test_there_is_no_forecast_under_a_week_of_use(town: Town) -> None:
    await water(town, town.home.meter_id, 24 * 5)
    answer = await town.gql(HOME, **DAYS)
    assert answer["data"]["viewer"]["meters"]["nodes"][0]["balance"]["lasts"] is None


async def test_g7_anothers_ids_are_answered_like_absent_ones(town: Town) -> None:
    stranger = await make_home(
        town.sessions, town.settings, town.utility_id, town.tariff_id, installed_at=datetime.now(UTC), zone="UTC"
    )
    top_up_id, _ = await town.pay_by_card()
    operations = {
        "mtr": [
            "query($i: ID!) { node(id: $i) { id } }",
            "query($i: ID!) { viewer { meter(id: $i) { id balance { ledger { amount } } } } }",
            'mutation($i: ID!) { topUpStart(input: {idempotencyKey: "k", meterId: $i, methodId: "stripe", '
            'pay: {amount: "5", currency: "KES"}}) { topUp { id } userErrors { code message field } } }',
        ],
        "top": [
            "query($i: ID!) { node(id: $i) { id ... on TopUp { status meter { id } } } }",
            "mutation($i: ID!) { topUpCancel(input: {topUpId: $i}) { topUp { id } userErrors { code message } } }",
        ],
    }
    real = {"mtr": town.home.meter_id, "top": top_up_id}
    for kind, queries in operations.items():
        for query in queries:
            mine = await town.gql(query, i=real[kind])
            anothers = await town.gql(query, token=stranger.token, i=real[kind])
            absent = await town.gql(query, token=stranger.token, i=new_id(kind))
            nonsense = await town.gql(query, token=stranger.token, i="' OR 1=1 --")
            assert anothers == absent == nonsense != mine, query
    for query in ("meterUpdated(meterId: $i) { id }", "topUpUpdated(topUpId: $i) { id }"):
        kind = "mtr" if "meterUpdated" in query else "top"
        text = "subscription($i: ID!) { " + query + " }"
        anothers = await first_of_subscription(town, stranger.token, text, real[kind])
        assert anothers == await first_of_subscription(town, stranger.token, text, new_id(kind))
        assert "errors" in anothers["payload"]


async def test_signed_out_sees_nothing(town: Town) -> None:
    assert (await town.gql("{ viewer { id } }", token=""))["data"] == {"viewer": None}
    node = await town.gql("query($i: ID!) { node(id: $i) { id } }", token="", i=town.home.meter_id)
    assert node["data"] == {"node": None}
    start = await town.gql(
        'mutation { topUpStart(input: {idempotencyKey: "k", meterId: "m", methodId: "stripe", '
        'pay: {amount: "5", currency: "KES"}}) { replayed } }',
        token="",
    )
    assert start["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("kind", ["none", "audience", "issuer", "expired", "secret", "garbage", "scheme"])
async def test_a1_tokens_that_are_none_get_401(town: Town, kind: str) -> None:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": town.home.customer_id, "iat": now, "exp": now + 60}
    secret = "t" * 40
    token = {
        "none": jwt.encode(claims, None, algorithm="none"),
        "audience": jwt.encode(claims | {"aud": "other"}, secret),
        "issuer": jwt.encode(claims | {"iss": "other"}, secret),
        "expired": jwt.encode(claims | {"exp": now - 1}, secret),
        "secret": jwt.encode(claims, "x" * 40),
        "garbage": "garbage",
        "scheme": jwt.encode(claims, secret),
    }[kind]
    scheme = "Basic" if kind == "scheme" else "Bearer"
    headers = {"authorization": f"{scheme} {token}"}
    response = await town.http.post(f"{town.api}/graphql", json={"query": "{ viewer { id } }"}, headers=headers)
    assert response.status_code == 401
    assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_pages_are_walked_by_keyset(town: Town) -> None:
    ids = [(await town.start(key=f"k{number}"))["topUp"]["id"] for number in range(5)]
    query = (
        "query($a: String) { viewer { meters(first: 1) { nodes { topUps(first: 2, after: $a) "
        "{ nodes { id } pageInfo { hasNextPage endCursor } } } } } }"
    )
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = (await town.gql(query, a=cursor))["data"]["viewer"]["meters"]["nodes"][0]["topUps"]
        seen += [node["id"] for node in page["nodes"]]
        cursor = page["pageInfo"]["endCursor"]
        assert page["pageInfo"]["hasNextPage"] is (len(seen) < 5)
        if len(seen) == 2:
            # A newer top-up comes in between: pages that are walked already do not shift.
            await town.start(key="later")
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    "query",
    [
        "{ viewer { meters(first: 0) { nodes { id } } } }",
        "{ viewer { meters(first: 101) { nodes { id } } } }",
        '{ viewer { meters(after: "x") { nodes { id } } } }',
        '{ viewer { meters { nodes { topUps(after: "1\' OR 1=1") { nodes { id } } } } } }',
        '{ viewer { meters { nodes { usage(from: "2026-01-02", to: "2026-01-01", interval: DAY) { interval } } } } }',
        '{ viewer { meters { nodes { usage(from: "2020-01-01", to: "2026-01-01", interval: HOUR) { interval } } } } }',
        '{ viewer { meters { nodes { usage(from: "0001-01-01", to: "9999-12-31", interval: MONTH) { interval } } } } }',
    ],
)
async def test_g3_sizes_cursors_and_ranges_are_bounded(town: Town, query: str) -> None:
    answer = await town.gql(query)
    assert answer["errors"][0]["extensions"]["code"] == "INVALID", answer


async def test_quotes_both_ways(town: Town) -> None:
    query = (
        "query($m: ID!, $b: QuoteBy!) { node(id: $m) { ... on Meter { quote(by: $b) { quote { pay { amount } "
        "volume { litres } lines { tier volume { litres } cost { amount } } } userErrors { code field } } } } }"
    )

    async def quote(by: dict[str, Any]) -> Any:
        return (await town.gql(query, m=town.home.meter_id, b=by))["data"]["node"]["quote"]

    # 10 m³ at 50.00 and one more at 100.00.
    money = await quote({"money": {"amount": "600.00", "currency": "KES"}})
    assert [line["tier"] for line in money["quote"]["lines"]] == [0, 1]
    assert money["quote"]["lines"][0]["cost"]["amount"] == "500.00"
    litres = await quote({"litres": "11000"})
    assert litres["quote"]["pay"]["amount"] == "600.00"
    for by, field in (
        ({"money": {"amount": "0", "currency": "KES"}}, ["by", "money", "amount"]),
        ({"money": {"amount": "5", "currency": "USD"}}, ["by", "money", "currency"]),
        ({"litres": "-1"}, ["by", "litres"]),
        ({"litres": "0.0001"}, ["by", "litres"]),
        ({"litres": "99999999999999999999"}, ["by", "litres"]),
    ):
        assert (await quote(by))["userErrors"] == [{"code": "INVALID", "field": field}]


async def test_history_by_hour_day_and_month_tells_the_same_water(town: Town) -> None:
    await water(town, town.home.meter_id)
    today = town.today()
    span = {"f": str(today - timedelta(days=20)), "t": str(today - timedelta(days=2))}
    query = (
        "query($m: ID!, $f: Date!, $t: Date!) { node(id: $m) { ... on Meter { "
        + " ".join(
            f"{name}: usage(from: $f, to: $t, interval: {name}) {{ total {{ litres }} totalCost {{ amount }} "
            "compact { litres } buckets { quality } }"
            for name in ("HOUR", "DAY", "MONTH")
        )
        + " } } }"
    )
    found = (await town.gql(query, m=town.home.meter_id, **span))["data"]["node"]
    assert {series["total"]["litres"] for series in found.values()} == {str(18 * 240)}
    assert len({series["totalCost"]["amount"] for series in found.values()}) == 1
    assert len(found["HOUR"]["buckets"]) == 18 * 24
    assert len(found["DAY"]["compact"]["litres"]) == 18
    future = {"f": str(today + timedelta(days=2)), "t": str(today + timedelta(days=9))}
    later = (await town.gql(query, m=town.home.meter_id, **future))["data"]["node"]
    assert all(series["buckets"] == [] for series in later.values())
    before = {"f": "2020-01-01", "t": "2020-01-03"}
    missing = (await town.gql(query, m=town.home.meter_id, **before))["data"]["node"]
    assert missing["DAY"]["compact"]["litres"] == [None, None]


async def test_g9_an_unexpected_failure_is_masked_and_has_an_id(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    async with town.sessions.begin() as session:
        (await session.get_one(Meter, town.home.meter_id)).time_zone = "Nowhere/Nothing"
    answer = await town.gql("{ viewer { meters { nodes { id } } } }")
    [error] = answer["errors"]
    assert error["message"] == "Something went wrong on our side."
    assert "Nowhere" not in json.dumps(answer)
    assert error["extensions"]["errorId"] in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [b"[" * 60_000, b'"text"', b"null", b"\xff\xfe", b"{", b"", b'{"query": 5}', b'{"query": "{ viewer"}',
     b'{"query": "{ nothing }"}', b'{"query": "{viewer{id}}", "variables": "x"}', b'[{"query": "{viewer{id}}"}]',
     b'{"query": "{ a }", "operationName": 7}', b'{"query": "' + b"{viewer" * 2_000 + b'"}'],
)  # fmt: skip
async def test_g1_bodies_that_are_no_request_are_4xx_or_a_clear_error(town: Town, content: bytes) -> None:
    response = await town.http.post(
        f"{town.api}/graphql", content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code < 500
    assert response.status_code != 200 or "errors" in response.json()


async def test_g1_a_body_over_64_kb_is_413_and_forms_are_refused(town: Town) -> None:
    big = json.dumps({"query": "{viewer{id}}" + " " * 70_000}).encode()
    response = await town.http.post(f"{town.api}/graphql", content=big, headers={"content-type": "application/json"})
    assert response.status_code == 413
    form = await town.http.post(f"{town.api}/graphql", data={"query": "{viewer{id}}"})
    assert form.status_code >= 400
    file = await town.http.post(f"{town.api}/graphql", files={"query": b"{viewer{id}}"})
    assert file.status_code >= 400


async def test_g5_a_mutation_by_get_is_refused(town: Town) -> None:
    query = 'mutation { deviceRemove(input: {installationId: "x"}) { userErrors { code } } }'
    headers = {"authorization": f"Bearer {town.home.token}"}
    response = await town.http.get(f"{town.api}/graphql", params={"query": query}, headers=headers)
    assert response.status_code >= 400
    ok = await town.http.get(f"{town.api}/graphql", params={"query": "{ viewer { id } }"}, headers=headers)
    assert ok.json()["data"]["viewer"]["id"] == town.home.customer_id


def test_the_snapshot_check_knows_what_breaks_an_app() -> None:
    now = current()
    field = re.compile(r'(type Meter implements Node {.*?)(?:  """[^"]*"""\n)?  walletKind: WalletKind!\n', re.DOTALL)
    without = field.sub(r"\1", now, count=1)
    assert problems(now, now) == []
    assert problems(without, now) == []
    [broken] = problems(now, without)
    assert "Meter.walletKind" in broken


async def test_an_announced_tariff_shows_and_its_date_ends_the_present_one(town: Town) -> None:
    soon = town.today() + timedelta(days=40)
    async with town.sessions.begin() as session:
        session.add(TariffVersion(id=new_id("trv"), tariff_id=town.tariff_id, effective_from=soon, blocks=BLOCKS[1:]))
    query = (
        "{ viewer { meters { nodes { tariff { effectiveTo tiers { index } next { effectiveFrom effectiveTo } } } } } }"
    )
    [meter] = (await town.gql(query))["data"]["viewer"]["meters"]["nodes"]
    assert meter["tariff"]["effectiveTo"] == str(soon - timedelta(days=1))
    assert meter["tariff"]["next"] == {"effectiveFrom": str(soon), "effectiveTo": None}
    assert len(meter["tariff"]["tiers"]) == 2
