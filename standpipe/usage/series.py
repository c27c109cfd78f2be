"""Usage history in buckets of hours, days or months, each with its cost through the tiers.

A bucket's cost is the difference of its period's running total at its two ends, so the buckets of a period sum to
exactly what the period costs. Days and months come from the daily roll-ups; only hours touch the readings.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.errors import InvalidInputError
from standpipe.tariffs.catalogue import TariffInForce, in_force, versions
from standpipe.tariffs.pricing import TierUse, tiers
from standpipe.units import Span, day_span, local_midnight, period_of
from standpipe.usage.models import DailyUsage, Reading, ReadingQuality

MAX_BUCKETS = 1000
EARLIEST, LATEST = date(2000, 1, 1), date(2200, 1, 1)


class UsageInterval(StrEnum):
    """The length of a bucket."""

    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


class BucketQuality(StrEnum):
    """MISSING is not zero: no reading tells of that time."""

    MEASURED = "MEASURED"
    PARTIAL = "PARTIAL"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class UsageBucket:
    """Use in ``[start, end)``; ``tiers`` and so the cost are in minor units of the tariff's currency."""

    start: datetime
    end: datetime
    volume_ml: int
    tiers: tuple[TierUse, ...]
    quality: BucketQuality

    @property
    def cost_minor(self) -> int:
        """The bucket's cost: the sum of its tiers."""
        return sum(tier.cost_minor for tier in self.tiers)


@dataclass(frozen=True, slots=True)
class SeriesRequest:
    """What to read: days in the meter's zone, ``from_day`` inclusive, ``to_day`` exclusive."""

    meter_id: str
    tariff_id: str
    time_zone: str
    from_day: date
    to_day: date
    interval: UsageInterval


def check(request: SeriesRequest) -> None:
    """Raises InvalidInputError for an empty or backward range, and for one of more than MAX_BUCKETS buckets."""
    if request.from_day < EARLIEST or request.to_day > LATEST:
        raise InvalidInputError(f"Days lie between {EARLIEST} and {LATEST}.", ("from",))
    days = (request.to_day - request.from_day).days
    if days <= 0:
        raise InvalidInputError("`to` must be after `from`.", ("to",))
    buckets = {UsageInterval.HOUR: days * 24, UsageInterval.DAY: days, UsageInterval.MONTH: days / 31}
    if buckets[request.interval] > MAX_BUCKETS:
        raise InvalidInputError(f"At most {MAX_BUCKETS} buckets at once; ask for a shorter time.", ("to",))


async def series_of_many(
    session: AsyncSession, requests: Sequence[SeriesRequest], now: datetime
) -> dict[SeriesRequest, list[UsageBucket]]:
    """Each request's buckets that lie before ``now``, oldest first; days and prices are read once for all meters.

    Raises InvalidInputError as ``check`` does.
    """
    for request in requests:
        check(request)
    start = min(period_of(request.from_day)[0] for request in requests)
    end = max(request.to_day for request in requests)
    daily = await _daily(session, sorted({request.meter_id for request in requests}), start, end)
    prices = await versions(session, sorted({request.tariff_id for request in requests}))
    found: dict[SeriesRequest, list[UsageBucket]] = {}
    for request in requests:
        days = daily.get(request.meter_id, {})
        found[request] = await _series(session, request, days, prices.get(request.tariff_id, []), now)
    return found


async def _series(
    session: AsyncSession, request: SeriesRequest, daily: dict[date, int], prices: list[TariffInForce], now: datetime
) -> list[UsageBucket]:
    zone = ZoneInfo(request.time_zone)
    to_day = min(request.to_day, now.astimezone(zone).date() + timedelta(days=1))
    if to_day <= request.from_day:
        return []
    if request.interval is UsageInterval.HOUR:
        spans = [span for day in _days(request.from_day, to_day) for span in _hours(day, zone) if span.start < now]
        volumes = await _hourly(session, request.meter_id, spans)
        return _priced(spans, volumes, daily, prices, zone)
    if request.interval is UsageInterval.DAY:
        spans = [day_span(day, zone) for day in _days(request.from_day, to_day)]
        days = [daily.get(day) for day in _days(request.from_day, to_day)]
        return _priced(spans, days, daily, prices, zone)
    return _months(request.from_day, to_day, daily, prices, zone)


def _days(start: date, end: date) -> Iterator[date]:
    for offset in range((end - start).days):
        yield start + timedelta(days=offset)


