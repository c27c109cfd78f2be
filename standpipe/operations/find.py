"""Things by the names that people type. Every use case finds its meter and its utility here."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.utilities.models import Utility


async def meter_of(session: AsyncSession, serial: str) -> Meter:
    """Find a meter by its serial. Raises NotFoundError."""
    meter = await session.scalar(select(Meter).where(Meter.serial == serial))
    if meter is None:
        raise NotFoundError(f"No meter has the serial {serial}.")
    return meter


async def utility_of(session: AsyncSession, utility_id: str | None) -> Utility:
    """Find the utility meant; None: the only one. Raises InvalidInputError where there are several, NotFoundError."""
    query = select(Utility).limit(2)
    found = (await session.scalars(query if utility_id is None else query.where(Utility.id == utility_id))).all()
    if utility_id is not None and not found:
        raise NotFoundError(f"There is no utility {utility_id}.")
    if len(found) != 1:
        raise InvalidInputError("Say which utility: --utility-id.")
    return found[0]
