"""Deliveries worked off: claimed, sent outside any transaction, recorded.

A worker that dies between the send and the record sends once more later; the same collapse key makes the second copy
take the first one's place on the phone (N8).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine import queue
from standpipe.engine.queue import Backlog, claim, database_now, finish, hold, retry
from standpipe.households.models import Membership
from standpipe.meters.models import Meter
from standpipe.notifications.models import (
    Alert,
    AlertKind,
    Delivery,
    DeliveryStatus,
    Device,
    NotificationPreference,
    NotifyChannel,
)
from standpipe.notifications.push import PushMessage, PushOutcome, PushSender
from standpipe.notifications.rules import quiet_until
from standpipe.notifications.texts import text_of
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement

MAX_ATTEMPTS = 24
"""With the back-off's cap of an hour, most of a day."""
AT_ONCE = 10
WAITS_FOR_MORNING = frozenset({AlertKind.LOW_BALANCE, AlertKind.BATTERY})
"""Alerts that quiet hours hold back. The others are news of water that runs or stops, of money, or of somebody's hand
on the meter: they do not wait (N5)."""
FOR_FORMER_MEMBERS = frozenset({"ACCESS"})
"""Alerts that reach those who have just left the household, for that is their news."""
REAL_TIME = Clock()
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A claimed delivery that can be sent, outside of any transaction."""

    delivery_id: str
    device_id: str
    attempts: int
    message: PushMessage
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class _Wishes:
    """Preferences of a delivery's customer, and whether they still belong to the household."""

    is_member: bool
    wants_push: bool
    quiet_from: str | None
    quiet_to: str | None
    time_zone: str

    def quiet_until(self, now: datetime) -> datetime | None:
        """Return when the customer's quiet hours end; None outside of them."""
        if self.quiet_from is None or self.quiet_to is None:
            return None
        return quiet_until(now, ZoneInfo(self.time_zone), self.quiet_from, self.quiet_to)


_Around = tuple[Alert, Device | None, _Wishes]
"""A delivery's alert, its device where there is one yet, and its customer's wishes."""


async def deliver_due(
    sessions: Sessions, sender: PushSender | None, clock: Clock = REAL_TIME, *, limit: int = 50
) -> int:
    """Send what is due; returns how many were claimed. Without a sender each is SUPPRESSED, visibly."""
    async with by_statement(sessions) as session:
        rows = await claim(session, Delivery, limit=limit)
        around = await _around(session, [row.id for row in rows]) if rows else {}
    jobs, ended = _prepare(rows, around, clock, push_is_on=sender is not None)
    if ended:
        async with sessions.begin() as session:
            for row, values in ended:
                # Whoever has claimed it meanwhile says what becomes of it.
                mine = (Delivery.id == row.id, Delivery.attempts == row.attempts)
                await session.execute(update(Delivery).where(*mine).values(values))
    room = asyncio.Semaphore(AT_ONCE)

    async def work(job: _Job) -> None:
        async with room:
            try:
                with tracing.continue_from(job.traceparent), tracing.span("push"):
                    outcome = await sender.send(job.message) if sender is not None else PushOutcome(error="no sender")
                    await held.let_go(job.delivery_id)
                    await _record(sessions, job, outcome)
            except Exception:
                # One that goes wrong must not take the batch with it: its lease runs out, and it is tried again.
                _log.exception("delivery failed", delivery_id=job.delivery_id)

    async with hold(sessions, Delivery, [job.delivery_id for job in jobs]) as held:
        await asyncio.gather(*(work(job) for job in jobs))
    return len(rows)


async def backlog(session: AsyncSession) -> Backlog:
    """The pushes that wait to be sent."""
    return await queue.backlog(session, Delivery.updated_at, Delivery.due_at.is_not(None))


def _prepare(
    rows: Sequence[Delivery], around: Mapping[str, _Around], clock: Clock, *, push_is_on: bool
) -> tuple[list[_Job], list[tuple[Delivery, dict[str, Any]]]]:
    """The jobs for those rows that can be sent; and of the others, what to write: they end, or wait for quiet hours."""
    now = clock.now()
    jobs, ended = [], []
    for row in rows:
        alert, device, wish = around[row.id]
        quiet = wish.quiet_until(now) if alert.kind in WAITS_FOR_MORNING else None
        reason = _why_not(alert, device, wish, push_is_on=push_is_on)
        if row.attempts > MAX_ATTEMPTS:
            # Attempts are counted when a row is claimed: only one whose worker died each time gets here.
            why = row.last_error or "every attempt ended its worker"
            ended.append((row, _ended(DeliveryStatus.FAILED, why) | {"dead_at": func.now()}))
        elif reason is not None or device is None:
            ended.append((row, _ended(DeliveryStatus.SUPPRESSED, reason or "no device")))
        elif quiet is not None:
            # Not a try: as if it had never been claimed. The queue waits in real time, the customer in the town's.
            later = func.now() + timedelta(seconds=clock.real_s(quiet - now))
            ended.append((row, {"attempts": row.attempts - 1, "due_at": later}))
        else:
            jobs.append(_Job(row.id, device.id, row.attempts, _message(alert, device), row.traceparent))
    return jobs, ended


