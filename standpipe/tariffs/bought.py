"""Purchases of VOLUME meters, kept and read: rows that are only ever added to, a reversal being one more.

All that writes here runs under the meter's lock, so the running totals of a period follow each other.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from standpipe.platform.units import period_of
from standpipe.tariffs.models import VolumePurchase
from standpipe.tariffs.periods import BillLine, LineKind, Priced

_LINES = TypeAdapter(list[BillLine])


async def bought_by_day(session: AsyncSession, meter_ids: Sequence[str], since: date) -> dict[str, dict[date, int]]:
    """Volumes bought from a day on, by meter and day; one statement, however many meters."""
    rows = await session.execute(
        select(VolumePurchase.meter_id, VolumePurchase.day, func.sum(VolumePurchase.volume_ml))
        .where(VolumePurchase.meter_id.in_(meter_ids), VolumePurchase.day >= since)
        .group_by(VolumePurchase.meter_id, VolumePurchase.day)
    )
    found: dict[str, dict[date, int]] = {}
    for meter_id, day, volume_ml in rows:
        found.setdefault(meter_id, {})[day] = int(volume_ml)
    return found


async def bought_in_period(session: AsyncSession, meter_id: str, day: date) -> dict[date, int]:
    """Volumes bought in the billing period of a day, by day."""
    start, end = period_of(day)
    bought = await bought_by_day(session, [meter_id], start)
    return {bought_on: volume_ml for bought_on, volume_ml in bought.get(meter_id, {}).items() if bought_on < end}


async def add_purchase(
    session: AsyncSession,
    *,
    key: str,
    meter_id: str,
    source_id: str,
    day: date,
    version_id: str,
    volume_ml: int,
    priced: Priced,
    now: datetime,
    reverses_key: str | None = None,
) -> None:
    """Note a purchase (or, below zero, its reversal) of a locked meter, with the period's totals after it."""
    start, end = period_of(day)
    before = await session.execute(
        select(
            func.coalesce(func.sum(VolumePurchase.volume_ml), 0),
            func.coalesce(func.sum(VolumePurchase.amount_minor), 0),
        ).where(VolumePurchase.meter_id == meter_id, VolumePurchase.day >= start, VolumePurchase.day < end)
    )
    period_ml, period_minor = before.one()
    session.add(
        VolumePurchase(
            key=key,
            meter_id=meter_id,
            source_id=source_id,
            day=day,
            tariff_version_id=version_id,
            volume_ml=volume_ml,
            amount_minor=priced.total_minor,
            period_volume_ml=int(period_ml) + volume_ml,
            period_charged_minor=int(period_minor) + priced.total_minor,
            accounts=dict(priced.accounts),
            lines=_LINES.dump_python(list(priced.lines), mode="json"),
            reverses_key=reverses_key,
            bought_at=now,
        )
    )
    await session.flush()


async def purchase_by_key(session: AsyncSession, key: str) -> VolumePurchase | None:
    """One purchase, or None."""
    return await session.get(VolumePurchase, key)


async def standing_purchases(session: AsyncSession, source_id: str) -> list[VolumePurchase]:
    """A source's purchases that were not reversed, oldest first."""
    reversal = aliased(VolumePurchase)
    rows = await session.scalars(
        select(VolumePurchase)
        .outerjoin(reversal, reversal.reverses_key == VolumePurchase.key)
        .where(VolumePurchase.source_id == source_id, VolumePurchase.volume_ml > 0, reversal.key.is_(None))
        .order_by(VolumePurchase.bought_at, VolumePurchase.key)
    )
    return list(rows)


async def bill_between(session: AsyncSession, meter_id: str, since: datetime, until: datetime) -> Priced:
    """All that a meter bought (less what was reversed) between two instants, block by block."""
    rows = await session.scalars(
        select(VolumePurchase)
        .where(
            VolumePurchase.meter_id == meter_id,
            VolumePurchase.bought_at >= since,
            VolumePurchase.bought_at < until,
        )
        .order_by(VolumePurchase.bought_at, VolumePurchase.key)
    )
    purchases = rows.all()
    lines = merged(line for purchase in purchases for line in lines_of(purchase))
    accounts: dict[str, int] = {}
    for purchase in purchases:
        for code, amount in purchase.accounts.items():
            accounts[code] = accounts.get(code, 0) + amount
    total_minor = sum(purchase.amount_minor for purchase in purchases)
    return Priced(total_minor, tuple(lines), {code: amount for code, amount in accounts.items() if amount})


def lines_of(purchase: VolumePurchase) -> tuple[BillLine, ...]:
    """A purchase's bill."""
    return tuple(_LINES.validate_python(purchase.lines))


def reversed_price(purchase: VolumePurchase) -> Priced:
    """Return what gives back exactly what a purchase took."""
    lines = tuple(
        BillLine(
            *(line.kind, line.code, line.name, line.since, line.until, line.tier, -line.quantity, line.rate),
            amount_minor=-line.amount_minor,
        )
        for line in lines_of(purchase)
    )
    return Priced(-purchase.amount_minor, lines, {code: -amount for code, amount in purchase.accounts.items()})


def merged(lines: Iterable[BillLine]) -> list[BillLine]:
    """Lines about the same thing made one, in the order in which a bill has them; what cancels out falls away."""
    sums: dict[tuple[object, ...], BillLine] = {}
    for line in lines:
        about = (line.kind, line.code, line.since, line.until, line.tier, line.rate)
        known = sums.get(about)
        quantity = line.quantity + (known.quantity if known else 0)
        amount_minor = line.amount_minor + (known.amount_minor if known else 0)
        sums[about] = BillLine(
            *(line.kind, line.code, line.name, line.since, line.until, line.tier, quantity, line.rate), amount_minor
        )
    order = {LineKind.ALLOWANCE: 0, LineKind.WATER: 1}
    kept = (line for line in sums.values() if line.quantity or line.amount_minor)
    return sorted(kept, key=lambda line: (line.since, order.get(line.kind, 2), line.tier or 0, line.code))
