"""Stored rows around meters' new reports, read for a whole batch: ``judging.Surroundings`` by meter."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from standpipe.platform.units import period_of, service_day
from standpipe.readings.judging import (
    HABIT_DAYS,
    DayUse,
    Register,
    StoredReading,
    Surroundings,
    told_spans,
)
from standpipe.readings.models import ReadingQuality
from standpipe.readings.raw import RawReadings
from standpipe.readings.register import NEAR

RESENT_WITHIN = timedelta(days=92)
"""A reading that was kept by its arrival is known again for so long; after that its meter would have forgotten it."""

_COLUMNS = (
    "r.read_at, r.arrival, r.register_ml, r.quality, r.reason, r.received_at, "
    "r.counted_ml, r.corrected_ml, r.claimed_at"
)
_STANDS = "(r.quality IN ('MEASURED', 'CORRECTED') OR r.counted_ml IS NOT NULL)"
_SPANS = """
    unnest(CAST(:meter_ids AS text[]), CAST(:firsts AS timestamptz[]), CAST(:lasts AS timestamptz[]),
           CAST(:lows AS timestamptz[]), CAST(:highs AS timestamptz[]))
    AS s(meter_id, first_at, last_at, low_at, high_at)"""
# Each branch is bounded in time, so that a partition is looked into only where it can hold something: first within
# NEAR of the span, and only for a meter that was silent for longer in all that is older (or newer).
AROUND = text(f"""
SELECT s.meter_id, near.* FROM {_SPANS} CROSS JOIN LATERAL (
    (SELECT {_COLUMNS} FROM readings r
     WHERE r.meter_id = s.meter_id AND r.read_at >= s.first_at AND r.read_at <= s.last_at)
    UNION ALL
    (SELECT * FROM (SELECT {_COLUMNS} FROM readings r
     WHERE r.meter_id = s.meter_id AND r.read_at < s.first_at AND r.read_at >= s.low_at AND {_STANDS}
     ORDER BY r.read_at DESC, r.arrival DESC LIMIT 1) AS before)
    UNION ALL
    (SELECT * FROM (SELECT {_COLUMNS} FROM readings r
     WHERE r.meter_id = s.meter_id AND r.read_at > s.last_at AND r.read_at <= s.high_at AND {_STANDS}
     ORDER BY r.read_at, r.arrival LIMIT 1) AS after)) AS near
""")  # noqa: S608 - put together from constants.
BEFORE = text(f"""
SELECT s.meter_id, far.* FROM {_SPANS} CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM readings r WHERE r.meter_id = s.meter_id AND r.read_at < s.low_at AND {_STANDS}
    ORDER BY r.read_at DESC, r.arrival DESC LIMIT 1) AS far
""")  # noqa: S608 - as above.
AFTER = text(f"""
SELECT s.meter_id, far.* FROM {_SPANS} CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM readings r WHERE r.meter_id = s.meter_id AND r.read_at > s.high_at AND {_STANDS}
    ORDER BY r.read_at, r.arrival LIMIT 1) AS far
""")  # noqa: S608 - as above.
CLAIMED = text(f"""
SELECT s.meter_id, {_COLUMNS} FROM {_SPANS} JOIN readings r ON r.meter_id = s.meter_id
WHERE r.claimed_at IS NOT NULL AND r.claimed_at >= s.first_at AND r.claimed_at <= s.last_at
  AND r.read_at >= s.low_at AND r.read_at <= s.high_at
""")  # noqa: S608 - as above.
SUSPECTS = text(f"""
SELECT s.meter_id, held.* FROM {_SPANS} CROSS JOIN LATERAL (
    SELECT max(r.read_at) AS last_at, min(r.register_ml) AS lowest_ml FROM readings r
    WHERE r.meter_id = s.meter_id AND r.quality = 'HELD' AND r.reason = 'IMPLAUSIBLE_FLOW'
      AND r.read_at > s.low_at AND r.read_at < s.first_at
      AND r.read_at > CAST(:lowest AS timestamptz) AND r.read_at < CAST(:highest AS timestamptz)) AS held
WHERE held.last_at IS NOT NULL
""")  # noqa: S608 - as above.
DAYS = text("""
SELECT d.meter_id, array_agg(d.day), array_agg(d.volume_ml), array_agg(d.register_end_ml)
FROM unnest(CAST(:meter_ids AS text[]), CAST(:firsts AS date[]), CAST(:lasts AS date[])) AS s(meter_id, first, last)
JOIN daily_usage d ON d.meter_id = s.meter_id AND d.day >= s.first AND d.day < s.last
GROUP BY d.meter_id
""")
HORIZON = text("SELECT before FROM storage_horizons WHERE what = 'readings'")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Question about one meter: its new reports, and other days whose periods are looked at."""

    register: Register
    reports: Sequence[RawReadings] = ()
    days: Iterable[date] = ()


@dataclass(frozen=True, slots=True)
class _Span:
    meter_id: str
    first_at: datetime
    last_at: datetime
    low_at: datetime
    high_at: datetime


async def horizon_of(conn: AsyncConnection) -> datetime | None:
    """The instant before which readings have been let go."""
    found: datetime | None = await conn.scalar(HORIZON)
    return found


