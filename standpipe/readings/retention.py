"""Retention: months of readings are let go; days, charges, statements and the ledger stay, and stay right.

The horizon is the instant before which readings are gone; whatever comes late from before it is held
(``Reason.BEFORE_RETENTION``), for it could no longer be judged by what was around it. Of each meter three things of
before the horizon are kept, so that all after it is computed as if nothing had gone:

- the last reading that others go on from, which is the neighbour below of the first one after the horizon;
- the last counted reading, and the last one at or before the start of the service day that the horizon lies in: R(t)
  at both ends of the oldest day that can still change;
- whatever is HELD and waits for a person.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import Meter
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import day_span, period_of, service_day
from standpipe.readings.models import Reading, ReadingQuality, StorageHorizon
from standpipe.readings.neighbours import READINGS
from standpipe.readings.storage import Partition, attach, be_alone, month_start, new_table, partitions

YOUNGEST = timedelta(days=60)
"""Nothing younger is let go: late readings and corrections of the last weeks are daily business."""
SWEEP_METERS = 5
"""Some 200,000 readings in one transaction, where five years of them go."""

_COUNTED = "r.quality IN ('MEASURED', 'CORRECTED')"
_KEPT = f"""
    (SELECT r.* FROM readings r WHERE r.meter_id = m.id AND r.read_at < :before
       AND ({_COUNTED} OR r.counted_ml IS NOT NULL) ORDER BY r.read_at DESC LIMIT 1)
    UNION (SELECT r.* FROM readings r WHERE r.meter_id = m.id AND r.read_at < :before
       AND {_COUNTED} ORDER BY r.read_at DESC LIMIT 1)
    UNION (SELECT r.* FROM readings r WHERE r.meter_id = m.id AND r.read_at <= z.day_start
       AND {_COUNTED} ORDER BY r.read_at DESC LIMIT 1)
    UNION (SELECT r.* FROM readings r WHERE r.meter_id = m.id AND r.read_at < :before AND r.quality = 'HELD')
"""  # noqa: S608 - put together from constants.
_ZONES = "unnest(CAST(:zones AS text[]), CAST(:day_starts AS timestamptz[])) AS z(zone, day_start)"
_KEEP = f"""
INSERT INTO %s
SELECT kept.* FROM meters m JOIN {_ZONES} ON z.zone = m.time_zone CROSS JOIN LATERAL ({_KEPT}) AS kept
"""  # noqa: S608 - as above.
_SWEEP = text(f"""
WITH swept AS (
    SELECT m.id, array(SELECT kept.read_at FROM ({_KEPT}) AS kept) AS kept
    FROM meters m JOIN {_ZONES} ON z.zone = m.time_zone WHERE m.id > :after ORDER BY m.id LIMIT :meters),
gone AS (
    DELETE FROM readings r USING swept s
    WHERE r.meter_id = s.id AND r.read_at < :before AND NOT r.read_at = ANY (s.kept) RETURNING 1)
SELECT (SELECT max(id) FROM swept), (SELECT count(*) FROM gone)
""")  # noqa: S608 - as above.
_OPEN = text("""
SELECT count(*) FROM meters m JOIN unnest(CAST(:zones AS text[]), CAST(:months AS date[])) AS z(zone, month)
    ON z.zone = m.time_zone
WHERE m.installed_at < :before
  AND NOT EXISTS (SELECT FROM statements s WHERE s.meter_id = m.id AND s.period_start >= z.month)
