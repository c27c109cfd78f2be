"""Judgement of a meter's reports: which readings count, where they stand, and each service day's use. Pure.

Reports are judged one after the other, in the order of their arrival, each upon what those before it left behind; so
it makes no difference whether a rating finds one report or a hundred.

R(t) is the register's last counted reading at or before t (the meter's first register before any). A day's volume is
R(its end) − R(its start), a period's the sum of its days; so consumption over a gap counts on the day whose reading
ended the gap, and a late reading that fills the gap moves it to where it belongs, by itself.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple
from zoneinfo import ZoneInfo

from standpipe.platform.units import day_span, service_day
from standpipe.readings.models import COUNTED, ReadingQuality
from standpipe.readings.raw import RawReadings
from standpipe.readings.validation import (
    FLOW_SLACK_ML,
    MAX_CLOCK_LEAD,
    AcceptedReading,
    NewReading,
    Reason,
    SuspectReadings,
    ValidationContext,
    Verdict,
    is_large,
    validate,
)

HABIT_DAYS = 28
APART = timedelta(days=7)
"""Between two told instants further apart than this, what is stored is not looked at."""
_INSTANT = timedelta(microseconds=1)
_READ_AT = attrgetter("read_at")


@dataclass(frozen=True, slots=True)
class Register:
    """A meter's register: since when and from where it counts; its top (None: it never rolls over); its zone."""

    installed_at: datetime
    initial_ml: int
    max_ml: int | None
    zone: ZoneInfo

    @property
    def start(self) -> AcceptedReading:
        """Position before any reading."""
        return AcceptedReading(self.installed_at, self.initial_ml, self.initial_ml)


class StoredReading(NamedTuple):
    """A judged reading, as ``models.Reading`` has it. A tuple: there are many, and they are made fast."""

    read_at: datetime
    arrival: int
    register_ml: int
    quality: ReadingQuality
    reason: str | None
    received_at: datetime
    counted_ml: int | None
    corrected_ml: int | None
    claimed_at: datetime | None

    @property
    def counts(self) -> bool:
        """Tell whether it is charged by."""
        return self.quality in COUNTED

    @property
    def accepted(self) -> AcceptedReading | None:
        """The reading as others go on from it: it counts, or is left out for air; None for one that stands nowhere."""
        if self.quality not in COUNTED and self.counted_ml is None:
            return None
        shown_ml = self.register_ml if self.corrected_ml is None else self.corrected_ml
        return AcceptedReading(self.read_at, shown_ml, shown_ml if self.counted_ml is None else self.counted_ml)


@dataclass(frozen=True, slots=True)
class DayUse:
    """A service day: R at its start and at its end."""

    start_ml: int
    end_ml: int

    @property
    def volume_ml(self) -> int:
        """Millilitres that ran that day."""
        return self.end_ml - self.start_ml


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Stored rows around a meter's new reports.

    ``readings``: of each span that ``told_spans`` names every reading, and the nearest accepted one on either side; and
    those kept by arrival that told an instant told now. ``suspects``: of readings before each span that are held for a
    jump, upon the accepted one below it, the last instant and the lowest register. ``days``: all days of the billing
    periods that new readings can change, and the last HABIT_DAYS. ``horizon``: before it readings were let go.
    """

    readings: Sequence[StoredReading] = ()
    suspects: Sequence[tuple[datetime, int]] = ()
    days: Mapping[date, DayUse] = field(default_factory=dict)
    horizon: datetime | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """New readings with what became of them, and the days that they change."""

    readings: tuple[StoredReading, ...] = ()
    days: Mapping[date, DayUse] = field(default_factory=dict)

    @property
    def held(self) -> tuple[StoredReading, ...]:
        """Those that wait for a person."""
        return tuple(one for one in self.readings if one.quality is ReadingQuality.HELD)


def told_spans(register: Register, reports: Sequence[RawReadings]) -> list[tuple[datetime, datetime]]:
    """Return where these reports' readings may come to stand, as spans of time with at least APART between them."""
    instants: set[datetime] = set()
    for report in reports:
        latest = report.received_at + MAX_CLOCK_LEAD
        told = [one.read_at for one in report.readings if register.installed_at <= one.read_at <= latest]
        instants.update(told)
        # One that counts by its arrival stands there; and a clock may have been set since a status report.
        if report.clock_wrong or report.stated_at is not None or len(told) < len(report.readings):
            instants.add(report.received_at)
            instants.add(report.received_at + len(report.readings) * _INSTANT)
    spans: list[tuple[datetime, datetime]] = []
    for at in sorted(instants):
        if spans and at - spans[-1][1] < APART:
            spans[-1] = (spans[-1][0], at)
        else:
            spans.append((at, at))
    return spans


