"""What meters complain of: the last word counts, whatever order the words come in."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from standpipe.meters.field_models import MeterCondition, MeterMeasure
from standpipe.meters.reports import Condition, ConditionKind, Measure, MeasureKind, MeterReport
from standpipe.platform.database import Sessions
from tests.support.rating import take_report
from tests.support.town import Home, make_home, make_settings, make_utility

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LEAK = ConditionKind.LEAK


async def home_of(sessions: Sessions) -> Home:
    utility_id, tariff_id = await make_utility(sessions)
    since = NOW - timedelta(days=2)
    return await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=since, zone="UTC")


async def tell(sessions: Sessions, home: Home, *conditions: Condition, measures: tuple[Measure, ...] = ()) -> None:
    async with sessions.begin() as session:
        report = MeterReport(home.meter_id, NOW, conditions=conditions, measures=measures)
        await take_report(session, report, NOW)


def leak(minutes: int, *, is_raised: bool) -> Condition:
    return Condition(LEAK, NOW + timedelta(minutes=minutes), is_raised=is_raised)


async def row(sessions: Sessions) -> MeterCondition:
    async with sessions() as session:
        return (await session.scalars(select(MeterCondition))).one()


async def test_raised_and_cleared_keep_their_instants(sessions: Sessions) -> None:
    home = await home_of(sessions)
    await tell(sessions, home, leak(-60, is_raised=False), leak(-50, is_raised=True), leak(-40, is_raised=True))
    seen = await row(sessions)
    assert (seen.is_raised, seen.raised_at, seen.cleared_at) == (True, NOW - timedelta(minutes=50), None)
    await tell(sessions, home, leak(-30, is_raised=False))
    # What comes late is no news, nor is what comes twice.
    await tell(sessions, home, leak(-45, is_raised=True))
    await tell(sessions, home, leak(-30, is_raised=False))
    seen = await row(sessions)
    assert (seen.is_raised, seen.raised_at) == (False, NOW - timedelta(minutes=50))
    assert seen.cleared_at == NOW - timedelta(minutes=30)


async def test_two_sources_of_one_complaint_raise_it_where_either_does(sessions: Sessions) -> None:
    home = await home_of(sessions)
    await tell(sessions, home, leak(-5, is_raised=True), leak(-5, is_raised=False))
    assert (await row(sessions)).is_raised


async def test_t9_a_clock_ahead_does_not_make_later_words_unheard(sessions: Sessions) -> None:
    home = await home_of(sessions)
    await tell(sessions, home, leak(60 * 24 * 365, is_raised=True))
    await tell(sessions, home, leak(0, is_raised=False))
    seen = await row(sessions)
    assert (seen.is_raised, seen.told_at) == (False, NOW)


async def test_the_newest_measure_stands(sessions: Sessions) -> None:
    home = await home_of(sessions)
    newest, older = (Measure(MeasureKind.SIGNAL_DBM, NOW - timedelta(minutes=at), -at) for at in (10, 20))
    await tell(sessions, home, measures=(newest,))
    await tell(sessions, home, measures=(older,))
    async with sessions() as session:
        assert (await session.scalars(select(MeterMeasure.value))).all() == [-10]