def _why_not(alert: Alert, device: Device | None, wish: _Wishes, *, push_is_on: bool) -> str | None:
    """Return why a push is not to be sent, or None."""
    if not push_is_on:
        return "push is not set up"
    if alert.cleared_at is not None:
        return "no longer so"
    if not wish.is_member and alert.kind not in FOR_FORMER_MEMBERS:
        return "no longer of this household"
    if not wish.wants_push:
        return "pushes are switched off"
    if device is None or not device.healthy:
        return "device cannot be reached any more"
    return None


async def _around(session: AsyncSession, delivery_ids: Sequence[str]) -> dict[str, _Around]:
    """By delivery, what it goes by."""
    rows = await session.execute(
        select(
            Delivery.id,
            Alert,
            Device,
            Membership.id.is_not(None),
            func.coalesce(NotificationPreference.channels.has_key(NotifyChannel.PUSH.value), True),
            NotificationPreference.quiet_from,
            NotificationPreference.quiet_to,
            Meter.time_zone,
        )
        .join(Alert, Alert.id == Delivery.alert_id)
        .join(Meter, Meter.id == Alert.meter_id)
        .outerjoin(Device, Device.id == Delivery.device_id)
        .outerjoin(
            Membership,
            and_(Membership.household_id == Meter.household_id, Membership.customer_id == Delivery.customer_id),
        )
        .outerjoin(NotificationPreference, NotificationPreference.customer_id == Delivery.customer_id)
        .where(Delivery.id.in_(delivery_ids))
    )
    return {delivery_id: (alert, device, _Wishes(*values)) for delivery_id, alert, device, *values in rows}


def _message(alert: Alert, device: Device) -> PushMessage:
    words = text_of(alert.kind, alert.params, device.language)
    data = {"alertId": alert.id, "kind": alert.kind, "meterId": alert.meter_id}
    # A newer word about the balance replaces the older one on the phone; everything else is news of its own.
    key = f"balance:{alert.meter_id}" if alert.kind in {AlertKind.LOW_BALANCE, AlertKind.EMPTY} else alert.id
    return PushMessage(device.fcm_token, device.fcm_fid, words.title, words.body, key, data)


async def _record(sessions: Sessions, job: _Job, outcome: PushOutcome) -> None:
    if outcome.message_id is None:
        async with sessions.begin() as session:
            await _record_failure(session, job, outcome)
        return
    sent = {"status": DeliveryStatus.SENT, "provider_message_id": outcome.message_id}
    done = {"updated_at": func.now(), "due_at": None, "last_error": None}
    async with by_statement(sessions) as session:
        await session.execute(
            update(Delivery)
            .where(Delivery.id == job.delivery_id, Delivery.status == DeliveryStatus.QUEUED)
            .values(sent | done)
        )


async def _record_failure(session: AsyncSession, job: _Job, outcome: PushOutcome) -> None:
    row = await session.get(Delivery, job.delivery_id, with_for_update=True)
    if row is None or row.status != DeliveryStatus.QUEUED:
        return
    if outcome.address_gone:
        await _forget_address(session, job)
    row.updated_at = await database_now(session)
    if outcome.retry_after_s is None:
        _end(row, DeliveryStatus.FAILED, (outcome.error or "unknown")[:500])
    elif row.attempts == job.attempts:
        if not await retry(session, row, outcome.error or "unknown", max_attempts=MAX_ATTEMPTS):
            row.status = DeliveryStatus.FAILED
        else:
            row.due_at = func.greatest(row.due_at, func.now() + timedelta(seconds=outcome.retry_after_s))


async def _forget_address(session: AsyncSession, job: _Job) -> None:
    """Take the address off the device, unless the app has registered another one since."""
    token, fid = job.message.fcm_token, job.message.fcm_fid
    await session.execute(
        update(Device)
        .where(Device.id == job.device_id, Device.fcm_token == token if token else Device.fcm_fid == fid)
        .values(fcm_token=None, fcm_fid=None, healthy=False)
    )


def _ended(status: DeliveryStatus, reason: str) -> dict[str, Any]:
    return {"status": status, "last_error": reason, "due_at": None}


def _end(row: Delivery, status: DeliveryStatus, reason: str) -> None:
    finish(row)
    row.status, row.last_error = status, reason
