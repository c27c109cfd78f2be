"""What comes by itself: standing charges each day and statements each month, though a meter is silent or fails."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select, text

from standpipe.billing.closing import issue_due
from standpipe.billing.models import StandingCharged, Statement
from standpipe.ledger.dues import dues_of
from standpipe.ledger.models import LedgerTransaction
from standpipe.meters.due import MeterDue, mark_due
from standpipe.meters.models import Meter
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.units import local_midnight, period_of
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.publishing import publish
from standpipe.utilities.models import Utility
from tests.support.rating import close_months, rate_due
from tests.support.town import Home, make_home, make_settings, make_utility

pytestmark = pytest.mark.calendar

TARIFF = """
tariff: homes
name: Homes
currency: KES
effective-from: 2020-01-01
blocks: [{price: 50.00}]
standing-charges:
  - {code: rent, name: Rent, amount: 3.333, per: day}
levies:
  - {code: vat, name: VAT, percent: 16, of: [rent]}
"""


class Stopped(Clock):
    """A clock that a test sets."""

    def __init__(self, at: datetime) -> None:
        object.__setattr__(self, "at", at)

    def now(self) -> datetime:
        at: datetime = self.at  # type: ignore[attr-defined]
        return at


async def make_place(sessions: Sessions, zone: str, first: date, homes: int = 1) -> tuple[str, list[Home]]:
    """A utility with a daily charge, and meters that are there since a day and never say a word."""
    utility_id, _ = await make_utility(sessions, zone)
    async with sessions.begin() as session:
        file = read_tariff(TARIFF, "homes.yaml")
        made = await publish(session, utility_id=utility_id, utility_currency="KES", file=file, today=first)
    start = local_midnight(first, ZoneInfo(zone))
    return utility_id, [
        await make_home(sessions, make_settings(), utility_id, made.tariff_id, installed_at=start, zone=zone)
        for _ in range(homes)
    ]


async def owed(sessions: Sessions, home: Home) -> int:
    async with sessions() as session:
        return (await dues_of(session, home.meter_id, datetime.now(UTC))).standing_minor


async def accrue(sessions: Sessions, at: datetime) -> int:
    """Rounds at an instant, until no meter is due; returns how many were."""
    return await rate_due(sessions, Stopped(at))


@pytest.mark.parametrize(
    ("zone", "month"),
    [
        ("Pacific/Kiritimati", date(2026, 6, 1)),
        ("Pacific/Pago_Pago", date(2026, 2, 1)),
        ("Europe/Paris", date(2026, 3, 1)),
        ("Europe/Paris", date(2026, 10, 1)),
        ("America/Sao_Paulo", date(2018, 11, 1)),
    ],
)
async def test_t3_a_silent_month_accrues_the_same_day_by_day_or_at_once(
    sessions: Sessions, zone: str, month: date
) -> None:
    _, [daily, late] = await make_place(sessions, zone, month, homes=2)
    tz, end = ZoneInfo(zone), period_of(month)[1]
    days = (end - month).days
    await accrue(sessions, local_midnight(month, tz))
    async with sessions.begin() as session:
        # Somebody else's worker looks after the first, nobody after the second.
        (await session.get_one(Meter, late.meter_id)).installed_at = local_midnight(end, tz) + timedelta(days=9)
        await mark_due(await session.connection(), [late.meter_id])
    assert await accrue(sessions, local_midnight(month, tz)) == 1
    for number in range(1, days):
        midnight = local_midnight(month + timedelta(days=number), tz)
        assert await accrue(sessions, midnight - timedelta(seconds=1)) == 0, "not before the day begins there"
        assert await accrue(sessions, midnight) == 1
        assert await owed(sessions, daily) == (3333 * (number + 1) * 116 + 500) // 1000
    async with sessions.begin() as session:
        (await session.get_one(Meter, late.meter_id)).installed_at = local_midnight(month, tz)
        await mark_due(await session.connection(), [late.meter_id])
    assert await accrue(sessions, local_midnight(end, tz) - timedelta(seconds=1)) == 1
    assert await owed(sessions, late) == await owed(sessions, daily)
    async with sessions() as session:
        rows = (await session.scalars(select(StandingCharged))).all()
        assert await session.scalar(text("SELECT sum(amount_minor) FROM ledger_entries")) == 0
    assert len({(row.charged_minor, tuple(sorted(row.accounts.items()))) for row in rows}) == 1


async def test_closed_meters_stop_on_their_last_day_and_one_that_fails_holds_up_no_other(sessions: Sessions) -> None:
    first = date(2026, 6, 1)
    _, homes = await make_place(sessions, "Africa/Nairobi", first, homes=4)
    zone = ZoneInfo("Africa/Nairobi")
    assert await accrue(sessions, local_midnight(first, zone)) == 4
    closed, broken = homes[0], homes[1]
    async with sessions.begin() as session:
        (await session.get_one(Meter, closed.meter_id)).closed_at = local_midnight(date(2026, 6, 3), zone)
        (await session.get_one(Meter, broken.meter_id)).tariff_id = await _without_prices(session)
        await mark_due(await session.connection(), [closed.meter_id, broken.meter_id])
    at = Stopped(local_midnight(date(2026, 6, 10), zone))
    assert await rate_due(sessions, at, most=2) == 4
    assert await rate_due(sessions, at) == 0, "the broken one rests"
    async with sessions() as session:
        failing = (await session.scalars(select(MeterDue).where(MeterDue.last_error.is_not(None)))).one()
    assert (failing.meter_id, failing.attempts) == (broken.meter_id, 1)
    assert failing.last_error == "NotFoundError: This tariff has no prices."
    assert await owed(sessions, closed) == 1_160  # Three days of 3.333, and VAT.
    assert await owed(sessions, homes[2]) == await owed(sessions, homes[3]) == 3_866
    # Closed before anybody charged it: it is not begun with.
    async with sessions.begin() as session:
        meter = await session.get_one(Meter, homes[3].meter_id)
        meter.closed_at = meter.installed_at
        (await session.get_one(MeterDue, meter.id)).accrued_through = None
        await mark_due(await session.connection(), [meter.id])
    assert await rate_due(sessions, at) == 1
    async with sessions() as session:
        meter = await session.get_one(Meter, homes[3].meter_id)
        # It is looked at once a month: money may move on its accounts, which a statement tells.
        rating = await session.get_one(MeterDue, meter.id)
        assert rating.accrued_through is None
        assert rating.due_next_at == local_midnight(date(2026, 7, 4), zone)


async def test_statements_come_three_days_after_the_month_in_the_utilitys_zone(sessions: Sessions) -> None:
    first = date(2026, 5, 10)
    east, _ = await make_place(sessions, "Pacific/Kiritimati", first)
    west, _ = await make_place(sessions, "Pacific/Pago_Pago", first)
    due = {
        place: local_midnight(date(2026, 6, 4), ZoneInfo(zone))
        for place, zone in ((east, "Pacific/Kiritimati"), (west, "Pacific/Pago_Pago"))
    }
    assert due[west] - due[east] == timedelta(hours=25)
    assert await close_months(sessions, Stopped(due[east] - timedelta(seconds=1))) == 0
    assert await close_months(sessions, Stopped(due[east])) == 1
    assert await close_months(sessions, Stopped(due[west] - timedelta(seconds=1))) == 0
    assert await close_months(sessions, Stopped(due[west])) == 1
    assert await close_months(sessions, Stopped(due[west])) == 0
    async with sessions() as session:
        made = (await session.execute(select(Statement.utility_id, Statement.period_start, Statement.number))).all()
    assert sorted(made) == sorted([(east, date(2026, 5, 1), 1), (west, date(2026, 5, 1), 1)])


async def test_a_backlog_drains_in_rounds_by_two_workers_with_one_statement_each_and_no_gap(
    sessions: Sessions,
) -> None:
    utility_id, homes = await make_place(sessions, "Africa/Nairobi", date(2026, 3, 20), homes=5)
    zone = ZoneInfo("Africa/Nairobi")
    first_due = Stopped(local_midnight(date(2026, 4, 5), zone))
    assert await close_months(sessions, first_due) == 5
    broken = homes[2]
    async with sessions.begin() as session:
        (await session.get_one(Meter, broken.meter_id)).tariff_id = await _without_prices(session)
    # Two months later two workers come back at once.
    late = Stopped(local_midnight(date(2026, 6, 20), zone))

    async def worker() -> None:
        await rate_due(sessions, late)
        while await issue_due(sessions, late, limit=2):
            await rate_due(sessions, late)

    await asyncio.gather(worker(), worker())
    async with sessions() as session:
        rows = (await session.execute(select(Statement.meter_id, Statement.period_start, Statement.number))).all()
        last = await session.scalar(select(func.max(Statement.number)))
        keys = (await session.scalars(select(LedgerTransaction.key))).all()
    assert sorted(row.number for row in rows) == list(range(1, len(rows) + 1))
    assert last == 5 + 2 * 4
    months = [row.period_start.month for row in rows if row.meter_id == homes[0].meter_id]
    assert sorted(months) == [3, 4, 5]
    assert [row.period_start.month for row in rows if row.meter_id == broken.meter_id] == [3]
    assert len(keys) == len(set(keys))
    async with sessions() as session:
        assert (await session.get_one(Utility, utility_id)).statement_after_days == 3


async def _without_prices(session: Any) -> str:
    """A tariff that nobody can be charged by."""
    from_id = (await session.scalars(select(Meter.tariff_id).limit(1))).one()
    await session.execute(
        text(
            "INSERT INTO tariffs (id, utility_id, code, name, currency, basis) "
            "SELECT 'trf_bare', utility_id, 'bare', 'bare', currency, basis FROM tariffs WHERE id = :id"
        ),
        {"id": from_id},
    )
    return "trf_bare"
