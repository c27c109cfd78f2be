"""Usage history in buckets of hours, days or months, each with its cost through the tiers.

A bucket's cost is the difference of its period's running total at its two ends, so the buckets of a period sum to
exactly what the period costs. Days and months come from the daily roll-ups; only hours touch the readings.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase
from standpipe.platform.units import Span, day_span, local_midnight, period_of, service_day
from standpipe.readings.models import COUNTED, DailyUsage, MonthlyUsage, Reading
from standpipe.readings.register import newest, oldest
from standpipe.tariffs.catalogue import Contract, contracts
from standpipe.tariffs.periods import Segment, places, split_days
from standpipe.tariffs.pricing import Place, TierUse, tiers
from standpipe.tariffs.terms import Basis

MAX_BUCKETS = 1000
USUAL_SPACING = timedelta(minutes=65)
"""Readings of each full hour; further apart, something is missing between them."""
_SECOND = timedelta(seconds=1)
EARLIEST, LATEST = date(2000, 1, 1), date(2200, 1, 1)


class UsageInterval(StrEnum):
    """The length of a bucket."""

    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


class BucketQuality(StrEnum):
    """MISSING is not zero: no reading tells of that time. ESTIMATED: a share of what was measured over a gap."""

    MEASURED = "MEASURED"
    ESTIMATED = "ESTIMATED"
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
    """A series to read: days in the meter's zone, ``from_day`` inclusive, ``to_day`` exclusive.

    ``tariff_id`` and ``first_day`` are the meter's own row's. ``contract``, where it is known, saves reading it.
    """

    meter_id: str
    tariff_id: str
    time_zone: str
    from_day: date
    to_day: date
    interval: UsageInterval
    first_day: date = date.min
    contract: Contract | None = field(default=None, compare=False)


def check(request: SeriesRequest) -> None:
    """Raises InvalidInputError for an empty or backward range, and for one of more than MAX_BUCKETS buckets."""
    if request.from_day < EARLIEST or request.to_day > LATEST:
        raise InvalidInputError(phrase("Days lie between {first} and {last}.", first=EARLIEST, last=LATEST), ("from",))
    days = (request.to_day - request.from_day).days
    if days <= 0:
        raise InvalidInputError(phrase("`to` must be after `from`."), ("to",))
    buckets = {UsageInterval.HOUR: days * 24, UsageInterval.DAY: days, UsageInterval.MONTH: days / 31}
    if buckets[request.interval] > MAX_BUCKETS:
        raise InvalidInputError(
            phrase("At most {most} buckets at once; ask for a shorter time.", most=MAX_BUCKETS), ("to",)
        )


async def series_of_many(
    session: AsyncSession, requests: Sequence[SeriesRequest], now: datetime
) -> dict[SeriesRequest, list[UsageBucket]]:
    """Each request's buckets that lie before ``now``, oldest first; prices are read once for all meters.

    Raises InvalidInputError as ``check`` does.
    """
    for request in requests:
        check(request)
    known = {request.meter_id: request.contract for request in requests if request.contract is not None}
    basis = {item.meter_id: (item.tariff_id, item.first_day) for item in requests if item.meter_id not in known}
    known |= await contracts(session, basis) if basis else {}
    months = [request for request in requests if request.interval is UsageInterval.MONTH]
    others = [request for request in requests if request.interval is not UsageInterval.MONTH]
    monthly = await _monthly(session, months)
    daily = await _daily_of_many(session, others)
    found: dict[SeriesRequest, list[UsageBucket]] = {}
    for request in requests:
        contract = known[request.meter_id]
        to_day = min(request.to_day, now.astimezone(ZoneInfo(request.time_zone)).date() + timedelta(days=1))
        if to_day <= request.from_day:
            found[request] = []
        elif request.interval is UsageInterval.MONTH:
            found[request] = await _months(session, request, contract, monthly.get(request.meter_id, {}), to_day)
        else:
            found[request] = await _days_or_hours(
                session, request, contract, daily.get(request.meter_id, {}), to_day, now
            )
    return found


async def _days_or_hours(
    session: AsyncSession,
    request: SeriesRequest,
    contract: Contract,
    measured: Mapping[date, int],
    to_day: date,
    now: datetime,
) -> list[UsageBucket]:
    zone = ZoneInfo(request.time_zone)
    days = list(_days(request.from_day, to_day))
    daily = spread(measured, request.first_day)
    if request.interval is UsageInterval.DAY:
        spans = [day_span(day, zone) for day in days]
        return _priced(spans, [daily.get(day) for day in days], daily, contract, zone)
    hours = [span for day in days for span in _hours(day, zone) if span.start < now]
    volumes = await _hourly(session, request.meter_id, hours, zone, now)
    return _priced(hours, volumes, daily, contract, zone)


_Volume = tuple[int, BucketQuality]


def spread(measured: Mapping[date, int], first_day: date) -> dict[date, _Volume]:
    """Days for display: what was measured after silent days is shared out evenly over them, within its period.

    For display only: charges go by what was measured. A silence that no reading has ended yet stays empty.
    """
    found: dict[date, _Volume] = {}
    for day in sorted(measured):
        earliest = max(first_day, period_of(day)[0])
        silent = 0
        while day - timedelta(days=silent + 1) >= earliest and day - timedelta(days=silent + 1) not in found:
            silent += 1
        if not silent:
            found[day] = (measured[day], BucketQuality.MEASURED)
            continue
        parts = silent + 1
        for part in range(parts):
            share = measured[day] * (part + 1) // parts - measured[day] * part // parts
            found[day - timedelta(days=silent - part)] = (share, BucketQuality.ESTIMATED)
    return found


def _days(start: date, end: date) -> Iterator[date]:
    for offset in range((end - start).days):
        yield start + timedelta(days=offset)


def _hours(day: date, zone: ZoneInfo) -> list[Span]:
    """The hours of a service day by elapsed time: 23 or 25 of them where the clocks change."""
    whole = day_span(day, zone)
    count = round((whole.end - whole.start) / timedelta(hours=1))
    edges = [whole.start + timedelta(hours=number) for number in range(count)] + [whole.end]
    return [Span(start, end) for start, end in itertools.pairwise(edges)]


async def _daily_of_many(session: AsyncSession, requests: Sequence[SeriesRequest]) -> dict[str, dict[date, int]]:
    """Daily volumes by meter, over the whole periods that these requests touch; one statement."""
    if not requests:
        return {}
    start = min(period_of(request.from_day)[0] for request in requests)
    end = max(period_of(request.to_day)[1] for request in requests)
    return await _daily(session, sorted({request.meter_id for request in requests}), start, end)


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


async def _hourly(
    session: AsyncSession, meter_id: str, spans: Sequence[Span], zone: ZoneInfo, now: datetime
) -> list[_Volume | None]:
    """Volume of each hour from the register, None where no reading tells of it."""
    if not spans:
        return []
    counted = select(Reading.read_at, func.coalesce(Reading.counted_ml, Reading.register_ml)).where(
        Reading.meter_id == meter_id, Reading.quality.in_(COUNTED)
    )
    first, last = spans[0].start, spans[-1].end
    before = await newest(session, counted.where(Reading.read_at <= first), first)
    within = counted.where(Reading.read_at > first, Reading.read_at <= last).order_by(Reading.read_at)
    points = [(at, ml) for at, ml in await session.execute(within)]
    latest = now + timedelta(days=1)
    after = await oldest(session, counted.where(Reading.read_at > last), last, latest) if last < now else None
    around = [*([before] if before else []), *points, *([after] if after else [])]
    return _between_points([(at, ml) for at, ml in around], spans, zone)


def _between_points(
    points: Sequence[tuple[datetime, int]], spans: Sequence[Span], zone: ZoneInfo
) -> list[_Volume | None]:
    volumes: list[_Volume | None] = []
    index = -1
    for span in spans:
        while index + 1 < len(points) and points[index + 1][0] <= span.start:
            index += 1
        last = index
        while last + 1 < len(points) and points[last + 1][0] <= span.end:
            last += 1
        start_ml, start_guessed = _register_at(points, index, span.start, zone)
        end_ml, end_guessed = _register_at(points, last, span.end, zone)
        if start_ml is None or end_ml is None or (last == index and not (start_guessed or end_guessed)):
            volumes.append(None)
        else:
            guessed = start_guessed or end_guessed
            volumes.append((end_ml - start_ml, BucketQuality.ESTIMATED if guessed else BucketQuality.MEASURED))
    return volumes


def _register_at(
    points: Sequence[tuple[datetime, int]], index: int, at: datetime, zone: ZoneInfo
) -> tuple[int | None, bool]:
    """The register at an instant, and whether that lies inside a gap and so on a straight line through it.

    The line begins no earlier than the period in which the gap ended: there its volume was charged.
    """
    if index < 0:
        return None, False
    since, register_ml = points[index]
    if index + 1 == len(points) or since == at:
        return register_ml, False
    until, next_ml = points[index + 1]
    begin = max(since, local_midnight(period_of(service_day(until, zone))[0], zone))
    if until - since <= USUAL_SPACING or at <= begin:
        return register_ml, False
    return register_ml + (next_ml - register_ml) * int((at - begin) / _SECOND) // int((until - begin) / _SECOND), True


def _priced(
    spans: Sequence[Span],
    volumes: Sequence[_Volume | None],
    daily: Mapping[date, _Volume],
    contract: Contract,
    zone: ZoneInfo,
) -> list[UsageBucket]:
    """Buckets that each lie within one day: price them at the period's volume so far."""
    buckets: list[UsageBucket] = []
    segment: Segment | None = None
    place: Place | None = None
    for span, volume in zip(spans, volumes, strict=True):
        day = span.start.astimezone(zone).date()
        if segment is None or place is None or not segment.start <= day < segment.end:
            segment, place = _place_on(day, daily, contract)
        volume_ml, quality = volume or (0, BucketQuality.MISSING)
        parts = _through_tiers(segment, place, volume_ml)
        buckets.append(UsageBucket(span.start, span.end, volume_ml, parts, quality))
        place = Place(place.table, place.used_ml + volume_ml, place.carried_minor)
    return buckets


