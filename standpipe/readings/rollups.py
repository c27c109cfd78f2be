"""Daily and monthly roll-ups, kept in the readings' own transaction, so that history reads stay small."""

from collections.abc import Collection
from datetime import date
from zoneinfo import ZoneInfo

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.platform.units import day_span, period_of
from standpipe.readings.models import DailyUsage, MonthlyUsage
from standpipe.readings.register import register_at_ml

# R(t) of readings.py, at the end and at the start of each day that has a reading. Both are looked for between the first
# day's start and the last day's end: what the register stood at before comes from ``register_at_ml``, so that no other
# month is read.
_ROLL_UP = text("""
INSERT INTO daily_usage (meter_id, day, volume_ml, register_end_ml)
SELECT :meter_id, d.day, at_end.register_ml - at_start.register_ml, at_end.register_ml
FROM unnest(CAST(:days AS date[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]))
     AS d(day, start_at, end_at)
CROSS JOIN LATERAL (
    SELECT coalesce(r.counted_ml, r.register_ml) AS register_ml FROM readings r
    WHERE r.meter_id = :meter_id AND r.read_at > :since AND r.read_at <= :until
      AND r.read_at > d.start_at AND r.read_at <= d.end_at AND r.quality IN ('MEASURED', 'CORRECTED')
    ORDER BY r.read_at DESC LIMIT 1) AS at_end
CROSS JOIN LATERAL (
    SELECT coalesce((SELECT coalesce(r.counted_ml, r.register_ml) FROM readings r
                     WHERE r.meter_id = :meter_id AND r.read_at > :since AND r.read_at <= :until
                       AND r.read_at <= d.start_at AND r.quality IN ('MEASURED', 'CORRECTED')
                     ORDER BY r.read_at DESC LIMIT 1), CAST(:before_ml AS bigint)) AS register_ml) AS at_start
ON CONFLICT (meter_id, day) DO UPDATE
SET volume_ml = excluded.volume_ml, register_end_ml = excluded.register_end_ml
""")


_MONTHS = text("""
INSERT INTO monthly_usage (meter_id, month, volume_ml, days)
SELECT meter_id, date_trunc('month', day)::date, sum(volume_ml), count(*)
FROM daily_usage JOIN unnest(CAST(:months AS date[])) AS m(month)
     ON day >= m.month AND day < (m.month + interval '1 month')::date
WHERE meter_id = :meter_id
GROUP BY 1, 2
ON CONFLICT (meter_id, month) DO UPDATE SET volume_ml = excluded.volume_ml, days = excluded.days
""")


async def roll_up(session: AsyncSession, meter: Meter, days: Collection[date]) -> None:
    """Compute these service days anew from the readings, and their months from the days."""
    zone = ZoneInfo(meter.time_zone)
    ordered = sorted(days)
    spans = [day_span(day, zone) for day in ordered]
    await session.execute(
        _ROLL_UP,
        {
            "meter_id": meter.id,
            "before_ml": await register_at_ml(session, meter, spans[0].start),
            "since": spans[0].start,
            "until": spans[-1].end,
            "days": ordered,
            "starts": [span.start for span in spans],
            "ends": [span.end for span in spans],
        },
    )
    months = sorted({period_of(day)[0] for day in ordered})
    await session.execute(_MONTHS, {"meter_id": meter.id, "months": months})


# A day of roll-ups for each service day that a counted reading closes, as ``roll_up`` makes them one by one.
_ALL_DAYS = text("""
WITH closing AS (
    SELECT DISTINCT ON (day) day, end_ml
    FROM (SELECT ((read_at - interval '1 microsecond') AT TIME ZONE :zone)::date AS day, read_at,
                 coalesce(counted_ml, register_ml) AS end_ml
          FROM readings WHERE meter_id = :meter_id AND quality IN ('MEASURED', 'CORRECTED')) AS counted
    ORDER BY day, read_at DESC)
INSERT INTO daily_usage (meter_id, day, volume_ml, register_end_ml)
SELECT :meter_id, day, end_ml - lag(end_ml, 1, CAST(:initial_ml AS bigint)) OVER (ORDER BY day), end_ml FROM closing
RETURNING day
""")


async def roll_up_first(session: AsyncSession, meter: Meter) -> list[date]:
    """All roll-ups of a meter that has readings and none of these yet, in two statements; returns its months."""
    days = await session.scalars(
        _ALL_DAYS, {"meter_id": meter.id, "zone": meter.time_zone, "initial_ml": meter.initial_register_ml}
    )
    months = sorted({period_of(day)[0] for day in days})
    await session.execute(_MONTHS, {"meter_id": meter.id, "months": months})
    return months


async def clear(session: AsyncSession, meter: Meter, days: Collection[date]) -> None:
    """Forget these days and their months, before they are computed anew: one that lost its readings tells nothing."""
    months = {period_of(day)[0] for day in days}
    await session.execute(delete(DailyUsage).where(DailyUsage.meter_id == meter.id, DailyUsage.day.in_(days)))
    await session.execute(delete(MonthlyUsage).where(MonthlyUsage.meter_id == meter.id, MonthlyUsage.month.in_(months)))
