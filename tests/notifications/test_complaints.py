"""What a meter complains of is told once, and stands as long as the meter says so."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from standpipe.meters.reports import Condition, ConditionKind, MeterReport
from standpipe.notifications.models import Alert
from standpipe.outbox.facts import read
from standpipe.outbox.models import OutboxFact
from standpipe.platform.clock import Clock
from standpipe.reactions import load_meters, react
from tests.support.rating import take_report
from tests.support.town import Town

ALERTS = """query($m: ID!) { node(id: $m) { ... on Meter {
    alerts(first: 20) { nodes { kind title body raisedAt clearedAt } } } } }"""
LEAK, SUSPECTED = ConditionKind.LEAK, ConditionKind.LEAK_SUSPECTED


async def say(town: Town, hours_ago: float, kind: ConditionKind = LEAK, *, is_raised: bool) -> None:
    now = datetime.now(UTC)
    condition = Condition(kind, now - timedelta(hours=hours_ago), is_raised=is_raised)
    async with town.sessions.begin() as session:
        await take_report(session, MeterReport(town.home.meter_id, now, conditions=(condition,)), now)


async def alerts(town: Town) -> list[dict[str, str | None]]:
    answer = await town.gql(ALERTS, m=town.home.meter_id)
    found: list[dict[str, str | None]] = answer["data"]["node"]["alerts"]["nodes"]
    return found


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (ConditionKind.LEAK, "LEAK"),
        (ConditionKind.LEAK_SUSPECTED, "LEAK"),
        (ConditionKind.TAMPER, "TAMPER"),
        (ConditionKind.LOW_BATTERY, "BATTERY"),
        (ConditionKind.REVERSE_FLOW, None),
        (ConditionKind.EMPTY_PIPE, None),
        (ConditionKind.BLOCKED, None),
    ],
)
async def test_a_complaint_becomes_an_alert_and_its_end_clears_it(
    town: Town, told: ConditionKind, kind: str | None
) -> None:
    await say(town, 3, told, is_raised=True)
    await town.drain()
    await say(town, 2, told, is_raised=True)
    await town.drain()
    seen = await alerts(town)
    assert [(alert["kind"], alert["clearedAt"]) for alert in seen] == ([(kind, None)] if kind else [])
    assert all("Home" in (alert["body"] or "") and alert["title"] != "Standpipe" for alert in seen)
    await say(town, 1, told, is_raised=False)
    await town.drain()
    assert all(alert["clearedAt"] for alert in await alerts(town))


async def test_two_complaints_of_one_leak_are_one_alert_that_stands_until_both_end(town: Town) -> None:
    await say(town, 9, SUSPECTED, is_raised=True)
    await say(town, 8, is_raised=True)
    await town.drain()
    await say(town, 7, is_raised=False)
    await town.drain()
    assert [alert["clearedAt"] for alert in await alerts(town)] == [None]
    await say(town, 6, SUSPECTED, is_raised=False)
    await town.drain()
    assert [alert["clearedAt"] is None for alert in await alerts(town)] == [False]


async def test_n1_a_complaint_that_comes_and_goes_is_told_once_a_day(town: Town) -> None:
    for hours in range(20, 1, -1):
        await say(town, hours, is_raised=hours % 2 == 0)
        await town.drain()
    assert [alert["clearedAt"] for alert in await alerts(town)] == [None]


async def test_what_comes_back_after_a_day_is_told_anew(town: Town) -> None:
    for hours, is_raised in ((60, True), (50, False), (10, True)):
        await say(town, hours, is_raised=is_raised)
        await town.drain()
    assert [alert["clearedAt"] is None for alert in await alerts(town)] == [True, False]


async def test_a_complaint_that_was_over_before_we_looked_is_kept_and_cleared(town: Town) -> None:
    await say(town, 60, is_raised=True)
    await say(town, 50, is_raised=False)
    await say(town, 2, is_raised=True)
    await town.drain()
    assert [alert["clearedAt"] is None for alert in await alerts(town)] == [True, False]
    async with town.sessions() as session:
        assert len(set(await session.scalars(select(Alert.business_key)))) == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2, 0, 1), (2, 0, 1, 2)])
async def test_facts_in_any_order_and_twice_end_at_what_the_meter_says(town: Town, order: tuple[int, ...]) -> None:
    """A worker may die before a fact is ticked off, and another be faster with a later one."""
    for hours, is_raised in ((60, True), (50, False), (2, True)):
        await say(town, hours, is_raised=is_raised)
    async with town.sessions() as session:
        facts = [read(row) for row in await session.scalars(select(OutboxFact).order_by(OutboxFact.id))]
    for number in order:
        async with town.sessions.begin() as session:
            fact = facts[number]
            await react(session, fact, await load_meters(session, [fact], Clock().now(), timedelta(hours=26)))
    seen = await alerts(town)
    assert [alert["clearedAt"] is None for alert in seen].count(True) == 1
    assert max(seen, key=lambda alert: alert["raisedAt"] or "")["clearedAt"] is None