def _place_on(day: date, daily: Mapping[date, _Volume], contract: Contract) -> tuple[Segment, Place]:
    """Return the meter's tier position at the beginning of a day."""
    segments = [item for item in contract.segments(period_of(day)[0]) if item.start <= day] or list(
        contract.segments(period_of(day)[0])[:1]
    )
    before = {other: volume[0] for other, volume in daily.items() if period_of(day)[0] <= other < day}
    *_, place = places(segments, split_days(segments, before))
    return segments[-1], place


async def _months(
    session: AsyncSession,
    request: SeriesRequest,
    contract: Contract,
    totals: Mapping[date, tuple[int, int]],
    to_day: date,
) -> list[UsageBucket]:
    zone = ZoneInfo(request.time_zone)
    spans = list(_month_spans(request.from_day, to_day))
    segments = {period_of(start)[0]: contract.segments(period_of(start)[0]) for start, _ in spans}
    # Days are needed only where a month is asked for in part, or has more than one set of prices.
    in_days = [
        start for start, end in spans if (start, end) != period_of(start) or len(segments[period_of(start)[0]]) > 1
    ]
    daily: dict[date, int] = {}
    for start in in_days:
        daily |= (await _daily(session, [request.meter_id], *period_of(start))).get(request.meter_id, {})
    buckets: list[UsageBucket] = []
    for start, end in spans:
        month = period_of(start)[0]
        volume_ml, days = totals.get(month, (0, 0))
        if start in in_days:
            chosen = [day for day in _days(start, end) if day in daily]
            volume_ml, days = sum(daily[day] for day in chosen), len(chosen)
            parts = _parts(segments[month], daily, start, end)
        else:
            parts = _through_tiers(segments[month][0], Place(segments[month][0].table), volume_ml)
        whole = days == (period_of(start)[1] - month).days
        quality = BucketQuality.MEASURED if whole else BucketQuality.PARTIAL if days else BucketQuality.MISSING
        span = Span(local_midnight(start, zone), local_midnight(end, zone))
        buckets.append(UsageBucket(span.start, span.end, volume_ml, parts, quality))
    return buckets