""")


@dataclass(frozen=True, slots=True)
class Retention:
    """Readings that go before an instant: whole partitions, and ``swept``, from which rows are deleted in batches.

    ``held`` readings wait for a person and stay.
    """

    before: datetime
    dropped: tuple[Partition, ...]
    swept: Partition | None
    held: int


async def horizon(session: AsyncSession) -> datetime | None:
    """Before which instant readings have been let go; None where all are there."""
    return await session.scalar(select(StorageHorizon.before).where(StorageHorizon.what == READINGS))


async def plan(session: AsyncSession, before: datetime, now: datetime) -> Retention:
    """Return what ``let_go`` would do. Raises InvalidInputError as it does."""
    if before.tzinfo is None or before != month_start(before.astimezone(UTC).date()):
        raise InvalidInputError("Readings are let go by whole months, in UTC.", ("before",))
    if before > now - YOUNGEST:
        raise InvalidInputError(f"Readings of the last {YOUNGEST.days} days are not let go.", ("before",))
    known = await horizon(session)
    if known is not None and before < known:
        raise InvalidInputError(f"All before {known:%Y-%m} has been let go already.", ("before",))
    open_meters = await _with_open_statements(session, before)
    if open_meters:
        raise InvalidInputError(
            f"{open_meters} meters have no statement yet for the months before {before:%Y-%m}: what they are charged "
            "for these can still change.",
            ("before",),
        )
    kept = kept_name(before)
    found = [one for one in await partitions(session) if not one.is_rest and one.name != kept]
    held = select(func.count()).select_from(Reading).where(
        Reading.quality == ReadingQuality.HELD, Reading.read_at < before
    )  # fmt: skip
    return Retention(
        before=before,
        dropped=tuple(one for one in found if one.until is not None and one.until <= before),
        swept=next((one for one in found if _begins(one) < before and (one.until is None or before < one.until)), None),
        held=await session.scalar(held) or 0,
    )


async def let_go(session: AsyncSession, before: datetime, now: datetime) -> Retention:
    """Set the horizon, keep what is needed of before it, and drop the partitions that end by then.

    Where the horizon lies inside a partition, ``sweep`` has its rows to delete. Everybody who reads or stores readings
    waits meanwhile, and has waited for: no report that knew the old horizon is still under way. Raises
    InvalidInputError for what must not go, DBAPIError (LOCK_NOT_AVAILABLE) where somebody reads for too long: try
    again.
    """
    await be_alone(session)
    await session.execute(text("LOCK TABLE meters IN SHARE ROW EXCLUSIVE MODE"))
    await session.execute(text("LOCK TABLE ONLY readings IN ACCESS EXCLUSIVE MODE"))
    going = await plan(session, before, now)
    set_horizon = insert(StorageHorizon).values(what=READINGS, before=before)
    await session.execute(
        set_horizon.on_conflict_do_update(index_elements=["what"], set_={"before": set_horizon.excluded.before})
    )
    name = kept_name(before)
    if going.dropped:
        await new_table(session, name)
        await session.execute(text(_KEEP % name), await _of_zones(session, before))
        for one in going.dropped:
            await session.execute(text(f"DROP TABLE {one.name}"))
        await attach(session, name, None, before)
    return going


async def sweep(session: AsyncSession, before: datetime, after: str = "") -> tuple[str | None, int]:
    """Delete what of some meters' readings lies before the horizon and is not kept, with ``after`` the last meter done.

    Returns the last meter of this batch (None: there were none left) and how many readings went.
    """
    given = {"after": after, "meters": SWEEP_METERS, **await _of_zones(session, before)}
    last, gone = (await session.execute(_SWEEP, given)).one()
    return last, gone


def kept_name(before: datetime) -> str:
    """The partition of what is kept of before the horizon."""
    return f"readings_before_{before:%Y_%m}"


def _begins(one: Partition) -> datetime:
    return one.since or datetime.min.replace(tzinfo=UTC)


async def _with_open_statements(session: AsyncSession, before: datetime) -> int:
    days = await _horizon_days(session, before)
    given = {"before": before, "zones": list(days), "months": [period_of(day)[0] for day in days.values()]}
    return int(await session.scalar(_OPEN, given) or 0)


async def _horizon_days(session: AsyncSession, before: datetime) -> Mapping[str, date]:
    """By zone, the service day that an instant lies in or closes: the oldest day that later readings can change."""
    zones: Sequence[str] = (await session.scalars(select(Meter.time_zone).distinct())).all()
    return {zone: service_day(before, ZoneInfo(zone)) for zone in zones}


async def _of_zones(session: AsyncSession, before: datetime) -> dict[str, Any]:
    days = await _horizon_days(session, before)
    starts = [day_span(day, ZoneInfo(zone)).start for zone, day in days.items()]
    return {"before": before, "zones": list(days), "day_starts": starts}
