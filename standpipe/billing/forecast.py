"""Forecast of the days that credit lasts. Pure: walked day by day through the tiers, which begin anew each period.

Days are floats and may be: nothing is priced or posted from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from standpipe.platform.units import period_of
from standpipe.tariffs.pricing import Place, charge_minor, volume_for_ml

MIN_DAYS = 7
"""Under a week of use there is no forecast: too little to tell a household's habits."""
MAX_DAYS = 366


@dataclass(frozen=True, slots=True)
class Forecast:
    """Days until empty at high, usual and low use, and the litres that the credit buys from here on, in ml."""

    days_low: float
    days_likely: float
    days_high: float
    empty_on: date
    volume_left_ml: int


def forecast(place: Place, *, credit_minor: int, daily_ml: Sequence[int], today: date) -> Forecast | None:
    """From the last days' volumes (``daily_ml``, whole days only); None under MIN_DAYS of them."""
    if len(daily_ml) < MIN_DAYS:
        return None
    low_ml, mean_ml, high_ml = _habits(daily_ml)
    likely = days_left(place, credit_minor, mean_ml, today)
    return Forecast(
        days_low=days_left(place, credit_minor, high_ml, today),
        days_likely=likely,
        days_high=days_left(place, credit_minor, low_ml, today),
        empty_on=today + timedelta(days=int(likely)),
        volume_left_ml=volume_for_ml(place.table, place.used_ml, max(credit_minor, 0), place.carried_minor),
    )


def forecast_volume(volume_left_ml: int | None, *, daily_ml: Sequence[int], today: date) -> Forecast | None:
    """Forecast a meter that holds volume, like ``forecast``; None also where it has not said what it holds."""
    if len(daily_ml) < MIN_DAYS or volume_left_ml is None:
        return None
    left_ml = max(volume_left_ml, 0)
    low, likely, high = (min(left_ml / ml, float(MAX_DAYS)) if ml else float(MAX_DAYS) for ml in _habits(daily_ml))
    return Forecast(
        days_low=high,
        days_likely=likely,
        days_high=low,
        empty_on=today + timedelta(days=int(likely)),
        volume_left_ml=left_ml,
    )


def _habits(daily_ml: Sequence[int]) -> tuple[int, int, int]:
    """A day of low, of usual and of high use."""
    ordered = sorted(daily_ml)
    mean_ml = sum(ordered) // len(ordered)
    high_ml = max(ordered[(len(ordered) * 3) // 4], mean_ml)
    return min(ordered[len(ordered) // 4], mean_ml), mean_ml, high_ml


def days_left(place: Place, credit_minor: int, daily_ml: int, today: date) -> float:
    """Days that ``credit_minor`` lasts at ``daily_ml`` a day, at most MAX_DAYS."""
    left_minor, day, used_ml, carried_minor = credit_minor, today, place.used_ml, place.carried_minor
    for count in range(MAX_DAYS):
        if left_minor <= 0:
            return float(count)
        cost = charge_minor(place.table, used_ml, daily_ml, carried_minor)
        if cost > left_minor:
            return count + left_minor / cost
        left_minor -= cost
        used_ml += daily_ml
        day += timedelta(days=1)
        if period_of(day)[0] == day:
            used_ml, carried_minor = 0, Decimal(0)
    return float(MAX_DAYS)
