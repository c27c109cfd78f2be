"""A meter's report, taken in: its status report applied, its readings stored as they came, its meter marked due."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters import effects, statements
from standpipe.meters.commands import lock_meter
from standpipe.meters.conditions import note_conditions, note_measures
from standpipe.meters.due import mark_due
from standpipe.meters.reports import MeterReport
from standpipe.platform.notify import LIVE, notify
from standpipe.readings.raw import raw_readings, store_raw


async def take_report(session: AsyncSession, report: MeterReport, now: datetime) -> None:
    """Store what a report says, apply its status report and mark its meter due; hearing it again changes nothing.

    Nothing is judged or charged here: that is the rating's. Raises NotFoundError for an unknown meter,
    InvalidInputError for a replayed statement or too many readings; the caller's transaction is then to be rolled
    back, and the report is refused whole.
    """
    meter = await lock_meter(session, report.meter_id)
    state = await statements.touch(
        session, meter.id, seen_at=report.received_at, battery_percent=report.battery_percent
    )
    await note_conditions(session, meter.id, report.conditions, now)
    await note_measures(session, meter.id, report.measures, now)
    await effects.take_answers(session, meter, report, now)
    clock_error_s = state.clock_error_s
    is_new = report.statement is not None and await statements.apply(session, meter, state, report.statement, now)
    raw = raw_readings(report, now, statement_is_new=is_new, clock_error_s=clock_error_s)
    await session.flush()
    conn = await session.connection()
    if raw is not None:
        await store_raw(conn, [raw])
    if raw is not None or is_new:
        await mark_due(conn, [meter.id])
    await notify(session, LIVE, meter.id)
