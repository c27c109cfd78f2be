"""Alerts as one member of a household reads them: what was read, and which deliveries are shown, is theirs alone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Select, Text, Values, and_, column, func, not_, select, true, values
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import Membership
from standpipe.meters.models import Meter
from standpipe.notifications.models import Alert, AlertRead, Delivery

COUNTED_ALERTS = 200
"""Unread alerts are counted among so many of the newest: years of history cost no more than a month of it."""
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_Columns = Select[str, str, str, dict[str, Any], datetime, datetime | None, datetime | None]


@dataclass(frozen=True, slots=True)
class AlertView:
    """An alert for its reader. Not checked for when its household moved in: ``since`` is for the caller to compare."""

    id: str
    meter_id: str
    kind: str
    params: dict[str, Any]
    raised_at: datetime
    cleared_at: datetime | None
    read_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One alert to one of the reader's devices, by a channel; ``at`` is real time."""

    channel: str
    status: str
    at: datetime


@dataclass(frozen=True, slots=True)
class AlertsRequest:
    """A page of one meter's alerts, from ``since`` on (None: all)."""

    meter_id: str
    first: int
    after: str | None
    since: datetime | None
    unread_only: bool


async def alerts_of_meters(
    session: AsyncSession, customer_id: str, requests: Sequence[AlertsRequest]
) -> dict[AlertsRequest, list[AlertView]]:
    """Pages, newest first, each of up to ``first`` + 1; one statement for all meters asked for alike.

    The meters are not checked for whose they are.
    """
    pages: dict[AlertsRequest, list[AlertView]] = {request: [] for request in requests}
    for kind in {replace(request, meter_id="", since=None) for request in requests}:
        alike = {request.meter_id: request for request in requests if replace(request, meter_id="", since=None) == kind}
        wanted = _wanted([(request.meter_id, request.since) for request in alike.values()])
        page = _alerts(customer_id).where(Alert.meter_id == wanted.c.meter_id, Alert.raised_at >= wanted.c.since)
        if kind.after is not None:
            page = page.where(Alert.id < kind.after)
        if kind.unread_only:
            page = page.where(AlertRead.read_at.is_(None))
        newest = page.order_by(Alert.id.desc()).limit(kind.first + 1).lateral("page")
        rows = await session.execute(
            select(newest).select_from(wanted).join(newest, true()).order_by(newest.c.id.desc())
        )
        for row in rows:
            view = AlertView(*row)
            pages[alike[view.meter_id]].append(view)
    return pages


async def unread_counts(
    session: AsyncSession, customer_id: str, meters: Sequence[tuple[str, datetime | None]]
) -> dict[str, int]:
    """Count this customer's unread ones of each meter's newest COUNTED_ALERTS, from an instant on (None: all)."""
    wanted = values(column("meter_id", Text), column("since", DateTime(timezone=True)), name="wanted").data(
        [(meter_id, since or _EVER) for meter_id, since in meters]
    )
    newest = (
        _alerts(customer_id)
        .where(Alert.meter_id == wanted.c.meter_id, Alert.raised_at >= wanted.c.since)
        .order_by(Alert.id.desc())
        .limit(COUNTED_ALERTS)
        .lateral("newest")
    )
    rows = await session.execute(
        select(wanted.c.meter_id, func.count())
        .select_from(wanted)
        .join(newest, true())
        .where(newest.c.read_at.is_(None))
        .group_by(wanted.c.meter_id)
    )
    return {meter_id: count for meter_id, count in rows}  # noqa: C416 - dict() does not take rows.


async def alerts_by_id(session: AsyncSession, customer_id: str, ids: Sequence[str]) -> dict[str, AlertView]:
    """Those of these alerts that are of this customer's meters; the others are left out, whatever the reason."""
    return {row.id: AlertView(*row) for row in await session.execute(_theirs(customer_id).where(Alert.id.in_(ids)))}


async def newest_waiting(session: AsyncSession, customer_id: str) -> list[AlertView]:
    """Of each of this customer's meters the newest alert that still stands and that they have not read."""
    newest = (
        _alerts(customer_id)
        .where(Alert.meter_id == Meter.id, AlertRead.read_at.is_(None), Alert.cleared_at.is_(None))
        .order_by(Alert.id.desc())
        .limit(1)
        .lateral("newest")
    )
    theirs = select(newest).select_from(Membership).join(Meter, Meter.household_id == Membership.household_id)
    rows = await session.execute(theirs.join(newest, true()).where(Membership.customer_id == customer_id))
    return [AlertView(*row) for row in rows]


async def raised_after(
    session: AsyncSession, customer_id: str, floor: str, *, seen: Collection[str], limit: int
) -> list[AlertView]:
    """This customer's alerts with ids past ``floor``, but for those ``seen``; oldest first."""
    fresh = _theirs(customer_id).where(Alert.id > floor, Alert.id.not_in(seen))
    return [AlertView(*row) for row in await session.execute(fresh.order_by(Alert.id).limit(limit))]


async def deliveries_of(
    session: AsyncSession, customer_id: str, alert_ids: Sequence[str]
) -> dict[str, list[DeliveryView]]:
    """Load how these alerts went out to this customer; nobody else's deliveries."""
    found: dict[str, list[DeliveryView]] = {alert_id: [] for alert_id in alert_ids}
    rows = await session.execute(
        select(Delivery.alert_id, Delivery.channel, Delivery.status, Delivery.updated_at)
        .where(Delivery.alert_id.in_(alert_ids), Delivery.customer_id == customer_id)
        .order_by(Delivery.id)
    )
    for alert_id, channel, status, at in rows:
        found[alert_id].append(DeliveryView(channel, status, at))
    return found


async def mark_read(session: AsyncSession, customer_id: str, alert_ids: Collection[str], now: datetime) -> None:
    """Note that this customer has read these alerts; the first time stands. Not checked for whose they are."""
    if alert_ids:
        rows = [{"alert_id": alert_id, "customer_id": customer_id, "read_at": now} for alert_id in sorted(alert_ids)]
        await session.execute(insert(AlertRead).on_conflict_do_nothing(), rows)


def _wanted(meters: Sequence[tuple[str, datetime | None]]) -> Values:
    """Meters, and since when their alerts are their household's, as a table to join."""
    table = values(column("meter_id", Text), column("since", DateTime(timezone=True)), name="wanted")
    return table.data([(meter_id, since or _EVER) for meter_id, since in meters])


def _alerts(customer_id: str) -> _Columns:
    """Alerts that concern this customer, with their own reading of each."""
    return (
        select(
            *(Alert.id, Alert.meter_id, Alert.kind, Alert.params, Alert.raised_at, Alert.cleared_at),
            AlertRead.read_at,
        )
        .outerjoin(AlertRead, and_(AlertRead.alert_id == Alert.id, AlertRead.customer_id == customer_id))
        .where(_concerns(customer_id))
    )


def _theirs(customer_id: str) -> _Columns:
    """Alerts of this customer's present meters."""
    return (
        _alerts(customer_id)
        .join(Meter, Meter.id == Alert.meter_id)
        .join(Membership, and_(Membership.household_id == Meter.household_id, Membership.customer_id == customer_id))
    )


def _concerns(customer_id: str) -> ColumnElement[bool]:
    return not_(func.coalesce(Alert.params["not_for"].has_key(customer_id), False))
