"""Behaviour of a meter when its credit ends, and the hours that spare it. Pure: no database, no clock.

Friendly hours are hours on the wall: whether an instant lies in them is read off the local clock at that instant, so
an hour that the clocks repeat is friendly twice, and one that they skip is not missed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import holidays

from standpipe.platform.errors import InvalidInputError

LOOK_AHEAD = timedelta(days=400)
"""A year of any calendar passes in this; what has not changed by then is looked at anew."""
LEAD = timedelta(hours=2)
MAX_LEAD_MINUTES = 24 * 60
DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_WHOLE_DAY = 24 * 60
_SPARED_AHEAD = timedelta(days=8)
_MAX_ANSWERS = 256
_KEYS = frozenset({"from", "to", "days", "weekends", "holidays", "lead_minutes"})


class CutOff(StrEnum):
    """Behaviours of a meter when its credit ends: close, let a trickle through, or go on and let the debt grow."""

    DISCONNECT = "DISCONNECT"
    TRICKLE = "TRICKLE"
    NEVER = "NEVER"


ON_THE_WIRE = (CutOff.DISCONNECT, CutOff.TRICKLE, CutOff.NEVER)
"""The value of an AT_ZERO command is the place in this."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Minutes of the day, ``[start, end)``; they pass midnight where ``end`` is not after ``start``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class FriendlyHours:
    """Hours in which nobody is cut off. ``by_day``: Monday first; ``whole_days``: days that are friendly all day.

    ``holidays`` names a calendar of the library of that name, such as ``KE`` or ``DE/BY``; its public holidays are
    friendly all day. ``lead``: how long before they begin a meter is told, for it may be asleep when they do.
    """

    by_day: tuple[Hours | None, ...]
    whole_days: frozenset[int] = frozenset()
    holidays: str | None = None
    lead: timedelta = LEAD


@dataclass(frozen=True, slots=True)
class Spared:
    """Answer to whether nobody is cut off now, and until when that stands (None: as far as we look)."""

    now: bool
    until: datetime | None


_answers: dict[tuple[FriendlyHours, ZoneInfo], tuple[datetime, Spared]] = {}
"""The last answer for each town's rules, and since when it holds: all its meters ask the same."""


def cut_off_of(text: str, field: str = "cut_off") -> CutOff:
    """A policy by its name. Raises InvalidInputError."""
    if text not in CutOff.__members__:
        raise InvalidInputError(f"{text!r} is no cut-off policy: write DISCONNECT, TRICKLE or NEVER.", (field,))
    return CutOff(text)


def friendly_of(raw: Mapping[str, Any] | None) -> FriendlyHours | None:
    """Friendly hours as they are kept: ``{"from": "18:00", "to": "08:00", "weekends": true, "holidays": "KE"}``.

    ``days`` may give days of the week hours of their own, or none: ``{"FRI": {"from": "14:00", "to": "08:00"}, "SUN":
    null}``. ``weekends``: true for Saturday and Sunday, or a list of days. Raises InvalidInputError.
    """
    if raw is None:
        return None
    if unknown := sorted(set(raw) - _KEYS):
        raise InvalidInputError(f"Friendly hours have no {unknown[0]!r}.", ("friendly",))
    usual = _hours(raw) if raw.get("from") is not None or raw.get("to") is not None else None
    own = raw.get("days") or {}
    if not isinstance(own, Mapping):
        raise InvalidInputError("The days of friendly hours are names with hours each.", ("friendly", "days"))
    numbered = {_day_number(name): None if hours is None else _hours(hours) for name, hours in own.items()}
    calendar = raw.get("holidays")
    if calendar is not None:
        _calendar(str(calendar))
    by_day = tuple(numbered.get(number, usual) for number in range(len(DAYS)))
    whole_days = _weekend(raw.get("weekends", False))
    lead = _lead(raw.get("lead_minutes"))
    if not any(by_day) and not whole_days and calendar is None:
        return None
    return FriendlyHours(by_day, whole_days, calendar, lead)


def is_friendly(rules: FriendlyHours, at: datetime, zone: ZoneInfo) -> bool:
    """Tell whether an instant lies in the friendly hours of a place."""
    wall = at.astimezone(zone)
    day, minute = wall.date(), wall.hour * 60 + wall.minute
    if day.weekday() in rules.whole_days or (rules.holidays is not None and day in _calendar(rules.holidays)):
        return True
    hours = rules.by_day[day.weekday()]
    if hours is not None and hours.start <= minute and (minute < hours.end or hours.end <= hours.start):
        return True
    before = rules.by_day[day.weekday() - 1]
    return before is not None and before.end <= before.start and minute < before.end


def friendly_changes_at(rules: FriendlyHours, at: datetime, zone: ZoneInfo) -> datetime | None:
    """The next instant at which ``is_friendly`` answers differently; None where there is none within LOOK_AHEAD."""
    present = is_friendly(rules, at, zone)
    start = at.astimezone(UTC)
    last = start + LOOK_AHEAD
    while start < last:
        for edge in sorted(_edges(rules, start, start + _DAY, zone)):
            if is_friendly(rules, edge, zone) is not present:
                return edge
        start += _DAY
    return None


