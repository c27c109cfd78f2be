"""The queue of ratings: marks, claims, leases and turns."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from standpipe.meters import due
from standpipe.platform.database import Sessions
from tests.support.town import make_home, make_settings, make_utility

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CALM = "UPDATE meter_due SET marked_at = NULL, due_next_at = NULL, lease_until = NULL, attempts = 0"


@pytest.fixture
async def meters(sessions: Sessions) -> list[str]:
    """Twelve of them, in order of id, of which none is due."""
    utility_id, tariff_id = await make_utility(sessions)
    homes = [
        await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=NOW, zone="Africa/Nairobi")
        for _ in range(12)
    ]
    await run(sessions, CALM)
    return sorted(home.meter_id for home in homes)


async def run(sessions: Sessions, sql: str, **values: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(text(sql), values)


async def mark(sessions: Sessions, meter_ids: Sequence[str], **more: Any) -> None:
    async with sessions.begin() as session:
        await due.mark_due(await session.connection(), meter_ids, **more)


async def claim(sessions: Sessions, most: int = 200, now: datetime = NOW) -> list[due.Claimed]:
    async with sessions.begin() as session:
        return await due.claim(await session.connection(), now, most=most)


async def finish(sessions: Sessions, claimed: Sequence[due.Claimed], next_at: datetime | None = None) -> None:
    async with sessions.begin() as session:
        rated = [due.Finished(one.meter_id, one.marks, next_at, None, None, 0) for one in claimed]
        await due.finish(await session.connection(), rated, NOW)


async def row(sessions: Sessions, meter_id: str) -> due.MeterDue:
    async with sessions() as session:
        return await session.get_one(due.MeterDue, meter_id)


async def test_a_new_meter_is_due(sessions: Sessions) -> None:
    utility_id, tariff_id = await make_utility(sessions)
    home = await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=NOW, zone="Africa/Nairobi")
    assert [one.meter_id for one in await claim(sessions)] == [home.meter_id]


async def test_what_is_claimed_is_nobody_elses_until_the_lease_ends(sessions: Sessions, meters: list[str]) -> None:
    await mark(sessions, meters[:3])
    first, second = await claim(sessions, 2), await claim(sessions, 2)
    assert {one.meter_id for one in (*first, *second)} == set(meters[:3])
    assert (len(first), len(second)) == (2, 1)
    assert await claim(sessions) == []
    await run(sessions, "UPDATE meter_due SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL")
    again = await claim(sessions)
    assert {one.meter_id: one.attempts for one in again} == dict.fromkeys(meters[:3], 2)


async def test_a_mark_that_comes_meanwhile_is_not_lost(sessions: Sessions, meters: list[str]) -> None:
    await mark(sessions, meters[:2])
    claimed = await claim(sessions)
    await mark(sessions, [meters[0], meters[0]])
    await finish(sessions, claimed, NOW + timedelta(days=1))
    assert [one.meter_id for one in await claim(sessions)] == [meters[0]]
    assert (await row(sessions, meters[1])).marked_at is None


async def test_an_instant_makes_a_meter_due_by_itself(sessions: Sessions, meters: list[str]) -> None:
    await mark(sessions, meters[:1])
    await finish(sessions, await claim(sessions), NOW + timedelta(hours=1))
    assert await claim(sessions, now=NOW + timedelta(minutes=59)) == []
    assert [one.meter_id for one in await claim(sessions, now=NOW + timedelta(hours=1))] == meters[:1]


async def test_the_earliest_day_to_price_anew_stands_until_it_is_rated(sessions: Sessions, meters: list[str]) -> None:
    for day in (date(2026, 5, 3), None, date(2026, 4, 2), date(2026, 6, 1)):
        await mark(sessions, meters[:1], reprice_from=day)
    claimed = await claim(sessions)
    assert (await row(sessions, meters[0])).reprice_from == date(2026, 4, 2)
    await mark(sessions, meters[:1], reprice_from=date(2026, 5, 1))
    await finish(sessions, claimed)
    assert (await row(sessions, meters[0])).reprice_from == date(2026, 4, 2)
    await finish(sessions, await claim(sessions))
    assert (await row(sessions, meters[0])).reprice_from is None


async def test_many_marks_at_once_keep_no_fresh_one_and_no_instant_waiting(
    sessions: Sessions, meters: list[str]
) -> None:
    for number, meter_id in enumerate(meters):
        await run(
            sessions,
            "UPDATE meter_due SET marked_at = now() - make_interval(mins => :age) WHERE meter_id = :meter_id",
            age=100 - number, meter_id=meter_id,
        )  # fmt: skip
    await run(
        sessions,
        "UPDATE meter_due SET marked_at = NULL, due_next_at = :at WHERE meter_id = :meter_id",
        at=NOW, meter_id=meters[5],
    )  # fmt: skip
    claimed = {one.meter_id for one in await claim(sessions, 4)}
    # Half for the oldest, a quarter for the newest, a quarter for those whose instant has come.
    assert claimed == {meters[0], meters[1], meters[11], meters[5]}
    assert {one.meter_id for one in await claim(sessions, 4)} == {meters[2], meters[3], meters[4], meters[10]}


async def test_who_is_busy_loses_no_try_and_who_fails_rests_with_a_reason(
    sessions: Sessions, meters: list[str]
) -> None:
    await mark(sessions, meters[:2])
    await claim(sessions)
    async with sessions.begin() as session:
        conn = await session.connection()
        await due.give_back(conn, meters[:1])
        await due.set_aside(conn, meters[1], "ValueError: a \0 value", pause=timedelta(minutes=5))
    busy, failed = await row(sessions, meters[0]), await row(sessions, meters[1])
    assert (busy.attempts, failed.attempts, busy.last_error) == (0, 1, None)
    assert failed.last_error == "ValueError: a \N{REPLACEMENT CHARACTER} value"
    assert await claim(sessions) == []
    await run(sessions, "UPDATE meter_due SET lease_until = now() - interval '1 second'")
    await finish(sessions, await claim(sessions))
    assert (await row(sessions, meters[1])).last_error is None
