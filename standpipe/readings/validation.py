"""Validation of register readings (the V of VEE). Pure: one reading, its counted neighbours, a verdict.

A reading counts (MEASURED) or is HELD for a person, with a reason. What is odd but possible counts and carries a flag:
a roll-over, a spike, a gap before it, a wrong clock. Nothing is estimated here: what is not measured is not billed.

What is held must not be billed by the next reading either. Air that spun the register is left out of all that follows
(``Verdict.counted_ml`` of a held reading); a jump that no pipe can pass holds whatever stands upon it, however long
nobody looks: time alone does not make it possible.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from standpipe.readings.models import ReadingQuality

MAX_CLOCK_LEAD = timedelta(minutes=15)
MAX_FLOW_ML_PER_H = 20_000_000
"""20 m³/h: beyond the overload flow of a household meter (ISO 4064-1, Q4 for Q3 = 16 m³/h)."""
FLOW_SLACK_ML = 1_000_000
GAP = timedelta(hours=25)
"""A meter tells of each hour, or at least of each day, of up to 25 hours."""
SPIKE_TIMES = 5
"""Times the most that a day has taken lately: a burst pipe or a broken meter rather than a garden party."""
SPIKE_LEAST_ML = 2_000_000
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class Reason(StrEnum):
    """Reasons for which a reading is HELD (the first six), is odd though it counts, or was decided by a person.

    SECOND_VALUE: another value for this very instant counts already.
    """

    BACKWARDS = "BACKWARDS"
    IMPLAUSIBLE_FLOW = "IMPLAUSIBLE_FLOW"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    EMPTY_PIPE = "EMPTY_PIPE"
    BEFORE_RETENTION = "BEFORE_RETENTION"
    SECOND_VALUE = "SECOND_VALUE"
    ROLL_OVER = "ROLL_OVER"
    SPIKE = "SPIKE"
    GAP = "GAP"
    CLOCK_WRONG = "CLOCK_WRONG"
    RELEASED = "RELEASED"
    SWAPPED = "SWAPPED"


class AcceptedReading(NamedTuple):
    """A reading that others go on from: what the register showed, and where that stands in the meter's life."""

    read_at: datetime
    register_ml: int
    counted_ml: int


class NewReading(NamedTuple):
    """A reading to judge. ``empty_pipe``: the meter felt air. ``clock_wrong``: its instant is that of its arrival."""

    read_at: datetime
    register_ml: int
    empty_pipe: bool = False
    clock_wrong: bool = False


@dataclass(frozen=True, slots=True)
class ValidationContext:
    """Context of a reading's judgement. ``usual_day_ml``: the most of a day lately; None where nothing is known yet."""

    register_max_ml: int | None
    horizon: datetime | None
    usual_day_ml: int | None


class Verdict(NamedTuple):
    """``counted_ml``: where the reading stands; None for one that stands nowhere.

    One that is held for air stands where the reading below it does: what follows goes on from its register, without
    the air.
    """

    quality: ReadingQuality
    reason: Reason | None
    counted_ml: int | None = None

    @property
    def counts(self) -> bool:
        """Tell whether it is charged by."""
        return self.quality is not ReadingQuality.HELD


