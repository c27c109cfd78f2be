"""Rounds over meters in which one that fails holds up no other."""

import time
from collections.abc import Awaitable, Callable, Iterable

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

REST_S = 600.0
_log = structlog.get_logger(__name__)


class FailureBackoff:
    """Meters at which this process has failed. They rest for a while, in real time, and are then tried again."""

    def __init__(self, queue: str, *, rest_s: float = REST_S) -> None:
        self._queue, self._rest_s = queue, rest_s
        self._until_s: dict[str, float] = {}

    def backing_off(self) -> list[str]:
        """Those to leave out of the next round."""
        now_s = time.monotonic()
        self._until_s = {meter_id: until_s for meter_id, until_s in self._until_s.items() if until_s > now_s}
        return list(self._until_s)

    async def each(self, meter_ids: Iterable[str], work: Callable[[str], Awaitable[None]]) -> int:
        """Work on one meter after the other; returns with how many that went well.

        Raises what the database raises when it is away: that is no meter's fault.
        """
        done = 0
        for meter_id in meter_ids:
            try:
                await work(meter_id)
                done += 1
            except (OSError, InterfaceError, OperationalError):
                raise
            except Exception:
                _log.exception("meter failed", queue=self._queue, meter_id=meter_id)
                self._until_s[meter_id] = time.monotonic() + self._rest_s
        return done
