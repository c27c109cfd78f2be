"""The rule of when a household is told that its water runs low. Pure.

One alert per crossing (N1), the most urgent of several crossed at once (N2), re-armed only when the credit has risen
clearly above the threshold. Credit on its way counts (N3). What is not known raises nothing (N4): silence is not zero.

Each member has thresholds of their own. One level stands per meter, over the thresholds of all its members together,
and ``concerns`` says whom a crossing is news to: exactly those whom a level of their own would have told.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

THRESHOLDS_DAYS = (7, 3, 1)
"""Of a member who has said nothing else."""
EMPTY = 0
"""The level of an empty wallet, beyond the last threshold."""


@dataclass(frozen=True, slots=True)
class LowBalanceSignal:
    """State of a meter's credit. ``days_left`` None: too little use to tell. ``credit_minor``: with what is on its way.

    ``left_ml``: the same of a meter that holds volume, whose credit in money says nothing.
    ``fresh``: the meter has spoken recently. An old word may arm a threshold (credit came), never raise one.
    """

    days_left: float | None
    credit_minor: int
    fresh: bool = True
    left_ml: int | None = None

    @property
    def empty(self) -> bool:
        """Tell whether nothing is left."""
        return (self.credit_minor if self.left_ml is None else self.left_ml) <= 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The level that now stands (None: armed), and whether crossing it is to be told."""

    level: int | None
    tell: bool


def evaluate(level: int | None, signal: LowBalanceSignal, thresholds: Collection[int] = THRESHOLDS_DAYS) -> Decision:
    """From the level that stands and a new signal to the next; a lower level is more urgent."""
    reached = _level_of(signal, thresholds)
    if reached is not None and (level is None or reached < level):
        return Decision(reached, tell=True) if signal.fresh else Decision(level, tell=False)
    return Decision(_rearmed(level, signal, thresholds), tell=False)


def concerns(days_left: Collection[int], before: int | None, level: int) -> bool:
    """Tell whether a member with these thresholds is told of a crossing from one level to a more urgent one."""
    return level == EMPTY or any(level <= days and (before is None or days < before) for days in days_left)


def quiet_until(now: datetime, zone: ZoneInfo, quiet_from: str, quiet_to: str) -> datetime | None:
    """Return when the quiet hours ("HH:MM" to "HH:MM", over midnight too) around ``now`` end; None outside of them."""
    start, end = time.fromisoformat(quiet_from), time.fromisoformat(quiet_to)
    local = now.astimezone(zone)
    clock = local.time()
    inside = start <= clock < end if start < end else clock >= start or clock < end
    if not inside:
        return None
    day = local.date() if clock < end else local.date() + timedelta(days=1)
    # Where the clocks go back the end comes twice, and the first may be over.
    ends = (datetime.combine(day, end, tzinfo=zone).replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return next((instant for instant in ends if instant > now), None)


def _level_of(signal: LowBalanceSignal, thresholds: Collection[int]) -> int | None:
    if signal.empty:
        return EMPTY
    if signal.days_left is None:
        return None
    crossed = [days for days in thresholds if signal.days_left <= days]
    return min(crossed) if crossed else None


def _rearmed(level: int | None, signal: LowBalanceSignal, thresholds: Collection[int]) -> int | None:
    """The level goes back up only past a margin above its threshold, so that hovering around it tells once."""
    if level is None:
        return None
    if signal.days_left is None:
        return None if not signal.empty and level == EMPTY else level
    standing = [days for days in (EMPTY, *thresholds) if signal.days_left <= days + max(1.0, days * 0.2)]
    remaining = [days for days in standing if days >= level]
    return min(remaining) if remaining else None
