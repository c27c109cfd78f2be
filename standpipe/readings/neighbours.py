"""Readings that others go on from, around instants of one meter: for what a person decides."""

from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.readings.models import COUNTED, Reading
from standpipe.readings.register import newest
from standpipe.readings.validation import AcceptedReading

READINGS = "readings"
"""The name of readings among the storage horizons."""
STANDING = or_(Reading.quality.in_(COUNTED), Reading.counted_ml.is_not(None))
"""Readings that stand somewhere: those that count, and those that are left out for air, from which others go on."""


async def neighbours(session: AsyncSession, meter: Meter, first: datetime, last: datetime) -> list[AcceptedReading]:
    """Readings that others go on from, around and between two instants: one before (or the meter's start), those
    within, one after.
    """
    shown_ml = func.coalesce(Reading.corrected_ml, Reading.register_ml)
    stands_ml = func.coalesce(Reading.counted_ml, Reading.register_ml)
    counted = select(Reading.read_at, shown_ml, stands_ml).where(Reading.meter_id == meter.id, STANDING)
    before = await newest(session, counted.where(Reading.read_at < first), first)
    within = (
        await session.execute(counted.where(Reading.read_at.between(first, last)).order_by(Reading.read_at))
    ).all()
    after = (await session.execute(counted.where(Reading.read_at > last).order_by(Reading.read_at).limit(1))).all()
    start = AcceptedReading(meter.installed_at, meter.initial_register_ml, meter.initial_register_ml)
    return [AcceptedReading(*before) if before else start, *(AcceptedReading(*row) for row in (*within, *after))]
