"""Facts, handed to every room that may react to them; each says in its own ``reactions`` what it does about which.

Facts come in batches: what they ask of their meters is read once for all of them.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing import fact_meters
from standpipe.billing.fact_meters import Meters
from standpipe.meters.forgetting import end_codes
from standpipe.notifications import reactions as notifications
from standpipe.outbox.facts import CustomerForgotten, Fact
from standpipe.payments import reactions as payments


async def load_meters(
    session: AsyncSession, facts: Collection[Fact], now: datetime, offline_after: timedelta
) -> Meters:
    """Load what the rooms need to know of the meters that these facts are about."""
    asked = {room.meter_of(fact) for fact in facts for room in (payments, notifications)} - {None}
    return await fact_meters.load_meters(session, [one for one in asked if one is not None], now, offline_after)


async def react(session: AsyncSession, fact: Fact, meters: Meters) -> None:
    """Reactions that join one transaction, in which the facts of a batch are also ticked off."""
    if isinstance(fact, CustomerForgotten):
        await end_codes(session, fact.household_ids)
    await payments.on(session, fact, meters)
    await notifications.on(session, fact, meters)
