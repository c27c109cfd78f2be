"""Raw readings: kept as they came, of any number of meters, in one statement."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from standpipe.meters.reports import RegisterReading
from standpipe.platform.database import Sessions
from standpipe.readings.models import RawReport
from standpipe.readings.raw import RawReadings, store_raw
from tests.support.water import meter

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def told(*registers_ml: int, air: int | None = None) -> tuple[RegisterReading, ...]:
    return tuple(RegisterReading(NOW - timedelta(hours=n), ml, ml == air) for n, ml in enumerate(registers_ml))


async def test_reports_of_many_meters_are_kept_in_the_order_of_their_arrival(sessions: Sessions) -> None:
    (one, _), (other, _) = await meter(sessions), await meter(sessions)
    reports = [
        RawReadings(one.meter_id, NOW, told(9, 8, 7), stated_at=NOW),
        RawReadings(other.meter_id, NOW, told(5, 4, air=4), clock_wrong=True),
        RawReadings(one.meter_id, NOW, ()),
        RawReadings(one.meter_id, NOW, told(9)),
        RawReadings(other.meter_id, NOW, told(6, air=6)),
    ]
    async with sessions.begin() as session:
        await store_raw(await session.connection(), reports)
    async with sessions() as session:
        rows = (await session.scalars(select(RawReport).order_by(RawReport.arrival))).all()
    kept = [
        RawReadings(
            row.meter_id,
            row.received_at,
            tuple(
                RegisterReading(at, ml, bool(row.empty_pipe) and row.empty_pipe[place])
                for place, (at, ml) in enumerate(zip(row.read_at, row.register_ml, strict=True))
            ),
            row.clock_wrong,
            row.stated_at,
        )
        for row in rows
    ]
    assert kept == [report for report in reports if report.readings]
    assert [bool(row.empty_pipe) for row in rows] == [False, True, False, True]
