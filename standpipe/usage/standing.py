"""The day's standing charges: booked for every meter each day, whether or not it speaks, whatever its valve does."""

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Date, and_, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Utility
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.notify import LIVE, notify
from standpipe.usage.charges import accrue_standing
from standpipe.usage.rests import Rests


async def accrue_due(sessions: Sessions, clock: Clock, rests: Rests, *, limit: int = 200) -> int:
    """Book what has fallen due by each utility's today, each meter in a transaction of its own.

    Returns how many meters were seen to. Days that were missed are made up for, to the same sums.
    """
    now = clock.now()
    async with sessions() as session:
        meter_ids = await _due(session, now, rests.resting(), limit)

    async def accrue(meter_id: str) -> None:
        async with sessions.begin() as session:
            meter = await lock_meter(session, meter_id)
            await accrue_standing(session, meter, now)
            await notify(session, LIVE, meter_id)

    return await rests.each(meter_ids, accrue)


async def _due(session: AsyncSession, now: datetime, resting: Sequence[str], limit: int) -> list[str]:
    """Meters in service whose charges are not booked up to today, and closed ones that are not up to their last day."""
    found: list[str] = []
    for utility_id, zone in (await session.execute(select(Utility.id, Utility.time_zone))).all():
        today = now.astimezone(ZoneInfo(zone)).date()
        closed_on = cast(func.timezone(zone, Meter.closed_at), Date)
        rows = await session.scalars(
            select(Meter.id)
            .where(
                Meter.utility_id == utility_id,
                Meter.time_zone == zone,
                Meter.installed_at <= now,
                or_(
                    Meter.guarantee_is_stale,
                    and_(
                        or_(Meter.accrued_through.is_(None), Meter.accrued_through < today),
                        or_(Meter.closed_at.is_(None), Meter.accrued_through < closed_on),
                    ),
                ),
                Meter.id.not_in(resting),
            )
            .order_by(Meter.accrued_through.nulls_first(), Meter.id)
            .limit(limit - len(found))
        )
        found.extend(rows)
        if len(found) >= limit:
            break
    return found
