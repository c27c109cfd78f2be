"""Charges: the difference between what a period costs now and what it was charged, never an event that "adds".

A posting takes its place (``occurred_at``) in the period that it charges while that period's statement is open; after
that, in the month in which it is made, where it stands as an adjustment.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Utility
from standpipe.ledger.charges import charge_lines
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, post
from standpipe.meters.models import Meter, WalletKind
from standpipe.platform.units import local_midnight, period_of
from standpipe.tariffs.bought import bought_in_period
from standpipe.tariffs.catalogue import Contract, contract_of
from standpipe.tariffs.periods import UTILITY, Priced, Segment, places, price_standing, price_use, split_days
from standpipe.tariffs.pricing import charge_minor
from standpipe.tariffs.purchases import place_after
from standpipe.tariffs.terms import Basis
from standpipe.usage.models import DailyUsage, MonthlyUsage, PeriodCharge, StandingCharged, Statement

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class PeriodUse:
    """A period's segments and the volume of each."""

    segments: tuple[Segment, ...]
    volumes_ml: tuple[int, ...]

    @property
    def volume_ml(self) -> int:
        """The whole period's volume."""
        return sum(self.volumes_ml)


async def charge_periods(session: AsyncSession, meter: Meter, days: Collection[date], now: datetime) -> None:
    """Bring the charges of every billing period that these days fall into up to date; the meter is locked."""
    contract = await contract_for(session, meter)
    for start in sorted({period_of(day)[0] for day in days}):
        await _charge_period(session, meter, contract, start, now)
    await _guarantee(session, meter, contract, now)


async def contract_for(session: AsyncSession, meter: Meter) -> Contract:
    """By what a meter is charged."""
    first_day = meter.installed_at.astimezone(ZoneInfo(meter.time_zone)).date()
    return await contract_of(session, meter.id, meter.tariff_id, first_day)


async def accrue_standing(session: AsyncSession, meter: Meter, now: datetime) -> None:
    """Book the standing charges that have fallen due by the meter's today; the meter is locked.

    Whether or not water runs, and whatever the valve does. The first time it starts with the running period, so that
    a meter taken over from another system is not charged for its past.
    """
    zone = ZoneInfo(meter.time_zone)
    today = min(now, meter.closed_at or now).astimezone(zone).date()
    contract = await contract_for(session, meter)
    if meter.accrued_through is not None and meter.accrued_through >= today:
        if meter.guarantee_is_stale:
            await _guarantee(session, meter, contract, now)
        return
    start = period_of(meter.accrued_through or today)[0]
    while start <= today:
        await _charge_standing(session, meter, contract, start, today, now)
        start = period_of(start)[1]
    meter.accrued_through = today
    await _guarantee(session, meter, contract, now)


async def recharge(session: AsyncSession, meter: Meter, since: date, now: datetime) -> None:
    """Price all periods from a day on anew, after its supply terms were changed; the meter is locked."""
    contract = await contract_for(session, meter)
    rows = select(PeriodCharge.period_start).where(
        PeriodCharge.meter_id == meter.id, PeriodCharge.period_start >= period_of(since)[0]
    )
    for start in (await session.scalars(rows.order_by(PeriodCharge.period_start))).all():
        await _charge_period(session, meter, contract, start, now)
    await _guarantee(session, meter, contract, now)
    if meter.accrued_through is None:
        return
    # Only the months that were accrued: the past of a meter that was taken over stays as its old system billed it.
    accrued = select(StandingCharged.period_start).where(
        StandingCharged.meter_id == meter.id, StandingCharged.period_start >= period_of(since)[0]
    )
    for start in (await session.scalars(accrued.order_by(StandingCharged.period_start))).all():
        await _charge_standing(session, meter, contract, start, meter.accrued_through, now)


async def _guarantee(session: AsyncSession, meter: Meter, contract: Contract, now: datetime) -> None:
    """Note on the meter what its utility's guaranteed water costs at the present use; top-ups go by that."""
    meter.guarantee_is_stale = False
    guaranteed_ml = await session.scalar(select(Utility.guaranteed_ml).where(Utility.id == meter.utility_id)) or 0
    if not guaranteed_ml:
        meter.guaranteed_minor = 0
        return
    today = now.astimezone(ZoneInfo(meter.time_zone)).date()
    segments = contract.segments(today)
    if meter.wallet_kind == WalletKind.VOLUME:
        volumes = await bought_in_period(session, meter.id, today)
        _, place = place_after(segments, volumes, today)
    else:
        use = await period_use(session, meter.id, contract, period_of(today)[0])
        begun = [segment for segment in segments if segment.start <= today] or list(segments[:1])
        *_, place = places(begun, use.volumes_ml[: len(begun)])
    meter.guaranteed_minor = charge_minor(place.table, place.used_ml, guaranteed_ml, place.carried_minor)