async def load_surroundings(
    conn: AsyncConnection, wanted: Mapping[str, Wanted], now: datetime, horizon: datetime | None
) -> dict[str, Surroundings]:
    """By meter, in a handful of statements however many there are. ``horizon``: as ``horizon_of``."""
    spans = [
        _Span(meter_id, first, last, first - NEAR, last + NEAR)
        for meter_id, one in wanted.items()
        for first, last in told_spans(one.register, one.reports)
    ]
    found: dict[str, dict[tuple[datetime, int], StoredReading]] = {meter_id: {} for meter_id in wanted}
    suspects: dict[str, list[tuple[datetime, int]]] = {}
    if spans:
        await _read(conn, AROUND, spans, found)
        await _read(conn, BEFORE, [span for span in spans if not _has_before(found, span)], found)
        await _read(conn, AFTER, [one for one in spans if one.high_at < now and not _has_after(found, one)], found)
        await _read(conn, CLAIMED, _claims(wanted), found)
        suspects = await _suspects(conn, spans, found)
    days = await _days(conn, wanted, found, now)
    return {
        meter_id: Surroundings(
            tuple(found[meter_id].values()), tuple(suspects.get(meter_id, ())), days.get(meter_id, {}), horizon
        )
        for meter_id in wanted
    }


async def _read(
    conn: AsyncConnection,
    query: TextClause,
    spans: Sequence[_Span],
    found: dict[str, dict[tuple[datetime, int], StoredReading]],
) -> None:
    if not spans:
        return
    for meter_id, read_at, arrival, register_ml, quality, *rest in await conn.execute(query, _columns(spans)):
        found[meter_id][read_at, arrival] = StoredReading(read_at, arrival, register_ml, ReadingQuality(quality), *rest)


def _columns(spans: Sequence[_Span]) -> dict[str, list[object]]:
    return {
        "meter_ids": [one.meter_id for one in spans],
        "firsts": [one.first_at for one in spans],
        "lasts": [one.last_at for one in spans],
        "lows": [one.low_at for one in spans],
        "highs": [one.high_at for one in spans],
    }


def _has_before(found: Mapping[str, Mapping[tuple[datetime, int], StoredReading]], span: _Span) -> bool:
    return any(span.low_at <= read_at < span.first_at for read_at, _ in found[span.meter_id])


def _has_after(found: Mapping[str, Mapping[tuple[datetime, int], StoredReading]], span: _Span) -> bool:
    return any(span.last_at < read_at <= span.high_at for read_at, _ in found[span.meter_id])


def _claims(wanted: Mapping[str, Wanted]) -> list[_Span]:
    """All instants that a meter told now, and where readings that told them before may be kept."""
    spans = []
    for meter_id, one in wanted.items():
        told = [reading.read_at for report in one.reports for reading in report.readings]
        if told:
            arrived = [report.received_at for report in one.reports]
            since = min(arrived) - RESENT_WITHIN
            spans.append(_Span(meter_id, min(told), max(told), since, max(arrived) + NEAR))
    return spans


async def _suspects(
    conn: AsyncConnection, spans: Sequence[_Span], found: Mapping[str, Mapping[tuple[datetime, int], StoredReading]]
) -> dict[str, list[tuple[datetime, int]]]:
    """Jumps held between each span and the accepted reading below it: the last instant, the lowest register."""
    below = []
    for span in spans:
        accepted = [
            at for (at, _), one in found[span.meter_id].items() if at < span.first_at and one.accepted is not None
        ]
        below.append(replace(span, low_at=max(accepted, default=datetime.min.replace(tzinfo=span.first_at.tzinfo))))
    suspects: dict[str, list[tuple[datetime, int]]] = {}
    # The outermost bounds, apart: by them the planner leaves out the months that no span reaches.
    bounds = {"lowest": min(one.low_at for one in below), "highest": max(one.first_at for one in below)}
    for meter_id, read_at, register_ml in await conn.execute(SUSPECTS, _columns(below) | bounds):
        suspects.setdefault(meter_id, []).append((read_at, register_ml))
    return suspects


async def _days(
    conn: AsyncConnection,
    wanted: Mapping[str, Wanted],
    found: Mapping[str, Mapping[tuple[datetime, int], StoredReading]],
    now: datetime,
) -> dict[str, dict[date, DayUse]]:
    """Every day of the periods that new readings can change, of those asked for, and of the last HABIT_DAYS."""
    ranges: list[tuple[str, date, date]] = []
    for meter_id, one in wanted.items():
        zone = one.register.zone
        today = now.astimezone(zone).date()
        touched = {service_day(read_at, zone) for read_at, _ in found[meter_id]} | set(one.days) | {today}
        for first, last in told_spans(one.register, one.reports):
            day, end = service_day(first, zone), service_day(last, zone)
            while day <= end:
                touched.add(day)
                day = period_of(day)[1]
        touched.add(today - timedelta(days=HABIT_DAYS + 2))
        ranges.extend((meter_id, *months) for months in _months(touched))
    meter_ids, firsts, lasts = zip(*ranges, strict=True)
    given = {"meter_ids": list(meter_ids), "firsts": list(firsts), "lasts": list(lasts)}
    return {
        meter_id: {
            day: DayUse(end_ml - volume_ml, end_ml) for day, volume_ml, end_ml in zip(days, volumes, ends, strict=True)
        }
        for meter_id, days, volumes, ends in await conn.execute(DAYS, given)
    }


def _months(days: Iterable[date]) -> list[tuple[date, date]]:
    """Whole billing periods that hold these days, joined where they touch."""
    joined: list[tuple[date, date]] = []
    for start, end in sorted({period_of(day) for day in days}):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
