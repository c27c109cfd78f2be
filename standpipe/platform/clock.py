"""The clock that customers read: real time, or a faster one so that a demo's day passes in minutes.

What a customer reads (readings, balances, a top-up's timeline) is stamped by this clock. What a machine waits
for (leases, retries, tokens, webhook ages) uses real time, or a fast clock would multiply every back-off.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Clock:
    """``now()`` = ``anchor_at`` + (real time since ``anchor_real_s``) × ``factor``; factor 1 is real time."""

    factor: float = 1.0
    anchor_real_s: float = 0.0
    anchor_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """The present instant, in UTC."""
        return self.anchor_at + timedelta(seconds=(time.time() - self.anchor_real_s) * self.factor)

    def real_s(self, duration: timedelta) -> float:
        """Return the real seconds that pass while ``duration`` passes on this clock."""
        return duration.total_seconds() / self.factor