async def period_volume_ml(session: AsyncSession, meter_id: str, period_start: date) -> int:
    """The volume of one billing period so far."""
    month = period_of(period_start)[0]
    query = select(MonthlyUsage.volume_ml).where(MonthlyUsage.meter_id == meter_id, MonthlyUsage.month == month)
    return await session.scalar(query) or 0


async def period_use(session: AsyncSession, meter_id: str, contract: Contract, period_start: date) -> PeriodUse:
    """A period's segments and volumes, from the daily roll-ups."""
    segments = contract.segments(period_start)
    if len(segments) == 1:
        return PeriodUse(segments, (await period_volume_ml(session, meter_id, period_start),))
    start, end = period_of(period_start)
    rows = await session.execute(
        select(DailyUsage.day, DailyUsage.volume_ml).where(
            DailyUsage.meter_id == meter_id, DailyUsage.day >= start, DailyUsage.day < end
        )
    )
    return PeriodUse(segments, split_days(segments, {day: volume_ml for day, volume_ml in rows}))  # noqa: C416


async def _charge_period(session: AsyncSession, meter: Meter, contract: Contract, start: date, now: datetime) -> None:
    use = await period_use(session, meter.id, contract, start)
    charge = await _lock_charge(session, meter.id, start, use.segments[0].version.version_id)
    charge.volume_ml, charge.tariff_version_id = use.volume_ml, use.segments[0].version.version_id
    priced = priced_use(use)
    before = _accounts(charge.accounts, charge.charged_minor)
    if priced.accounts == before:
        return
    charge.charged_minor, charge.accounts = priced.total_minor, dict(priced.accounts)
    charge.revision += 1
    wallet = AccountRef(AccountKind.WALLET, meter.id, meter.currency)
    await post(
        session,
        key=f"usage:{meter.id}:{start.isoformat()}:r{charge.revision}",
        kind="USAGE",
        lines=charge_lines(wallet, meter.utility_id, before, priced.accounts, own_code=UTILITY),
        occurred_at=await _value_at(session, meter, start, now),
        states_fact=True,
    )


def priced_use(use: PeriodUse) -> Priced:
    """What a period's use costs, by the tariff's own basis."""
    if use.segments[0].version.basis == Basis.PURCHASE:
        # Paid for when it was bought: water that runs from such a meter costs no more.
        return Priced(0, (), {})
    return price_use(use.segments, use.volumes_ml)


async def _charge_standing(
    session: AsyncSession, meter: Meter, contract: Contract, start: date, through: date, now: datetime
) -> None:
    priced = price_standing(contract.segments(start), through)
    row = await session.get(
        StandingCharged, (meter.id, start), with_for_update={"key_share": True}, populate_existing=True
    )
    if row is None:
        row = StandingCharged(meter_id=meter.id, period_start=start, charged_minor=0, accounts={}, revision=0)
        session.add(row)
    before = dict(row.accounts)
    if priced.accounts == before:
        return
    row.charged_minor, row.accounts = priced.total_minor, dict(priced.accounts)
    row.revision += 1
    due = AccountRef(AccountKind.STANDING_DUE, meter.id, meter.currency)
    await post(
        session,
        key=f"standing:{meter.id}:{start.isoformat()}:r{row.revision}",
        kind="STANDING",
        lines=charge_lines(due, meter.utility_id, before, priced.accounts, own_code=UTILITY),
        occurred_at=await _value_at(session, meter, start, now),
        states_fact=True,
    )


def _accounts(stored: Mapping[str, int] | None, charged_minor: int) -> dict[str, int]:
    """What was charged by code. A release before this one kept the total alone, all of it for water."""
    known = dict(stored or {})
    missing = charged_minor - sum(known.values())
    if missing:
        known[UTILITY] = known.get(UTILITY, 0) + missing
    return known


async def _value_at(session: AsyncSession, meter: Meter, start: date, now: datetime) -> datetime:
    """The instant at which a period's charge takes its place: in the oldest month from it on that is still open."""
    zone = ZoneInfo(meter.time_zone)
    made = await session.scalar(
        select(func.max(Statement.period_start)).where(Statement.meter_id == meter.id, Statement.period_start >= start)
    )
    open_month = start if made is None else period_of(made)[1]
    first, last = (local_midnight(day, zone) for day in period_of(open_month))
    return min(max(now, first), last - _INSTANT)


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
