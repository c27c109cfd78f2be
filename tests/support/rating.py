"""Reports taken in and rated at once, where a test is about what follows from them."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.reports import MeterReport
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.usage import rating
from tests.support import delivery


async def take_report(session: AsyncSession, report: MeterReport, now: datetime) -> None:
    """``delivery.take_report``, and the rating that it marks due, in one transaction."""
    await delivery.take_report(session, report, now)
    await rating.rate_now(session, report.meter_id, now)


async def rate_due(sessions: Sessions, clock: Clock | None = None) -> None:
    """Rounds until no meter is due, by a clock, else in real time."""
    while await rating.rate_due(sessions, clock or Clock()):
        pass
