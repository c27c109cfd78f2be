"""An operator's decisions about one meter's readings."""

from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import select

from standpipe.billing import review
from standpipe.billing.review import HeldReading, Outcome
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.database import Sessions
from standpipe.readings.models import Reading
from tests.support.rating import take_report
from tests.support.town import Home
from tests.support.water import LATER, meter, state

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
APRIL, MAY = date(2026, 4, 1), date(2026, 5, 1)
NOTE = "the fitter's sheet"


class Desk:
    """An operator's decisions about one meter."""

    def __init__(self, sessions: Sessions, home: Home) -> None:
        self.sessions, self.home = sessions, home

    async def _do(self, act: Callable[..., Awaitable[Outcome]], **more: Any) -> Outcome:
        async with self.sessions.begin() as session:
            return await act(session, operator="amina", meter_id=self.home.meter_id, now=LATER, **more)

    async def release(self, read_at: datetime, note: str = NOTE) -> Outcome:
        return await self._do(review.release, read_at=read_at, note=note)

    async def reject(self, read_at: datetime) -> Outcome:
        return await self._do(review.reject, read_at=read_at, note=NOTE)

    async def correct(self, read_at: datetime, register_ml: int) -> Outcome:
        return await self._do(review.correct, read_at=read_at, register_ml=register_ml, note=NOTE)

    async def swap(self, at: datetime, final_ml: int, start_ml: int) -> Outcome:
        return await self._do(review.swap_register, at=at, final_ml=final_ml, start_ml=start_ml, note=NOTE)

    async def rejudge(self) -> Outcome:
        return await self._do(review.rejudge)

    async def held(self, **more: Any) -> list[HeldReading]:
        async with self.sessions() as session:
            return await review.held_readings(session, **more)

    async def reading(self, read_at: datetime) -> Reading:
        async with self.sessions() as session:
            return await session.get_one(Reading, (self.home.meter_id, read_at, 0))

    async def volume(self) -> int:
        return sum((await state(self.sessions, self.home))["days"].values())


async def desk_of(sessions: Sessions) -> Desk:
    home, _ = await meter(sessions)
    return Desk(sessions, home)


async def air(desk: Desk, at: datetime, register_ml: int) -> None:
    report = MeterReport(desk.home.meter_id, LATER, (RegisterReading(at, register_ml, empty_pipe=True),))
    async with desk.sessions.begin() as session:
        await take_report(session, report, LATER)


async def rows(sessions: Sessions) -> list[Reading]:
    """Every reading, in order of time."""
    async with sessions() as session:
        return list((await session.scalars(select(Reading).order_by(Reading.read_at))).all())
