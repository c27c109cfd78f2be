"""Comparison of a household's use with its own last period, and with similar households of the same utility.

Nobody may be told on: a group counts only from MIN_GROUP meters on, and only its median is shown, rounded.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from time import monotonic

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.overview import MeterView
from standpipe.platform.units import period_of
from standpipe.readings.models import DailyUsage
from standpipe.tariffs.periods import supply_on

MIN_GROUP = 11
"""Ten others at least: whoever knows their own figure cannot reckon another's."""
ROUNDED_TO_ML = 100_000
_WHOLE_MONTH_DAYS = 25
REMEMBER_S = 600.0
"""A group's median is reckoned over every meter of the utility, and the month that it is about has ended."""
_MOST_GROUPS = 10_000
_known: dict[tuple[str, str, int, date], tuple[float, int, int | None]] = {}

# Similar: same utility, same tariff, as many households behind the meter, a whole month of readings.
_SIMILAR = text("""
WITH supplied AS (
    SELECT DISTINCT ON (m.id) m.id, coalesce(s.tariff_id, m.tariff_id) AS tariff_id,
           coalesce(s.households, 1) AS households
    FROM meters m LEFT JOIN supply_terms s ON s.meter_id = m.id AND s.from_day <= :month
    WHERE m.utility_id = :utility_id AND m.closed_at IS NULL
    ORDER BY m.id, s.from_day DESC
)
SELECT count(*), percentile_disc(0.5) WITHIN GROUP (ORDER BY u.volume_ml)
FROM supplied JOIN monthly_usage u ON u.meter_id = supplied.id AND u.month = :month
WHERE tariff_id = :tariff_id AND households = :households AND u.days >= :least_days
""")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whole days of this period so far against as many of the last; and the last whole month against its like.

    ``similar_ml`` is None where the group is too small. ``group_size`` counts this meter too.
    """

    days: int
    so_far_ml: int
    before_ml: int
    month: date
    own_month_ml: int
    similar_ml: int | None
    group_size: int


async def compare(session: AsyncSession, view: MeterView) -> Comparison:
    """The comparison of one meter, as of its view."""
    days = (view.today - view.period_start).days
    last = period_of(view.period_start - timedelta(days=1))[0]
    until = min(last + timedelta(days=days), view.period_start)
    size, median_ml = await _similar(session, view, last)
    own_ml = await _sum_ml(session, view.id, max(last, view.history_start), view.period_start)
    return Comparison(
        days=days,
        so_far_ml=await _sum_ml(session, view.id, max(view.period_start, view.history_start), view.today),
        before_ml=await _sum_ml(session, view.id, max(last, view.history_start), until),
        month=last,
        own_month_ml=own_ml,
        similar_ml=median_ml,
        group_size=size,
    )


async def _similar(session: AsyncSession, view: MeterView, month: date) -> tuple[int, int | None]:
    supply = supply_on(view.contract.supplies, month)
    group = (view.utility_id, supply.tariff_id, supply.households, month)
    until_s, size, median_ml = _known.get(group, (0.0, 0, None))
    if until_s <= monotonic():
        size, median_ml = await _median(session, *group)
        if len(_known) >= _MOST_GROUPS:
            _known.clear()
        _known[group] = (monotonic() + REMEMBER_S, size, median_ml)
    if size < MIN_GROUP or median_ml is None:
        return 0, None
    return size, (median_ml + ROUNDED_TO_ML // 2) // ROUNDED_TO_ML * ROUNDED_TO_ML


async def _median(
    session: AsyncSession, utility_id: str, tariff_id: str, households: int, month: date
) -> tuple[int, int | None]:
    row = await session.execute(
        _SIMILAR,
        {
            "utility_id": utility_id,
            "tariff_id": tariff_id,
            "households": households,
            "month": month,
            "least_days": _WHOLE_MONTH_DAYS,
        },
    )
    size, median_ml = row.one()
    return int(size), median_ml


async def _sum_ml(session: AsyncSession, meter_id: str, start: date, end: date) -> int:
    found = await session.scalar(
        select(func.coalesce(func.sum(DailyUsage.volume_ml), 0)).where(
            DailyUsage.meter_id == meter_id, DailyUsage.day >= start, DailyUsage.day < end
        )
    )
    return int(found or 0)
