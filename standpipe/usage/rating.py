"""Rating: what follows from a meter's raw readings, its terms and the day, in rounds over meters that are due."""

from datetime import datetime, timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.queue import backoff_s
from standpipe.meters import due
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.notify import LIVE, notify
from standpipe.usage import cut_off
from standpipe.usage.readings import judge_raw

BACKOFF_S, MAX_BACKOFF_S = 5.0, 3600.0
_log = structlog.get_logger(__name__)


async def rate_now(session: AsyncSession, meter_id: str, now: datetime) -> None:
    """Rate a meter in the caller's transaction, which locks it. Raises NotFoundError."""
    meter = await lock_meter(session, meter_id)
    await _rate(session, meter, now)


async def rate_due(sessions: Sessions, clock: Clock, *, most: int = due.MOST) -> int:
    """Rate the meters that are due, each in a transaction of its own; returns how many were claimed."""
    now = clock.now()
    async with sessions.begin() as session:
        claimed = await due.claim(await session.connection(), now, most=most)
    for one in claimed:
        try:
            async with sessions.begin() as session:
                locked = select(Meter).where(Meter.id == one.meter_id)
                meter = await session.scalar(locked.with_for_update(key_share=True, skip_locked=True))
                if meter is None:
                    await due.give_back(await session.connection(), [one.meter_id])
                    continue
                await _rate(session, meter, now)
                await due.finish(await session.connection(), [(one.meter_id, one.marks, None)], now)
        except (OSError, InterfaceError, OperationalError):
            raise
        except Exception as error:
            _log.exception("meter not rated", meter_id=one.meter_id)
            pause = timedelta(seconds=backoff_s(one.attempts, base_s=BACKOFF_S, cap_s=MAX_BACKOFF_S))
            async with sessions.begin() as session:
                reason = f"{type(error).__name__}: {error}"
                await due.set_aside(await session.connection(), one.meter_id, reason, pause=pause)
    return len(claimed)


async def _rate(session: AsyncSession, meter: Meter, now: datetime) -> None:
    await judge_raw(session, meter, now)
    await cut_off.refresh(session, meter, now)
    await session.flush()
    await notify(session, LIVE, meter.id)
