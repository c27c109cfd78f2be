"""Charges: the difference between what a period costs now and what it was charged, never an event that "adds"."""

from collections.abc import Collection
from datetime import date, datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.models import Meter
from standpipe.tariffs.catalogue import version_in_force
from standpipe.tariffs.pricing import cost_minor
from standpipe.units import period_of
from standpipe.usage.models import DailyUsage, PeriodCharge


async def charge_periods(session: AsyncSession, meter: Meter, days: Collection[date], now: datetime) -> None:
    """Bring the charges of every billing period that these days fall into up to date; the meter is locked."""
    for start in sorted({period_of(day)[0] for day in days}):
        await _charge_period(session, meter, start, now)


async def period_volume_ml(session: AsyncSession, meter_id: str, period_start: date) -> int:
    """The volume of one billing period so far."""
    start, end = period_of(period_start)
    volume = await session.scalar(
        select(func.coalesce(func.sum(DailyUsage.volume_ml), 0)).where(
            DailyUsage.meter_id == meter_id, DailyUsage.day >= start, DailyUsage.day < end
        )
    )
    return int(volume or 0)


async def _charge_period(session: AsyncSession, meter: Meter, start: date, now: datetime) -> None:
    version = await version_in_force(session, meter.tariff_id, start)
    volume_ml = await period_volume_ml(session, meter.id, start)
    charge = await _lock_charge(session, meter.id, start, version.version_id)
    total_minor = cost_minor(version.table, volume_ml)
    difference_minor = total_minor - charge.charged_minor
    charge.volume_ml, charge.tariff_version_id = volume_ml, version.version_id
    if not difference_minor:
        return
    charge.charged_minor = total_minor
    charge.revision += 1
    await post(
        session,
        key=f"usage:{meter.id}:{start.isoformat()}:r{charge.revision}",
        kind="USAGE",
        lines=[
            Line(AccountRef(AccountKind.WALLET, meter.id, meter.currency), -difference_minor),
            Line(AccountRef(AccountKind.REVENUE, meter.utility_id, meter.currency), difference_minor),
        ],
        occurred_at=now,
        states_fact=True,
    )


async def _lock_charge(session: AsyncSession, meter_id: str, start: date, version_id: str) -> PeriodCharge:
    await session.execute(
        insert(PeriodCharge)
        .values(
            meter_id=meter_id,
            period_start=start,
            tariff_version_id=version_id,
            volume_ml=0,
            charged_minor=0,
            revision=0,
        )
        .on_conflict_do_nothing()
    )
    row = await session.get(
        PeriodCharge, (meter_id, start), with_for_update={"key_share": True}, populate_existing=True
    )
    assert row is not None, "inserted above"  # noqa: S101 - for the type checker; the row was just made.
    return row