def validate(
    reading: NewReading,
    below: AcceptedReading,
    above: AcceptedReading | None,
    context: ValidationContext,
    jump_ml: int | None = None,
) -> Verdict:
    """Judge a reading between its neighbours in time: does it count, and where does it stand?

    ``jump_ml``: the lowest register of those after ``below`` that are held for a jump, and not decided yet.
    """
    if context.horizon is not None and reading.read_at < context.horizon:
        return _held(Reason.BEFORE_RETENTION)
    if context.register_max_ml is not None and reading.register_ml >= context.register_max_ml:
        return _held(Reason.OUT_OF_RANGE)
    counted_ml, rolled = register_position(reading.register_ml, below, above, context.register_max_ml)
    if counted_ml is None:
        # Air is the better reason: it keeps a later look from taking the reading for a plain one.
        return _held(Reason.EMPTY_PIPE if reading.empty_pipe else Reason.BACKWARDS)
    volume_ml = counted_ml - below.counted_ml
    upon_jump = jump_ml is not None and below.register_ml < jump_ml <= reading.register_ml
    if upon_jump or not is_possible(volume_ml, reading.read_at - below.read_at):
        impossible = Reason.BACKWARDS if rolled else Reason.IMPLAUSIBLE_FLOW
        return _held(Reason.EMPTY_PIPE if reading.empty_pipe else impossible)
    if reading.empty_pipe and volume_ml > 0:
        # One that comes late stands nowhere: what follows it has been charged.
        return Verdict(ReadingQuality.HELD, Reason.EMPTY_PIPE, below.counted_ml if above is None else None)
    return Verdict(ReadingQuality.MEASURED, _flag(reading, below, volume_ml, context, rolled=rolled), counted_ml)


def is_possible(volume_ml: int, duration: timedelta) -> bool:
    """Tell whether so much water can pass a household's meter in that time."""
    return volume_ml <= FLOW_SLACK_ML or volume_ml <= duration / _HOUR * MAX_FLOW_ML_PER_H + FLOW_SLACK_ML


def is_large(volume_ml: int) -> bool:
    """Tell whether a step is worth comparing with the meter's habits, which takes a look at its days."""
    return volume_ml > SPIKE_LEAST_ML


def register_position(
    register_ml: int, below: AcceptedReading, above: AcceptedReading | None, register_max_ml: int | None
) -> tuple[int | None, bool]:
    """Place a register value: on from the reading below, back from the one above, or over the register's top.

    None where it stands nowhere between them; and whether it went over the top.
    """
    ceiling_ml = above.counted_ml if above is not None else None

    def fits(counted_ml: int) -> bool:
        return counted_ml >= below.counted_ml and (ceiling_ml is None or counted_ml <= ceiling_ml)

    onward_ml = below.counted_ml + register_ml - below.register_ml
    if fits(onward_ml):
        return onward_ml, False
    if above is not None and fits(back_ml := above.counted_ml - above.register_ml + register_ml):
        return back_ml, False
    if register_max_ml is not None and register_ml < below.register_ml:
        over_ml = onward_ml + register_max_ml
        if fits(over_ml):
            return over_ml, True
    return None, False


def _flag(
    reading: NewReading, below: AcceptedReading, volume_ml: int, context: ValidationContext, *, rolled: bool
) -> Reason | None:
    if reading.clock_wrong:
        return Reason.CLOCK_WRONG
    if rolled:
        return Reason.ROLL_OVER
    duration = reading.read_at - below.read_at
    if context.usual_day_ml is not None and is_large(volume_ml):
        days = max(duration / _DAY, 1)
        if volume_ml > SPIKE_TIMES * context.usual_day_ml * days:
            return Reason.SPIKE
    return Reason.GAP if duration > GAP else None


def _held(reason: Reason) -> Verdict:
    return Verdict(ReadingQuality.HELD, reason)


class SuspectReadings:
    """Readings that are held for a jump, in order of time, looked through once in that order.

    Whoever stands upon one of them stands upon any lower one too, so a higher one before a lower is let go.
    """

    def __init__(self, held: Iterable[tuple[datetime, int]] = ()) -> None:
        self._held = deque(held)
        self._open: deque[tuple[datetime, int]] = deque()

    def add(self, read_at: datetime, register_ml: int) -> None:
        """Take one more, the newest."""
        while self._open and self._open[-1][1] >= register_ml:
            self._open.pop()
        self._open.append((read_at, register_ml))

    def lowest_ml(self, after: datetime, before: datetime) -> int | None:
        """The lowest register of those between two instants, both of which only ever rise."""
        while self._held and self._held[0][0] < before:
            self.add(*self._held.popleft())
        while self._open and self._open[0][0] <= after:
            self._open.popleft()
        return self._open[0][1] if self._open else None
