"""Who may see a meter. Another household's meter and one that does not exist raise the same error."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Membership
from standpipe.errors import NotFoundError
from standpipe.meters.models import Meter


async def require_meter(session: AsyncSession, *, customer_id: str, meter_id: str) -> Meter:
    """The meter, if this customer's household has it. Raises NotFoundError."""
    meter = await session.scalar(
        select(Meter)
        .join(Membership, Membership.household_id == Meter.household_id)
        .where(Meter.id == meter_id, Membership.customer_id == customer_id)
    )
    if meter is None:
        raise NotFoundError("No such meter.")
    return meter