def _hours(day: date, zone: ZoneInfo) -> list[Span]:
    """The hours of a service day by elapsed time: 23 or 25 of them where the clocks change."""
    whole = day_span(day, zone)
    count = round((whole.end - whole.start) / timedelta(hours=1))
    edges = [whole.start + timedelta(hours=number) for number in range(count)] + [whole.end]
    return [Span(start, end) for start, end in itertools.pairwise(edges)]


async def _daily(session: AsyncSession, meter_ids: Sequence[str], start: date, end: date) -> dict[str, dict[date, int]]:
    rows = await session.execute(
        select(DailyUsage.meter_id, DailyUsage.day, DailyUsage.volume_ml).where(
            DailyUsage.meter_id.in_(meter_ids), DailyUsage.day >= start, DailyUsage.day < end
        )
    )
    found: dict[str, dict[date, int]] = {}
    for meter_id, day, volume_ml in rows:
        found.setdefault(meter_id, {})[day] = volume_ml
    return found


async def _hourly(session: AsyncSession, meter_id: str, spans: Sequence[Span]) -> list[int | None]:
    """Volume of each hour from the register, None where no reading fell into it."""
    if not spans:
        return []
    counted = select(Reading.read_at, Reading.register_ml).where(
        Reading.meter_id == meter_id, Reading.quality == ReadingQuality.MEASURED
    )
    first, last = spans[0].start, spans[-1].end
    before = (
        await session.execute(counted.where(Reading.read_at <= first).order_by(Reading.read_at.desc()).limit(1))
    ).one_or_none()
    rows = (
        await session.execute(counted.where(Reading.read_at > first, Reading.read_at <= last).order_by(Reading.read_at))
    ).all()
    register_ml, index = (before.register_ml if before else None), 0
    volumes: list[int | None] = []
    for span in spans:
        start_ml = register_ml
        while index < len(rows) and rows[index].read_at <= span.end:
            register_ml, index = rows[index].register_ml, index + 1
        moved = register_ml is not None and index > 0 and rows[index - 1].read_at > span.start
        volumes.append(None if not moved or start_ml is None or register_ml is None else register_ml - start_ml)
    return volumes


def _priced(
    spans: Sequence[Span],
    volumes: Sequence[int | None],
    daily: dict[date, int],
    prices: list[TariffInForce],
    zone: ZoneInfo,
) -> list[UsageBucket]:
    """Buckets that each lie within one period: price them at the period's volume so far."""
    buckets: list[UsageBucket] = []
    used_ml = 0
    period: date | None = None
    for span, volume in zip(spans, volumes, strict=True):
        day = span.start.astimezone(zone).date()
        if period_of(day)[0] != period:
            period = period_of(day)[0]
            used_ml = sum(ml for other, ml in daily.items() if period <= other < day)
        table = in_force(prices, period).table
        volume_ml = volume or 0
        quality = BucketQuality.MISSING if volume is None else BucketQuality.MEASURED
        buckets.append(UsageBucket(span.start, span.end, volume_ml, tuple(tiers(table, used_ml, volume_ml)), quality))
        used_ml += volume_ml
    return buckets


def _months(
    from_day: date, to_day: date, daily: dict[date, int], prices: list[TariffInForce], zone: ZoneInfo
) -> list[UsageBucket]:
    buckets: list[UsageBucket] = []
    start = from_day
    while start < to_day:
        period, period_end = period_of(start)
        end = min(period_end, to_day)
        present = [day for day in _days(start, end) if day in daily]
        volume_ml = sum(daily[day] for day in present)
        used_ml = sum(ml for day, ml in daily.items() if period <= day < start)
        if not present:
            quality = BucketQuality.MISSING
        else:
            whole = len(present) == (period_end - period).days
            quality = BucketQuality.MEASURED if whole else BucketQuality.PARTIAL
        parts = tuple(tiers(in_force(prices, period).table, used_ml, volume_ml))
        span = Span(local_midnight(start, zone), local_midnight(end, zone))
        buckets.append(UsageBucket(span.start, span.end, volume_ml, parts, quality))
        start = end
    return buckets


async def last_reading_at(session: AsyncSession) -> datetime | None:
    """The newest instant that any meter has told of; a demo's clock must go on from there, never back."""
    return await session.scalar(select(func.max(Reading.read_at)))
