"""Promises of a quote in litres, which hang on what else is bought in the period. Pure.

The promise is kept by the place it was given for: the day, what was bought before it, what the wallet had left.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from standpipe.tariffs.pricing import Place

DAY, USED_ML, LEFT_MINOR = "DAY", "USED_ML", "LEFT_MINOR"
UNDER_WAY_FOR = timedelta(hours=1)
"""An order that nobody has paid for this long stands in no other one's way."""
QUOTED_FOR = timedelta(days=7)
"""An order that is paid later than this buys as if it had been made that day."""


def place_quoted(place: Place, *, left_minor: int, today: date) -> dict[str, int]:
    """Return the position at which a quote for a VOLUME meter was given, kept with the order."""
    return {DAY: today.toordinal(), USED_ML: place.used_ml, LEFT_MINOR: left_minor}


def day_quoted(agreed: Mapping[str, int] | None, ordered_at: datetime, now: datetime) -> date | None:
    """The day whose prices and blocks an order by a quote buys at; None: today's."""
    if agreed is None or now > ordered_at + QUOTED_FOR:
        return None
    return day_of(agreed)


def day_of(agreed: Mapping[str, int]) -> date | None:
    """The meter's day on which the quote was given; None where it names none."""
    return date.fromordinal(agreed[DAY]) if DAY in agreed else None
