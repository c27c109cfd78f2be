"""Water use of a household: a daily shape with a morning and an evening peak, weekends, and chance. Pure."""

import random
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

# Shares of a day's water by hour, weekdays; after published household demand curves: a morning and an evening peak.
WEEKDAY = (2, 1, 1, 1, 2, 6, 14, 16, 9, 6, 5, 5, 7, 6, 4, 4, 5, 8, 12, 13, 10, 7, 5, 3)
WEEKEND = (3, 2, 1, 1, 1, 2, 5, 9, 13, 14, 11, 9, 9, 8, 6, 5, 5, 7, 10, 11, 9, 7, 5, 4)


def hour_ml(serial: str, hour_start: datetime, zone: ZoneInfo, daily_litres: int) -> int:
    """Draw the ml that this meter's household uses in the hour from ``hour_start``; one answer each time asked."""
    local = hour_start.astimezone(zone)
    shape = WEEKEND if local.weekday() >= 5 else WEEKDAY  # noqa: PLR2004 - Saturday.
    chance = random.Random(f"{serial}:{hour_start.isoformat()}")
    day_chance = random.Random(f"{serial}:{local.date()}")
    share = shape[local.hour] / sum(shape)
    litres = daily_litres * share * day_chance.uniform(0.75, 1.3) * chance.uniform(0.4, 1.6)
    return round(litres * 1000)


def use_between_ml(serial: str, start: datetime, end: datetime, zone: ZoneInfo, daily_litres: int) -> int:
    """Use from ``start`` to ``end``, parts of hours in proportion."""
    total, at = 0.0, start
    while at < end:
        hour = at.replace(minute=0, second=0, microsecond=0)
        stop = min(hour + timedelta(hours=1), end)
        total += hour_ml(serial, hour, zone, daily_litres) * ((stop - at) / timedelta(hours=1))
        at = stop
    return round(total)
