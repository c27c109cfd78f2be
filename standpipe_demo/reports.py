"""Reports of made-up meters, taken in as a gateway takes them."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.unit_of_work import UnitOfWork
from standpipe.meter_gateway.delivery import Told, take_in
from standpipe.meters.delivery_state import Heard
from standpipe.meters.reports import MeterReport
from standpipe.platform.errors import InvalidInputError


async def take_report(session: AsyncSession, report: MeterReport, now: datetime) -> None:
    """Take one report in, in the caller's transaction.

    Raises NotFoundError for an unknown meter, InvalidInputError for a report that is not to be believed.
    """
    await session.flush()
    work = await UnitOfWork.of(session)
    (changes,) = await take_in(work, [Told(Heard(report.meter_id, report))], now)
    if isinstance(changes, Exception):
        raise changes
    await work.flush()
    if changes.refused is not None:
        raise InvalidInputError(changes.refused)
