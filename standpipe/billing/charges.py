"""By what a meter is charged, and what it used: read one by one, for statements and previews."""

from datetime import date
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.use import PeriodUse
from standpipe.meters.models import Meter
from standpipe.platform.units import period_of
from standpipe.readings.models import DailyUsage, MonthlyUsage
from standpipe.tariffs.catalogue import Contract, contract_of
from standpipe.tariffs.periods import split_days


async def contract_for(session: AsyncSession, meter: Meter) -> Contract:
    """By what a meter is charged."""
    first_day = meter.installed_at.astimezone(ZoneInfo(meter.time_zone)).date()
    return await contract_of(session, meter.id, meter.tariff_id, first_day)


async def period_volume_ml(session: AsyncSession, meter_id: str, period_start: date) -> int:
    """The volume of one billing period so far."""
    month = period_of(period_start)[0]
    query = select(MonthlyUsage.volume_ml).where(MonthlyUsage.meter_id == meter_id, MonthlyUsage.month == month)
    return await session.scalar(query) or 0


async def period_use(session: AsyncSession, meter_id: str, contract: Contract, period_start: date) -> PeriodUse:
    """A period's segments and volumes, from the daily roll-ups."""
    segments = contract.segments(period_start)
    if len(segments) == 1:
        return PeriodUse(segments, (await period_volume_ml(session, meter_id, period_start),))
    start, end = period_of(period_start)
    rows = await session.execute(
        select(DailyUsage.day, DailyUsage.volume_ml).where(
            DailyUsage.meter_id == meter_id, DailyUsage.day >= start, DailyUsage.day < end
        )
    )
    return PeriodUse(segments, split_days(segments, {day: volume_ml for day, volume_ml in rows}))  # noqa: C416
