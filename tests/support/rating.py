"""Reports taken in and rated at once, where a test is about what follows from them."""

from datetime import date, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing import closing, rounds
from standpipe.meters.due import mark_due
from standpipe.meters.reports import MeterReport
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from tests.support import delivery


async def take_report(session: AsyncSession, report: MeterReport, now: datetime) -> None:
    """``delivery.take_report``, and the rating that it marks due, in one transaction."""
    await delivery.take_report(session, report, now)
    await rate(session, report.meter_id, now)


async def rate(session: AsyncSession, meter_id: str, now: datetime, *, reprice_from: date | None = None) -> None:
    """Rate a meter in a session's transaction; ``reprice_from``: as after a change of its terms."""
    await session.flush()
    conn = await session.connection()
    await mark_due(conn, [meter_id], reprice_from=reprice_from)
    await rounds.rate_now(conn, meter_id, now)
    session.expire_all()


async def rate_due(sessions: Sessions, clock: Clock | None = None, *, most: int = 200) -> int:
    """Rounds until no meter is due, by a clock, else in real time; returns how many were claimed."""
    done = 0
    while claimed := await rounds.rate_due(sessions, clock or Clock(), most=most):
        done += claimed
    return done


async def close_months(sessions: Sessions, clock: Clock) -> int:
    """Rate what is due and make the statements that are due then, until none is; returns how many were claimed."""
    await rate_due(sessions, clock)
    done = 0
    while claimed := await closing.issue_due(sessions, clock):
        await rate_due(sessions, clock)
        done += claimed
    return done