def _parts(segments: Sequence[Segment], daily: Mapping[date, int], start: date, end: date) -> tuple[TierUse, ...]:
    """Days ``[start, end)`` of a month through the tiers of each of its segments."""
    month, next_month = period_of(start)
    own = {day: ml for day, ml in daily.items() if month <= day < next_month}
    before = split_days(segments, {day: ml for day, ml in own.items() if day < start})
    asked = split_days(segments, {day: ml for day, ml in own.items() if start <= day < end})
    both = [first + second for first, second in zip(before, asked, strict=True)]
    parts: list[TierUse] = []
    for segment, place, volume_ml in zip(segments, places(segments, both), asked, strict=True):
        before_it = Place(place.table, place.used_ml - volume_ml, place.carried_minor)
        parts.extend(_through_tiers(segment, before_it, volume_ml))
    return tuple(parts)


def _through_tiers(segment: Segment, place: Place, volume_ml: int) -> tuple[TierUse, ...]:
    """Water from a place on through the tiers; none for what was paid for when it was bought."""
    if segment.version.basis == Basis.PURCHASE:
        return ()
    return tuple(tiers(place.table, place.used_ml, volume_ml, place.carried_minor))


def _month_spans(from_day: date, to_day: date) -> Iterator[tuple[date, date]]:
    start = from_day
    while start < to_day:
        end = min(period_of(start)[1], to_day)
        yield start, end
        start = end


async def _monthly(session: AsyncSession, requests: Sequence[SeriesRequest]) -> dict[str, dict[date, tuple[int, int]]]:
    """Volume and number of days of each month, by meter; one statement."""
    if not requests:
        return {}
    rows = await session.execute(
        select(MonthlyUsage.meter_id, MonthlyUsage.month, MonthlyUsage.volume_ml, MonthlyUsage.days).where(
            MonthlyUsage.meter_id.in_(sorted({request.meter_id for request in requests})),
            MonthlyUsage.month >= min(period_of(request.from_day)[0] for request in requests),
            MonthlyUsage.month < max(request.to_day for request in requests),
        )
    )
    found: dict[str, dict[date, tuple[int, int]]] = {}
    for meter_id, month, volume_ml, days in rows:
        found.setdefault(meter_id, {})[month] = (volume_ml, days)
    return found


async def last_reading_at(session: AsyncSession) -> datetime | None:
    """The newest instant that any meter has told of; a demo's clock must go on from there, never back."""
    newest_of_each = (
        select(Reading.read_at)
        .where(Reading.meter_id == Meter.id)
        .order_by(Reading.read_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    return await session.scalar(select(func.max(newest_of_each)))