def judge_reports(register: Register, around: Surroundings, reports: Sequence[RawReadings]) -> Judged:
    """Judge reports in the order of their arrival."""
    bench = _Bench(register, around)
    for report in reports:
        bench.take(report)
    return bench.outcome()


def judge_again(register: Register, around: Surroundings, held: Sequence[StoredReading], now: datetime) -> Judged:
    """Judge readings that are held, in order of time, as if they came now. They are not among ``around.readings``."""
    bench = _Bench(register, around)
    fresh = [_Fresh(_as_new(one), one.received_at, one.claimed_at, one.arrival) for one in held]
    bench.judge(fresh, now)
    return bench.outcome()


class _Fresh(NamedTuple):
    """A reading to judge, and what its row will hold beside the verdict."""

    new: NewReading
    received_at: datetime
    claimed_at: datetime | None
    arrival: int


class _Bench:
    """A meter's readings while its reports are judged: what stands so far, and what has changed."""

    def __init__(self, register: Register, around: Surroundings) -> None:
        self._register, self._around = register, around
        # In order of time. Of each span the neighbours are there, so what lies between two spans is in nobody's way.
        self._accepted = [register.start]
        self._told: dict[datetime, list[StoredReading]] = {}
        self._kept: dict[datetime, list[StoredReading]] = {}
        self._by_arrival: list[datetime] = []
        self._suspects = sorted(around.suspects)
        self._days = dict(around.days)
        self._changed: set[date] = set()
        self._judged: list[StoredReading] = []
        self._day_at: tuple[datetime, datetime, date] | None = None
        for one in sorted(around.readings, key=lambda one: (one.read_at, one.arrival)):
            self._remember(one)

    def outcome(self) -> Judged:
        """Return what has become of the readings taken so far."""
        return Judged(tuple(self._judged), {day: self._days[day] for day in sorted(self._changed)})

    def take(self, report: RawReadings) -> None:
        """Judge one report."""
        clock_wrong = report.clock_wrong or self._is_overtaken(report)
        self.judge(self._only_new(report, clock_wrong=clock_wrong), report.received_at)

    def judge(self, fresh: Sequence[_Fresh], now: datetime) -> None:
        """Decide which of these count, in order of time; each comes with the row that it will be."""
        if not fresh:
            return
        context = ValidationContext(self._register.max_ml, self._around.horizon, self._usual_day_ml(fresh, now))
        suspects = SuspectReadings(self._suspects if self._rises_far(fresh) else ())
        for one in fresh:
            new = one.new
            place = bisect_right(self._accepted, new.read_at, key=_READ_AT)
            below = self._accepted[max(place - 1, 0)]
            above = self._accepted[place] if 0 < place < len(self._accepted) else None
            if new.read_at in self._kept and any(other.counts for other in self._kept[new.read_at]):
                verdict = Verdict(ReadingQuality.HELD, Reason.SECOND_VALUE)
            else:
                verdict = validate(new, below, above, context, suspects.lowest_ml(below.read_at, new.read_at))
            if verdict.reason is Reason.IMPLAUSIBLE_FLOW and verdict.counted_ml is None:
                suspects.add(new.read_at, new.register_ml)
            self._settle(one, verdict, below, above)

    def _settle(self, one: _Fresh, verdict: Verdict, below: AcceptedReading, above: AcceptedReading | None) -> None:
        new, quality, reason, counted_ml = one.new, verdict.quality, verdict.reason, verdict.counted_ml
        judged = StoredReading(
            *(new.read_at, one.arrival, new.register_ml, quality, reason, one.received_at),
            *(counted_ml, None, one.claimed_at),
        )
        self._judged.append(judged)
        self._remember(judged)
        if not verdict.counts or verdict.counted_ml is None:
            return
        day = self._day(new.read_at)
        known = self._days.get(day)
        next_day = None if above is None else self._day(above.read_at)
        if known is None:
            self._days[day] = DayUse(below.counted_ml, verdict.counted_ml)
        elif next_day != day:
            self._days[day] = DayUse(known.start_ml, verdict.counted_ml)
        self._changed.add(day)
        if next_day is not None and next_day != day and next_day in self._days:
            self._days[next_day] = DayUse(verdict.counted_ml, self._days[next_day].end_ml)
            self._changed.add(next_day)

    def _remember(self, one: StoredReading) -> None:
        self._told.setdefault(one.claimed_at or one.read_at, []).append(one)
        self._kept.setdefault(one.read_at, []).append(one)
        if one.claimed_at is not None:
            insort(self._by_arrival, one.read_at)
        if one.quality is ReadingQuality.HELD and one.reason == Reason.IMPLAUSIBLE_FLOW:
            insort(self._suspects, (one.read_at, one.register_ml))
        accepted = one.accepted
        if accepted is not None:
            if accepted.read_at >= self._accepted[-1].read_at:
                self._accepted.append(accepted)
            else:
                insort(self._accepted, accepted, key=_READ_AT)

    def _is_overtaken(self, report: RawReadings) -> bool:
        """Tell if readings were kept by their arrival since: the clock was set between two reports of one contact.

        The later one, told in whole seconds, would stand before what came before it.
        """
        if report.stated_at is None:
            return False
        place = bisect_right(self._by_arrival, report.stated_at)
        return place < len(self._by_arrival) and self._by_arrival[place] <= report.received_at

    def _only_new(self, report: RawReadings, *, clock_wrong: bool) -> list[_Fresh]:
        """Those that are not stored yet, in order of time; another value for the same instant is new.

        Where the clock was wrong the instant that was told is kept beside that of the arrival, in the order of telling.
        """
        fresh: list[_Fresh] = []
        seen: set[tuple[datetime, int]] = set()
        arrived_at, latest = report.received_at, report.received_at + MAX_CLOCK_LEAD
        known, installed_at, received_at = self._told, self._register.installed_at, report.received_at
        for told in sorted(report.readings, key=_READ_AT):
            read_at, register_ml = told.read_at, told.register_ml
            if (read_at, register_ml) in seen:
                continue
            if read_at in known and any(one.register_ml == register_ml for one in known[read_at]):
                continue
            seen.add((read_at, register_ml))
            if clock_wrong or not installed_at <= read_at <= latest:
                # By arrival: a microsecond apart, so that each has an instant of its own.
                while arrived_at in self._kept:
                    arrived_at += _INSTANT
                new = NewReading(arrived_at, register_ml, told.empty_pipe, clock_wrong=True)
                fresh.append(_Fresh(new, received_at, read_at, 0))
                arrived_at += _INSTANT
            else:
                before = fresh[-1] if fresh and fresh[-1].new.read_at == read_at else None
                arrival = len(self._kept.get(read_at, ())) if before is None else before.arrival + 1
                fresh.append(_Fresh(NewReading(read_at, register_ml, told.empty_pipe), received_at, None, arrival))
        return sorted(fresh, key=lambda one: one.new.read_at)

    def _rises_far(self, fresh: Sequence[_Fresh]) -> bool:
        """Tell whether one of them rises by so much that those held for a jump are to be looked at."""
        if not self._suspects:
            return False
        first = max(bisect_left(self._accepted, fresh[0].new.read_at, key=_READ_AT) - 1, 0)
        last = bisect_right(self._accepted, fresh[-1].new.read_at, key=_READ_AT) + 1
        lowest_ml = min(one.register_ml for one in self._accepted[first:last])
        return any(new.register_ml - lowest_ml > FLOW_SLACK_ML for new, *_ in fresh)

    def _usual_day_ml(self, fresh: Sequence[_Fresh], now: datetime) -> int | None:
        """The most of a day lately, where one of them steps far enough to be compared with it."""
        below = self._accepted[max(bisect_left(self._accepted, fresh[0].new.read_at, key=_READ_AT) - 1, 0)]
        registers = [below.register_ml, *(new.register_ml for new, *_ in fresh)]
        if not any(is_large(after - before) for before, after in pairwise(registers)):
            return None
        since = (now - timedelta(days=HABIT_DAYS)).date()
        return max((use.volume_ml for day, use in self._days.items() if day >= since), default=0) or None

    def _day(self, at: datetime) -> date:
        if self._day_at is None or not self._day_at[0] < at <= self._day_at[1]:
            day = service_day(at, self._register.zone)
            span = day_span(day, self._register.zone)
            self._day_at = (span.start, span.end, day)
        return self._day_at[2]


def _as_new(one: StoredReading) -> NewReading:
    return NewReading(
        one.read_at, one.register_ml, one.reason == Reason.EMPTY_PIPE, clock_wrong=one.claimed_at is not None
    )
