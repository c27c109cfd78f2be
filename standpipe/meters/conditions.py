"""What meters complain of and measure beside the water: the last word of each kind."""

from collections.abc import Sequence
from datetime import datetime

import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.field_models import MeterCondition, MeterMeasure
from standpipe.meters.reports import Condition, ConditionKind, Measure
from standpipe.outbox.facts import ConditionChanged, publish

_log = structlog.get_logger(__name__)


async def note_conditions(session: AsyncSession, meter_id: str, conditions: Sequence[Condition], now: datetime) -> None:
    """Take in what a locked meter said, in the order of its instants; what is older than the last word is ignored.

    Several sources of one kind at one instant (a leak by two objects) are raised where any of them is.
    """
    merged: dict[tuple[datetime, ConditionKind], bool] = {}
    for condition in conditions:
        # A clock that runs ahead must not make the meter deaf to what it says later.
        key = (min(condition.at, now), condition.kind)
        merged[key] = merged.get(key, False) or condition.is_raised
    for (at, kind), is_raised in sorted(merged.items(), key=lambda item: item[0][0]):
        row = await session.get(MeterCondition, (meter_id, kind), populate_existing=True)
        if row is None:
            row = MeterCondition(meter_id=meter_id, kind=kind, is_raised=False, told_at=at)
            session.add(row)
        elif at < row.told_at:
            continue
        if is_raised and not row.is_raised:
            row.raised_at = at
            _log.warning("meter complains", meter_id=meter_id, kind=kind)
            await publish(session, ConditionChanged(meter_id, kind, at.isoformat()))
        elif row.is_raised and not is_raised:
            row.cleared_at = at
            await publish(session, ConditionChanged(meter_id, kind, ""))
        row.is_raised, row.told_at = is_raised, at
        await session.flush()


async def note_measures(session: AsyncSession, meter_id: str, measures: Sequence[Measure], now: datetime) -> None:
    """Keep the newest value of each kind."""
    for measure in sorted(measures, key=lambda item: item.at):
        at = min(measure.at, now)
        fresh = insert(MeterMeasure).values(meter_id=meter_id, kind=measure.kind, value=measure.value, told_at=at)
        await session.execute(
            fresh.on_conflict_do_update(
                index_elements=["meter_id", "kind"],
                set_={"value": measure.value, "told_at": at},
                where=MeterMeasure.told_at <= at,
            )
        )
