"""What is estimated is shown, and never billed."""

from datetime import date, datetime

import pytest
from sqlalchemy import func, select

from standpipe.billing.series import BucketQuality, SeriesRequest, UsageInterval, series_of_many
from standpipe.ledger.models import LedgerTransaction
from standpipe.platform.database import Sessions
from tests.support.desk import APRIL, DAY, HOUR, MAY
from tests.support.water import LATER, START, meter, state, take


@pytest.mark.parametrize("interval", [UsageInterval.HOUR, UsageInterval.DAY])
async def test_what_is_estimated_is_shown_and_never_billed(sessions: Sessions, interval: UsageInterval) -> None:
    """A silence over the end of a month: its water is charged where it was measured, and shown within that month."""
    home, tariff_id = await meter(sessions)
    april_end = datetime.fromisoformat("2026-04-27T21:00:00+00:00")
    await take(sessions, home, [(START + DAY, 500_000), (april_end, 1_000_000)])
    await take(sessions, home, [(april_end + 8 * DAY, 9_000_000), (april_end + 9 * DAY, 9_200_000)])
    before = await state(sessions, home)
    async with sessions() as session:
        postings = await session.scalar(select(func.count()).select_from(LedgerTransaction))
        request = SeriesRequest(
            home.meter_id, tariff_id, "Africa/Nairobi", date(2026, 3, 1), date(2026, 6, 1), interval, START.date()
        )
        if interval is UsageInterval.HOUR:
            request = SeriesRequest(
                home.meter_id, tariff_id, "Africa/Nairobi", APRIL, date(2026, 5, 10), interval, START.date()
            )
        buckets = (await series_of_many(session, [request], LATER))[request]
    estimated = [bucket for bucket in buckets if bucket.quality is BucketQuality.ESTIMATED]
    assert estimated
    assert {item.start.astimezone().tzinfo is not None for item in buckets} == {True}
    may = [bucket for bucket in buckets if bucket.start >= datetime.fromisoformat("2026-04-30T21:00:00+00:00")]
    assert sum(bucket.cost_minor for bucket in may) == before["charges"][MAY]
    assert sum(bucket.volume_ml for bucket in may) == 8_200_000
    april = [bucket for bucket in buckets if APRIL <= (bucket.start + 3 * HOUR).date() < MAY]
    assert sum(bucket.cost_minor for bucket in april) == before["charges"][APRIL]
    assert await state(sessions, home) == before
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(LedgerTransaction)) == postings
