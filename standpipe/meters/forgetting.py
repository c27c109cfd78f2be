"""Forgetting in this room, when the last member of a household is forgotten."""

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.claim_models import ClaimCode
from standpipe.meters.models import Meter


async def end_codes(session: AsyncSession, household_ids: Sequence[str]) -> None:
    """End the claim codes of the meters of these households: whoever comes next gets theirs from the utility, which
    then notes who moved out and who in, and so keeps the history of those before from them.
    """
    meters = select(Meter.id).where(Meter.household_id.in_(household_ids))
    await session.execute(
        update(ClaimCode)
        .where(ClaimCode.meter_id.in_(meters), ClaimCode.used_at.is_(None), ClaimCode.revoked_at.is_(None))
        .values(revoked_at=func.now())
    )
