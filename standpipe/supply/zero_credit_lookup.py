"""The policy that a meter is told for when its credit ends, for whoever looks; and what has all meters look again."""

from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.due import mark_utility_due
from standpipe.meters.models import Meter, MeterState
from standpipe.meters.reports import ValveReason, ValveState
from standpipe.supply.zero_credit import PolicyTerms, UtilityPolicy, ZeroCreditPolicy, zero_credit_policy
from standpipe.tariffs.models import CustomerClass, SupplyTerms, Tariff
from standpipe.utilities.models import Utility

_SHUT = (ValveState.CLOSED, ValveState.RESTRICTED)


async def order_of(session: AsyncSession, meter: Meter, now: datetime) -> ZeroCreditPolicy:
    """Return the policy of a meter at zero. Raises InvalidInputError where the stored rules are none."""
    zone = ZoneInfo(meter.time_zone)
    utility = await session.get_one(Utility, meter.utility_id, populate_existing=True)
    classes = select(CustomerClass.code, CustomerClass.cut_off).where(CustomerClass.utility_id == utility.id)
    rows = await session.execute(
        select(SupplyTerms.from_day, Tariff.customer_class, SupplyTerms.cut_off)
        .join(Tariff, Tariff.id == SupplyTerms.tariff_id)
        .where(SupplyTerms.meter_id == meter.id)
        .order_by(SupplyTerms.from_day)
    )
    terms = [PolicyTerms(*row) for row in rows]
    first_day = meter.installed_at.astimezone(zone).date()
    if not terms or terms[0].from_day > first_day:
        own_class = await session.scalar(select(Tariff.customer_class).where(Tariff.id == meter.tariff_id))
        terms.insert(0, PolicyTerms(first_day, own_class or "", None))
    policy = UtilityPolicy(
        utility.cut_off,
        utility.friendly,
        utility.released_reason,
        utility.released_until,
        {code: cut_off for code, cut_off in await session.execute(classes)},  # noqa: C416 - dict() takes no rows.
    )
    state = await session.get(MeterState, meter.id)
    is_shut = state is not None and state.valve in _SHUT and state.valve_reason == ValveReason.NO_CREDIT
    return zero_credit_policy(policy, terms, zone, now, is_shut=is_shut)


async def look_again(session: AsyncSession, utility_id: str) -> None:
    """Have each meter of a utility rated anew: what they all go by has changed."""
    await session.flush()
    await mark_utility_due(await session.connection(), utility_id)