def in_friendly_hours(rules: FriendlyHours, at: datetime, zone: ZoneInfo) -> Spared:
    """Return what meters are to be told now: friendly hours, and the lead before. Shorter gaps than that are none."""
    since, answer = _answers.get((rules, zone), (at, None))
    if answer is not None and since <= at < (answer.until or since + _DAY):
        return answer
    if len(_answers) >= _MAX_ANSWERS:
        _answers.clear()
    answer = _spared(rules, at, zone)
    _answers[rules, zone] = (at, answer)
    return answer


def _spared(rules: FriendlyHours, at: datetime, zone: ZoneInfo) -> Spared:
    start = at
    if not is_friendly(rules, at, zone):
        begins = friendly_changes_at(rules, at, zone)
        if begins is None:
            return Spared(now=False, until=None)
        if begins - rules.lead > at:
            return Spared(now=False, until=begins - rules.lead)
        start = begins
    while start < at + _SPARED_AHEAD:
        end = friendly_changes_at(rules, start, zone)
        if end is None:
            break
        again = friendly_changes_at(rules, end, zone)
        if again is None or again - rules.lead > end:
            return Spared(now=True, until=end)
        start = again
    return Spared(now=True, until=None)


def zero_credit_action(policy: CutOff, *, is_spared: bool, is_released: bool, is_shut: bool) -> CutOff:
    """Return what a meter is told to do at zero.

    ``is_shut``: its valve stands shut, or at a trickle, for want of credit. Friendly hours put a cut-off off; they
    give no water to those who were cut off before them. A release (fire) gives it to all.
    """
    if is_released or (is_spared and not is_shut):
        return CutOff.NEVER
    return policy


def _edges(rules: FriendlyHours, after: datetime, until: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Every instant in ``(after, until]`` at which the answer may change: edges on the wall, and leaps of the wall."""
    days = range((after.astimezone(zone).date() - _DAY).toordinal(), until.astimezone(zone).date().toordinal() + 1)
    for day in (date.fromordinal(number) for number in days):
        hours = rules.by_day[day.weekday()]
        minutes = (0, _WHOLE_DAY) if hours is None else (0, hours.start, hours.end, _WHOLE_DAY)
        for minute in minutes:
            for offset in (minute, minute + _WHOLE_DAY):
                wall = datetime.combine(day, datetime.min.time()) + offset * _MINUTE
                for fold in (0, 1):
                    edge = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
                    if after < edge <= until:
                        yield edge
    if after.astimezone(zone).utcoffset() != until.astimezone(zone).utcoffset():
        yield _leap(after, until, zone)


def _leap(after: datetime, until: datetime, zone: ZoneInfo) -> datetime:
    """The first whole second at which the clocks have been changed; there is one change in ``(after, until]``."""
    offset = after.astimezone(zone).utcoffset()
    low, high = after, until
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    # Clocks change at whole seconds of UTC.
    return high.replace(microsecond=0)


def _hours(raw: object) -> Hours:
    if not isinstance(raw, Mapping) or raw.get("from") is None or raw.get("to") is None:
        raise InvalidInputError("Friendly hours run from an hour to an hour, such as 18:00 to 08:00.", ("friendly",))
    start, end = _minute(raw["from"]), _minute(raw["to"])
    if start in {end, _WHOLE_DAY}:
        raise InvalidInputError(f"{raw['from']} to {raw['to']} is no stretch of a day.", ("friendly",))
    return Hours(start, end)


def _minute(text: object) -> int:
    parts = text.split(":") if isinstance(text, str) else []
    if [len(part) for part in parts] == [2, 2] and all(part.isascii() and part.isdigit() for part in parts):
        hour, minute = (int(part) for part in parts)
        if minute < 60 and hour * 60 + minute <= _WHOLE_DAY:  # noqa: PLR2004 - minutes of an hour.
            return hour * 60 + minute
    raise InvalidInputError(f"{text!r} is no time of day; write it like 18:00.", ("friendly",))


def _day_number(name: object) -> int:
    if name not in DAYS:
        raise InvalidInputError(f"{name!r} is no day of the week; write one of {', '.join(DAYS)}.", ("friendly",))
    return DAYS.index(str(name))


def _weekend(raw: object) -> frozenset[int]:
    if isinstance(raw, bool):
        return frozenset({5, 6}) if raw else frozenset()
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return frozenset(_day_number(name) for name in raw)
    raise InvalidInputError("Weekends are true, false or a list of days.", ("friendly", "weekends"))


def _lead(raw: object) -> timedelta:
    if raw is None:
        return LEAD
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw <= MAX_LEAD_MINUTES:
        raise InvalidInputError(f"Meters are told 0 to {MAX_LEAD_MINUTES} minutes ahead.", ("friendly", "lead_minutes"))
    return timedelta(minutes=raw)


@lru_cache(maxsize=256)
def _calendar(name: str) -> holidays.HolidayBase:
    """A country's public holidays, with the days off in lieu; of a part of it where one is named."""
    country, slash, part = name.partition("/")
    known = holidays.list_supported_countries()
    if country not in known:
        raise InvalidInputError(
            f"{name!r} is no holiday calendar: write a country such as KE, or a part of one such as DE/BY.",
            ("friendly", "holidays"),
        )
    if slash and part not in known[country]:
        parts = ", ".join(known[country]) or "none"
        raise InvalidInputError(f"{country} has no part {part!r}; it has: {parts}.", ("friendly", "holidays"))
    return holidays.country_holidays(country, subdiv=part or None)
