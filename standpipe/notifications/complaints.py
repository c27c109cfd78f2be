"""Alerts about alarms: told to the meter's household, and standing as long as the alarm does."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.field_models import MeterCondition
from standpipe.meters.reports import ConditionKind
from standpipe.notifications.alerts import lock_state, raise_once
from standpipe.notifications.models import Alert, AlertKind

AGAIN_AFTER = timedelta(days=1)
"""Time within which an alarm that comes back is the same one: its alert stands again, and nobody is told anew."""
# Reverse flow, a blocked meter and an empty pipe are the utility's to look after, not the household's.
_ALERTS: dict[str, AlertKind] = {
    ConditionKind.LEAK_SUSPECTED: AlertKind.LEAK,
    ConditionKind.LEAK: AlertKind.LEAK,
    ConditionKind.TAMPER: AlertKind.TAMPER,
    ConditionKind.LOW_BATTERY: AlertKind.BATTERY,
}


def alert_kind_of(condition: str) -> AlertKind | None:
    """The alert that a complaint becomes; None where a household is not told of it."""
    return _ALERTS.get(condition)


async def follow_condition(
    session: AsyncSession,
    *,
    meter_id: str,
    condition: str,
    raised_at: datetime | None,
    params: dict[str, Any],
    since: datetime | None,
    now: datetime,
) -> None:
    """A complaint began at ``raised_at``, or ended (None). In whatever order and how often it is heard, the newest
    alert of its kind stands if, and only if, the meter complains.

    ``since``: when the household moved in. Alerts from before were others', and are none that could stand again.
    """
    kind = alert_kind_of(condition)
    if kind is None:
        return
    # Taken first: who raises and who clears must not pass each other by.
    await lock_state(session, meter_id, kind)
    newest = await _newest(session, meter_id, kind)
    if raised_at is not None and _is_news(newest, raised_at, since):
        key = f"condition:{meter_id}:{kind}:{raised_at.isoformat()}"
        at = min(raised_at, now)
        await raise_once(session, meter_id=meter_id, kind=kind, business_key=key, params=params, now=at)
        newest = await _newest(session, meter_id, kind)
    if newest is not None:
        await _agree(session, newest, kind, now)


def _is_news(newest: Alert | None, raised_at: datetime, since: datetime | None) -> bool:
    if newest is None or raised_at - newest.raised_at >= AGAIN_AFTER:
        return True
    return since is not None and newest.raised_at < since <= raised_at


async def _newest(session: AsyncSession, meter_id: str, kind: AlertKind) -> Alert | None:
    query = select(Alert).where(Alert.meter_id == meter_id, Alert.kind == kind)
    newest: Alert | None = await session.scalar(query.order_by(Alert.raised_at.desc(), Alert.id.desc()).limit(1))
    return newest


async def _agree(session: AsyncSession, newest: Alert, kind: AlertKind, now: datetime) -> None:
    """The newest alert stands as the meter's own last word has it, and older ones do not."""
    mapped = [condition for condition, becomes in _ALERTS.items() if becomes is kind]
    rows = list(
        await session.scalars(
            select(MeterCondition)
            .where(MeterCondition.meter_id == newest.meter_id, MeterCondition.kind.in_(mapped))
            .execution_options(populate_existing=True)
        )
    )
    ended = [row.cleared_at for row in rows if row.cleared_at is not None]
    if any(row.is_raised for row in rows):
        newest.cleared_at = None
    elif newest.cleared_at is None:
        newest.cleared_at = max(ended, default=now)
    await session.flush()
    same = (Alert.meter_id == newest.meter_id, Alert.kind == kind, Alert.cleared_at.is_(None))
    await session.execute(update(Alert).where(*same, Alert.id != newest.id).values(cleared_at=max(ended, default=now)))
