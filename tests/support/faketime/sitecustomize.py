"""Loaded by every Python process that tests/on_any_day.py starts, the children of children too.

``time.sleep`` waits by ``clock_nanosleep``, which libfaketime 0.9.10 answers with EINVAL where the monotonic clock is
left alone. ``select`` waits as long.
"""

import select
import time

time.sleep = lambda seconds: select.select([], [], [], seconds) and None  # type: ignore[assignment, func-returns-value]
