"""Raw readings: what a contact stores, and nothing else of it. Judging them is the rating's work."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate, chain
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from standpipe.meters.due import MARK
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.platform.errors import InvalidInputError

MAX_READINGS = 10_000
MAX_CLOCK_ERROR = timedelta(hours=12)
"""A status report is made while we listen: one whose time is further from ours has a wrong clock behind it."""

# All readings of all reports travel as three arrays, of which each report's row takes its slice.
STORE = text("""
INSERT INTO raw_reports (meter_id, received_at, clock_wrong, stated_at, read_at, register_ml, empty_pipe)
SELECT r.meter_id, r.received_at, r.clock_wrong, r.stated_at, (CAST(:read_at AS timestamptz[]))[r.first:r.last],
       (CAST(:register_ml AS bigint[]))[r.first:r.last], (CAST(:empty_pipe AS boolean[]))[r.first_air:r.last_air]
FROM unnest(CAST(:told_ids AS text[]), CAST(:received_ats AS timestamptz[]), CAST(:clocks_wrong AS boolean[]),
            CAST(:stated_ats AS timestamptz[]), CAST(:firsts AS int[]), CAST(:lasts AS int[]),
            CAST(:first_airs AS int[]), CAST(:last_airs AS int[]))
     WITH ORDINALITY
     AS r(meter_id, received_at, clock_wrong, stated_at, first, last, first_air, last_air, position)
ORDER BY r.position
""")
STORE_AND_MARK = text(f"WITH stored AS ({STORE.text} RETURNING 1), {MARK.text.strip().removeprefix('WITH ')}")


@dataclass(frozen=True, slots=True)
class RawReadings:
    """The register readings of one meter's report, told in any order. Field by field: ``models.RawReport``."""

    meter_id: str
    received_at: datetime
    readings: tuple[RegisterReading, ...]
    clock_wrong: bool = False
    stated_at: datetime | None = None


def raw_readings(report: MeterReport, now: datetime, *, is_new: bool, clock_error_s: int | None) -> RawReadings | None:
    """Return what of a report is to be stored; None where it holds no reading.

    ``is_new``: its status report was not heard before. ``clock_error_s``: how far the meter's clock was ahead
    by the status report before this one; a new one of this report tells better. Raises InvalidInputError for more than
    MAX_READINGS.
    """
    if len(report.readings) > MAX_READINGS:
        raise InvalidInputError(f"A report may hold {MAX_READINGS} readings.")
    # Kept hours come before the status report that could tell of a wrong clock: what it told last holds until then.
    clock_wrong = abs(timedelta(seconds=clock_error_s or 0)) > MAX_CLOCK_ERROR
    readings, stated_at = report.readings, None
    if report.status is not None and is_new:
        status = report.status
        clock_wrong = abs(status.stated_at - now) > MAX_CLOCK_ERROR
        # Its time has whole seconds; the report number puts several within one in order.
        stated_at = status.stated_at + timedelta(microseconds=status.report_counter % 1_000_000)
        readings = (*readings, RegisterReading(stated_at, status.register_ml, report.empty_pipe))
    if not readings:
        return None
    return RawReadings(report.meter_id, now, readings, clock_wrong, stated_at)


async def store_raw(conn: AsyncConnection, reports: Sequence[RawReadings]) -> None:
    """Store the readings of any number of reports and meters as they came, in one statement.

    They are judged in this order by the rating of each meter, which the caller marks due in the same transaction.
    """
    if any(report.readings for report in reports):
        await conn.execute(STORE, _columns(reports))


async def store_and_mark(conn: AsyncConnection, reports: Sequence[RawReadings], meter_ids: Sequence[str]) -> None:
    """Store readings as ``store_raw`` does and mark these meters due, both in one statement."""
    if meter_ids:
        due: dict[str, Any] = {"meter_ids": list(meter_ids), "reprice_from": None}
        await conn.execute(STORE_AND_MARK, _columns(reports) | due)


def _columns(reports: Sequence[RawReadings]) -> dict[str, list[Any]]:
    reports = [report for report in reports if report.readings]
    counts = [len(report.readings) for report in reports]
    airs = [len(report.readings) if any(one.empty_pipe for one in report.readings) else 0 for report in reports]
    told = list(chain.from_iterable(report.readings for report in reports))
    with_air = chain.from_iterable(report.readings for report, count in zip(reports, airs, strict=True) if count)
    lasts, last_airs = list(accumulate(counts)), list(accumulate(airs))
    return {
        "told_ids": [report.meter_id for report in reports],
        "received_ats": [report.received_at for report in reports],
        "clocks_wrong": [report.clock_wrong for report in reports],
        "stated_ats": [report.stated_at for report in reports],
        "firsts": [last - count + 1 for last, count in zip(lasts, counts, strict=True)],
        "lasts": lasts,
        "first_airs": [last - count + 1 for last, count in zip(last_airs, airs, strict=True)],
        "last_airs": last_airs,
        "read_at": [one.read_at for one in told],
        "register_ml": [one.register_ml for one in told],
        "empty_pipe": [one.empty_pipe for one in with_air],
    }
