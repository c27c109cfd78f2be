"""The habit of a meter's contacts, from which the next is expected."""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Text, column, select, true, values
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.readings.models import Reading

LOOK_BACK = timedelta(days=28)
MAX_READINGS = 240
"""Ten days of hourly readings, or many more contacts than are needed."""
ONE_CONTACT = timedelta(minutes=5)
"""Time within which arrivals came in one contact: an answer, and the report of what it did."""
LEAST_GAPS = 3
MOST_GAPS = 14


async def rhythms(session: AsyncSession, meter_ids: Sequence[str], now: datetime) -> dict[str, timedelta | None]:
    """The usual time between two contacts of each meter; None while there are too few to tell. One statement."""
    wanted = values(column("meter_id", Text), name="wanted").data([(meter_id,) for meter_id in meter_ids])
    newest = (
        select(Reading.received_at)
        .where(Reading.meter_id == wanted.c.meter_id, Reading.read_at > now - LOOK_BACK)
        .order_by(Reading.read_at.desc())
        .limit(MAX_READINGS)
        .lateral("newest")
    )
    rows = await session.execute(
        select(wanted.c.meter_id, newest.c.received_at).select_from(wanted).join(newest, true()).distinct()
    )
    arrivals: dict[str, list[datetime]] = {meter_id: [] for meter_id in meter_ids}
    for meter_id, received_at in rows:
        arrivals[meter_id].append(received_at)
    return {meter_id: usual_gap(found) for meter_id, found in arrivals.items()}


def usual_gap(arrivals: Sequence[datetime]) -> timedelta | None:
    """The median gap between the newest contacts; a report that was missed or came twice does not move it."""
    contacts: list[datetime] = []
    for at in sorted(arrivals):
        if not contacts or at - contacts[-1] > ONE_CONTACT:
            contacts.append(at)
    gaps = [later - earlier for earlier, later in itertools.pairwise(contacts)][-MOST_GAPS:]
    return sorted(gaps)[len(gaps) // 2] if len(gaps) >= LEAST_GAPS else None
