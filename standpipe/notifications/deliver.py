"""Deliveries worked off: claimed, sent outside any transaction, recorded.

A worker that dies between the send and the record sends once more later; the same collapse key makes the second copy
take the first one's place on the phone (N8).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
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


async def deliver_due(
    sessions: Sessions, sender: PushSender | None, clock: Clock = REAL_TIME, *, limit: int = 50
) -> int:
    """Send what is due; returns how many were claimed. Without a sender each is SUPPRESSED, visibly."""
    async with sessions.begin() as session:
        rows = await claim(session, Delivery, limit=limit)
        jobs = await _prepare(session, rows, clock, push_is_on=sender is not None)
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


async def _prepare(session: AsyncSession, rows: Sequence[Delivery], clock: Clock, *, push_is_on: bool) -> list[_Job]:
    """The jobs for those rows that can be sent; the others end here with their reason, or wait for quiet hours."""
    surroundings = await _around(session, [row.id for row in rows])
    now = clock.now()
    jobs = []
    for row in rows:
        alert, device, wish = surroundings[row.id]
        quiet = wish.quiet_until(now) if alert.kind in WAITS_FOR_MORNING else None
        if row.attempts > MAX_ATTEMPTS:
            # Attempts are counted when a row is claimed: only one whose worker died each time gets here.
            _end(row, DeliveryStatus.FAILED, row.last_error or "every attempt ended its worker")
            row.dead_at = func.now()
        elif not push_is_on:
            _end(row, DeliveryStatus.SUPPRESSED, "push is not set up")
        elif alert.cleared_at is not None:
            _end(row, DeliveryStatus.SUPPRESSED, "no longer so")
        elif not wish.is_member and alert.kind not in FOR_FORMER_MEMBERS:
            _end(row, DeliveryStatus.SUPPRESSED, "no longer of this household")
        elif not wish.wants_push:
            _end(row, DeliveryStatus.SUPPRESSED, "pushes are switched off")
        elif device is None or not device.healthy:
            _end(row, DeliveryStatus.SUPPRESSED, "device cannot be reached any more")
        elif quiet is not None:
            # Not a try: as if it had never been claimed. The queue waits in real time, the customer in the town's.
            row.attempts -= 1
            row.due_at = func.now() + timedelta(seconds=clock.real_s(quiet - now))
        else:
            jobs.append(_Job(row.id, device.id, row.attempts, _message(alert, device), row.traceparent))
    return jobs


async def _around(
    session: AsyncSession, delivery_ids: Sequence[str]
) -> dict[str, tuple[Alert, Device | None, _Wishes]]:
    """By delivery, its alert, its device where there is one yet, and its customer's wishes."""
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


def _end(row: Delivery, status: DeliveryStatus, reason: str) -> None:
    finish(row)
    row.status, row.last_error = status, reason
