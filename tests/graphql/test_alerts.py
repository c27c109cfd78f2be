"""Alerts as a household reads them: each member for themselves, and nobody else's."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from sqlalchemy import delete, event, select, update

from standpipe.app import make_signer
from standpipe.households.models import Customer, Household, Membership
from standpipe.households.tokens import AUDIENCE, ISSUER
from standpipe.meters.models import Meter
from standpipe.notifications.alerts import raise_once
from standpipe.notifications.models import Alert, AlertKind
from standpipe.platform.ids import new_id
from standpipe.tariffs.models import SupplyTerms
from tests.support.sockets import opened, subscribe
from tests.support.town import Home, Town, make_home

pytestmark = pytest.mark.calendar

PAGE = """query($m: ID!, $n: Int!, $a: String, $u: Boolean! = false) { node(id: $m) { ... on Meter {
    alerts(first: $n, after: $a, unreadOnly: $u) { unreadCount pageInfo { hasNextPage hasPreviousPage endCursor }
        edges { cursor } nodes { id kind title body raisedAt clearedAt readAt
            deliveries { channel status } meter { id } }
} } } }"""
ALL = """query { viewer { meters { nodes { alerts(first: 2) {
    unreadCount nodes { id title deliveries { status } } } } } } }"""
NODE = "query($i: ID!) { node(id: $i) { __typename ... on Alert { id readAt } } }"
MARK = """mutation($i: [ID!]!) { alertsMarkRead(input: {alertIds: $i}) {
    alerts { id readAt } userErrors { __typename code field message retryable } } }"""
RAISED = "subscription { alertRaised { id kind meter { id } } }"


async def tell(town: Town, key: str = "", *, home: Home | None = None, **more: Any) -> str:
    """One more alert; its id."""
    meter_id, key = (home or town.home).meter_id, key or new_id("key")
    values: dict[str, Any] = {"kind": AlertKind.TOP_UP, "now": town.now()} | more
    params = {"label": "Home", "credit_minor": 1_200, "currency": "KES", "days_left": 2}
    async with town.sessions.begin() as session:
        await raise_once(session, meter_id=meter_id, business_key=key, params=params, **values)
    async with town.sessions() as session:
        return str(await session.scalar(select(Alert.id).where(Alert.business_key == key)))


async def page(town: Town, first: int = 20, token: str | None = None, **more: Any) -> dict[str, Any]:
    answer = await town.gql(PAGE, token, m=more.pop("meter_id", town.home.meter_id), n=first, **more)
    assert "errors" not in answer, answer
    found: dict[str, Any] = answer["data"]["node"]["alerts"]
    return found


async def second_member(town: Town, home: Home | None = None) -> Home:
    """Somebody else of the same household."""
    at, customer = home or town.home, Customer(id=new_id("cus"), phone=f"+2547{new_id('x')[-8:]}")
    async with town.sessions.begin() as session:
        session.add(customer)
        await session.flush()
        session.add(Membership(household_id=at.household_id, customer_id=customer.id, role="VIEWER"))
    token = make_signer(town.settings).issue(customer.id)
    return Home(customer.id, at.household_id, at.meter_id, at.serial, token)


async def stranger(town: Town) -> Home:
    return await make_home(
        *(town.sessions, town.settings, town.utility_id, town.tariff_id),
        installed_at=town.now() - timedelta(days=40),
        zone="Africa/Nairobi",
    )


async def move_in(town: Town, days_ago: int) -> None:
    """Others lived with the meter until some days ago."""
    today = town.today()
    async with town.sessions.begin() as session:
        other = Household(id=new_id("hh"), utility_id=town.utility_id, name="Before")
        session.add(other)
        await session.flush()
        for ago, household_id in ((40, other.id), (days_ago, town.home.household_id)):
            session.add(
                SupplyTerms(
                    meter_id=town.home.meter_id, from_day=today - timedelta(days=ago), tariff_id=town.tariff_id,
                    household_id=household_id, groups=[],
                )
            )  # fmt: skip


@contextmanager
def statements(town: Town) -> Iterator[list[str]]:
    heard: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        heard.append(statement)

    engine = town.sessions.kw["bind"].sync_engine
    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(engine, "before_cursor_execute", hear)


async def test_alerts_come_newest_first_page_by_page(town: Town) -> None:
    told = [await tell(town) for _ in range(5)]
    first = await page(town, 2)
    assert [alert["id"] for alert in first["nodes"]] == [told[4], told[3]]
    assert (first["pageInfo"]["hasNextPage"], first["unreadCount"]) == (True, 5)
    # One more comes between two pages: it moves nothing.
    await tell(town)
    rest = await page(town, 3, a=first["pageInfo"]["endCursor"])
    assert [alert["id"] for alert in rest["nodes"]] == [told[2], told[1], told[0]]
    assert rest["pageInfo"]["hasNextPage"] is False
    assert first["nodes"][0]["title"] == "Credit is on your meter"
    assert first["nodes"][0]["meter"]["id"] == town.home.meter_id


async def test_n9_an_alert_is_worded_in_the_readers_language(town: Town) -> None:
    alert_id = await tell(town, kind=AlertKind.LEAK)
    body = {"query": NODE.replace("readAt", "title"), "variables": {"i": alert_id}}
    for language, title in (("sw", "Mita inaona uvujaji"), ("fr-CI", "Votre compteur signale une fuite")):
        headers = {"authorization": f"Bearer {town.home.token}", "accept-language": language}
        answer = (await town.http.post(f"{town.api}/graphql", json=body, headers=headers)).json()
        assert answer["data"]["node"]["title"] == title


async def test_each_member_reads_for_themselves_and_sees_their_own_deliveries(town: Town) -> None:
    other = await second_member(town)
    alert_id = await tell(town)
    marked = (await town.gql(MARK, i=[alert_id]))["data"]["alertsMarkRead"]
    assert marked["userErrors"] == []
    first_time = marked["alerts"][0]["readAt"]
    assert first_time is not None
    again = (await town.gql(MARK, i=[alert_id, alert_id]))["data"]["alertsMarkRead"]
    assert [alert["readAt"] for alert in again["alerts"]] == [first_time]
    mine, theirs = await page(town), await page(town, token=other.token)
    assert (mine["unreadCount"], theirs["unreadCount"]) == (0, 1)
    assert (mine["nodes"][0]["readAt"], theirs["nodes"][0]["readAt"]) == (first_time, None)
    # The alert went to both; each sees the one delivery that is theirs.
    assert [len(seen["nodes"][0]["deliveries"]) for seen in (mine, theirs)] == [1, 1]
    assert mine["nodes"][0]["deliveries"] == [{"channel": "PUSH", "status": "SUPPRESSED"}]
    assert (await page(town, u=True))["nodes"] == []
    assert len((await page(town, u=True, token=other.token))["nodes"]) == 1


async def test_g7_anothers_alert_is_like_one_that_is_not_there(town: Town) -> None:
    other = await stranger(town)
    own, alert_id = await tell(town), await tell(town, home=other)
    for wanted in (alert_id, new_id("alr"), "alr_nothing", "x\0"):
        assert (await town.gql(NODE, i=wanted))["data"]["node"] is None
        payload = (await town.gql(MARK, i=[own, wanted]))["data"]["alertsMarkRead"]
        assert [alert["id"] for alert in payload["alerts"]] == [own]
        error = {"code": "NOT_FOUND", "field": None, "message": "Not found.", "retryable": False}
        assert payload["userErrors"] == [{"__typename": "InputError"} | error]
    assert (await page(town, token=other.token, meter_id=other.meter_id))["nodes"][0]["readAt"] is None
    # A cursor names a place, not a row: another's alert opens nothing.
    assert [alert["id"] for alert in (await page(town, a=alert_id))["nodes"]] == [own]


async def test_g7_who_leaves_a_household_sees_no_more_of_its_alerts(town: Town) -> None:
    other = await second_member(town)
    alert_id = await tell(town)
    assert (await town.gql(NODE, other.token, i=alert_id))["data"]["node"]["id"] == alert_id
    async with town.sessions.begin() as session:
        await session.execute(delete(Membership).where(Membership.customer_id == other.customer_id))
    assert (await town.gql(NODE, other.token, i=alert_id))["data"]["node"] is None
    assert (await town.gql(MARK, other.token, i=[alert_id]))["data"]["alertsMarkRead"]["alerts"] == []


async def test_g7_alerts_from_before_the_household_moved_in_are_hidden(town: Town) -> None:
    before = await tell(town, now=town.now() - timedelta(days=9))
    assert len((await page(town))["nodes"]) == 1
    await move_in(town, days_ago=5)
    empty = await page(town)
    assert (empty["nodes"], empty["unreadCount"], empty["pageInfo"]["hasNextPage"]) == ([], 0, False)
    assert (await town.gql(NODE, i=before))["data"]["node"] is None
    assert (await town.gql(MARK, i=[before]))["data"]["alertsMarkRead"]["alerts"] == []
    since = await tell(town)
    assert [alert["id"] for alert in (await page(town))["nodes"]] == [since]


async def test_g7_signed_out_there_are_no_alerts(town: Town) -> None:
    alert_id = await tell(town)
    assert (await town.gql(NODE, "", i=alert_id))["data"]["node"] is None
    assert (await town.gql(MARK, "", i=[alert_id]))["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_g3_page_sizes_cursors_and_batches_are_bounded(town: Town) -> None:
    for first, after in ((0, None), (101, None), (-1, None), (10, "top_1"), (10, "alr_" + "u" * 26)):
        answer = await town.gql(PAGE, m=town.home.meter_id, n=first, a=after)
        assert answer["errors"][0]["extensions"]["code"] == "INVALID"
    payload = (await town.gql(MARK, i=[new_id("alr") for _ in range(101)]))["data"]["alertsMarkRead"]
    assert [(error["code"], error["field"]) for error in payload["userErrors"]] == [("INVALID", ["alertIds"])]
    assert (await town.gql(MARK, i=[]))["data"]["alertsMarkRead"] == {"alerts": [], "userErrors": []}


async def test_many_meters_alerts_cost_as_many_statements_as_one_meters(town: Town) -> None:
    await tell(town)
    # Once before: what is read for good at first sight is no part of it.
    await town.gql(ALL)
    with statements(town) as of_one:
        await town.gql(ALL)
    async with town.sessions.begin() as session:
        one = await session.get_one(Meter, town.home.meter_id)
        for number in range(4):
            session.add(
                Meter(
                    id=new_id("mtr"), serial=f"MANY{number}", label="More", utility_id=one.utility_id,
                    household_id=one.household_id, tariff_id=one.tariff_id, wallet_kind="MONEY", currency="KES",
                    time_zone=one.time_zone, installed_at=one.installed_at,
                )
            )  # fmt: skip
    await move_in(town, days_ago=5)
    for meter_id in await meter_ids(town):
        for _ in range(3):
            await tell(town, home=Home("", "", meter_id, "", ""))
    with statements(town) as of_many:
        answer = await town.gql(ALL)
    found = answer["data"]["viewer"]["meters"]["nodes"]
    assert [(len(meter["alerts"]["nodes"]), meter["alerts"]["unreadCount"]) for meter in found].count((2, 3)) == 4
    assert len(of_many) == len(of_one)


async def meter_ids(town: Town) -> list[str]:
    async with town.sessions() as session:
        return list(await session.scalars(select(Meter.id)))


async def test_a_kind_of_a_newer_release_breaks_no_answer(town: Town) -> None:
    await tell(town)
    async with town.sessions.begin() as session:
        await session.execute(update(Alert).values(kind="FLOOD"))
    (alert,) = (await page(town))["nodes"]
    assert (alert["kind"], alert["title"]) == ("OTHER", "Standpipe")


async def next_alert(socket: Any) -> str:
    message = json.loads(await socket.recv())
    assert message["type"] == "next", message
    return str(message["payload"]["data"]["alertRaised"]["id"])


async def test_alert_raised_begins_with_what_waits_and_goes_on_with_what_comes(town: Town) -> None:
    other = await stranger(town)
    older, waiting = await tell(town), await tell(town)
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, RAISED, "")
        assert await next_alert(socket) == waiting
        await tell(town, home=other)
        fresh = [await tell(town), await tell(town, kind=AlertKind.LEAK)]
        assert [await next_alert(socket), await next_alert(socket)] == fresh
    # What was read, and what is over, is not said again.
    async with town.sessions.begin() as session:
        await session.execute(update(Alert).where(Alert.id.in_(fresh)).values(cleared_at=datetime.now(UTC)))
    await town.gql(MARK, i=[waiting])
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, RAISED, "")
        assert await next_alert(socket) == older


async def test_g7_alert_raised_says_nothing_of_those_who_lived_there_before(town: Town) -> None:
    await tell(town, now=town.now() - timedelta(days=9))
    await move_in(town, days_ago=5)
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, RAISED, "")
        await tell(town, now=town.now() - timedelta(days=8))
        fresh = await tell(town)
        assert await next_alert(socket) == fresh


async def test_g7_alert_raised_is_silent_once_the_listener_has_left(town: Town) -> None:
    other = await second_member(town)
    mine = await stranger(town)
    async with town.sessions.begin() as session:
        session.add(Membership(household_id=mine.household_id, customer_id=other.customer_id, role="VIEWER"))
    first = await tell(town)
    async with await opened(town, other.token) as socket:
        await subscribe(socket, RAISED, "")
        assert await next_alert(socket) == first
        async with town.sessions.begin() as session:
            left = (Membership.customer_id == other.customer_id, Membership.household_id == town.home.household_id)
            await session.execute(delete(Membership).where(*left))
        await tell(town)
        seen = await tell(town, home=mine)
        assert await next_alert(socket) == seen


async def test_g8_alert_raised_needs_a_sign_in_and_ends_with_it(town: Town) -> None:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": town.home.customer_id, "iat": now, "exp": now + 2}
    await tell(town)
    async with await opened(town, jwt.encode(claims, "t" * 40)) as socket:
        await subscribe(socket, RAISED, "")
        assert json.loads(await socket.recv())["type"] == "next"
        assert json.loads(await socket.recv())["type"] == "complete"


async def test_an_alert_that_commits_after_a_younger_one_is_not_lost(town: Town) -> None:
    """Ids are made before transactions commit: the order of ids is not the order in which they are seen."""
    first = await tell(town)
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, RAISED, "")
        assert await next_alert(socket) == first
        async with town.sessions() as slow:
            values = {"meter_id": town.home.meter_id, "kind": AlertKind.TOP_UP, "params": {}, "now": town.now()}
            await raise_once(slow, business_key="slow", **values)
            assert await next_alert_after(socket, await tell(town))
            await slow.commit()
        late = await next_alert(socket)
    async with town.sessions() as session:
        assert (await session.get_one(Alert, late)).business_key == "slow"


async def next_alert_after(socket: Any, alert_id: str) -> bool:
    return await next_alert(socket) == alert_id


async def test_each_event_is_read_anew(town: Town) -> None:
    counts = "subscription { alertRaised { id meter { alerts(first: 1) { unreadCount nodes { id } } } } }"
    async with await opened(town, town.home.token) as socket:
        await subscribe(socket, counts, "")
        for number in range(1, 4):
            alert_id = await tell(town)
            seen = json.loads(await socket.recv())["payload"]["data"]["alertRaised"]
            assert (seen["id"], seen["meter"]["alerts"]["nodes"]) == (alert_id, [{"id": alert_id}])
            assert seen["meter"]["alerts"]["unreadCount"] == number
