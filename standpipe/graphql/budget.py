"""A budget of points for each customer, filled again by the second: a token bucket.

It protects the processor of one server process, so it is kept there, and not in the database: asking would cost what
most operations do. What must hold across processes (tries of a code, of a claim) is counted in the database.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

CAPACITY = 30_000
REFILL_PER_S = 300
MAX_KNOWN = 50_000


@dataclass
class Budgets:
    """The budgets of one process; those not used for longest are forgotten, and are full again."""

    capacity: int = CAPACITY
    refill_per_s: int = REFILL_PER_S
    now_s: Callable[[], float] = time.monotonic
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, who: str, points: int) -> int:
        """Take points; returns what is left, or, where there was not enough and nothing was taken, a negative number:
        the points that are missing.
        """
        now_s = self.now_s()
        left, at_s = self._left.pop(who, (float(self.capacity), now_s))
        left = min(self.capacity, left + (now_s - at_s) * self.refill_per_s)
        enough = left >= points
        self._left[who] = (left - points if enough else left, now_s)
        while len(self._left) > MAX_KNOWN:
            self._left.popitem(last=False)
        return int(left - points) if enough else min(int(left - points), -1)

    def wait_s(self, missing: int) -> int:
        """Seconds until so many points have come back."""
        return max(1, -(-missing // self.refill_per_s))


@dataclass
class Streams:
    """Numbers of live subscriptions of each customer in this process."""

    _open: dict[str, int] = field(default_factory=dict)

    def enter(self, who: str, most: int) -> bool:
        """Take a place; False where there is none."""
        if self._open.get(who, 0) >= most:
            return False
        self._open[who] = self._open.get(who, 0) + 1
        return True

    def leave(self, who: str) -> None:
        """Give it back."""
        left = self._open.pop(who, 0) - 1
        if left > 0:
            self._open[who] = left
