"""Retention and the making of months wait for whoever is at work, and not for ever.

Apart from the tests of storage that depend on the day: PostgreSQL's lock time-out never comes under a shifted clock.
"""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.readings.storage import is_lock_failure, keep_partitions
from tests.support.rating import take_report
from tests.usage.test_storage import HORIZON, HOUR, NOW, START, books, forget, lived


async def test_a_report_under_way_and_retention_take_turns(sessions: Sessions) -> None:
    home = await lived(sessions, "Africa/Nairobi", silent=False)
    at = HORIZON - timedelta(days=15)
    report = MeterReport(home.meter_id, NOW, (RegisterReading(at, (at - START) // HOUR * 9_500),))
    async with sessions.begin() as session:
        await take_report(session, report, NOW)
        with pytest.raises(Exception, match="lock timeout") as caught:
            await forget(sessions)
        assert is_lock_failure(caught.value)  # type: ignore[arg-type]
    # The report was first: it counts, and its days stay when it is let go.
    before = await books(sessions, home)
    await forget(sessions)
    assert await books(sessions, home) == before


async def test_making_months_gives_way_to_who_reads_the_rest(sessions: Sessions) -> None:
    later = datetime.now(UTC) + timedelta(days=365 * 4)
    async with sessions.begin() as session:
        await session.execute(text("SELECT * FROM readings_rest"))
        with pytest.raises(Exception, match="lock timeout"):
            await keep_partitions(sessions, Clock(factor=1e-9, anchor_at=later))
    await keep_partitions(sessions, Clock(factor=1e-9, anchor_at=later))
