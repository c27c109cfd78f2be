"""The counted reading next to an instant, found in the one or two months around it wherever that is possible.

Without a bound on both sides every partition would have to be looked into, for each report that comes in.
"""

from datetime import datetime, timedelta
from typing import TypeVarTuple

from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.readings.models import COUNTED, Reading

NEAR = timedelta(days=7)
"""A meter that tells of itself at least once a week is found in the month at hand or in the one before it."""
Columns = TypeVarTuple("Columns")


async def newest(session: AsyncSession, rows: Select[*Columns], until: datetime) -> Row[*Columns] | None:
    """The newest of these readings of one meter, all of which lie at or before ``until``."""
    ordered = rows.order_by(Reading.read_at.desc()).limit(1)
    near = (await session.execute(ordered.where(Reading.read_at >= until - NEAR))).one_or_none()
    return near or (await session.execute(ordered.where(Reading.read_at < until - NEAR))).one_or_none()


async def oldest(
    session: AsyncSession, rows: Select[*Columns], since: datetime, until: datetime
) -> Row[*Columns] | None:
    """The oldest of these readings of one meter, all of them after ``since``; none is looked for past ``until``."""
    ordered = rows.order_by(Reading.read_at).limit(1)
    edge = min(since + NEAR, until)
    near = (await session.execute(ordered.where(Reading.read_at <= edge))).one_or_none()
    if near is not None or edge == until:
        return near
    return (await session.execute(ordered.where(Reading.read_at > edge, Reading.read_at <= until))).one_or_none()


async def register_at_ml(session: AsyncSession, meter: Meter, at: datetime) -> int:
    """R(t) of readings.py: the last counted reading at or before an instant, else the meter's first register."""
    rows = select(func.coalesce(Reading.counted_ml, Reading.register_ml)).where(
        Reading.meter_id == meter.id, Reading.quality.in_(COUNTED), Reading.read_at <= at
    )
    found = await newest(session, rows, at)
    return meter.initial_register_ml if found is None else found[0]
