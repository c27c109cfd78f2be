"""Deliveries worked off: claimed, sent outside any transaction, recorded.

A worker that dies between the send and the record sends once more later; the same collapse key makes the second copy
take the first one's place on the phone (N8).
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.db.engine import Sessions
from standpipe.db.queue import claim, database_now, finish, retry
from standpipe.notifications.models import Alert, Delivery, DeliveryStatus, Device
from standpipe.notifications.push import PushMessage, PushOutcome, PushSender
from standpipe.notifications.texts import text_of

LEASE_S = 90.0
MAX_ATTEMPTS = 8
AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class _Job:
    delivery_id: str
    message: PushMessage | None


async def deliver_due(sessions: Sessions, sender: PushSender | None, *, limit: int = 50) -> int:
    """Send what is due; returns how many were claimed. Without a sender each is SUPPRESSED, visibly."""
    async with sessions.begin() as session:
        rows = await claim(session, Delivery, limit=limit, lease_s=LEASE_S)
        jobs = [await _prepare(session, row) for row in rows]
    room = asyncio.Semaphore(AT_ONCE)

    async def work(job: _Job) -> None:
        async with room:
            outcome = await _send(sender, job)
        async with sessions.begin() as session:
            await _record(session, job.delivery_id, outcome)

    await asyncio.gather(*(work(job) for job in jobs))
    return len(jobs)


async def _prepare(session: AsyncSession, row: Delivery) -> _Job:
    alert = await session.get_one(Alert, row.alert_id)
    device = None if row.device_id is None else await session.get(Device, row.device_id)
    if device is None or not device.healthy:
        return _Job(row.id, None)
    words = text_of(alert.kind, alert.params, device.language)
    data = {"alertId": alert.id, "kind": alert.kind, "meterId": alert.meter_id}
    return _Job(
        row.id,
        PushMessage(device.fcm_token, device.fcm_fid, words.title, words.body, f"{alert.kind}:{alert.meter_id}", data),
    )


async def _send(sender: PushSender | None, job: _Job) -> PushOutcome | None:
    """None: there is nobody or no way to send to."""
    if sender is None or job.message is None:
        return None
    return await sender.send(job.message)


async def _record(session: AsyncSession, delivery_id: str, outcome: PushOutcome | None) -> None:
    row = await session.get_one(Delivery, delivery_id, with_for_update=True)
    row.updated_at = await database_now(session)
    if outcome is None:
        row.status = DeliveryStatus.SUPPRESSED
        finish(row)
        return
    if outcome.message_id is not None:
        row.status, row.provider_message_id = DeliveryStatus.SENT, outcome.message_id
        finish(row)
        return
    if outcome.address_gone and row.device_id is not None:
        device = await session.get_one(Device, row.device_id)
        device.healthy, device.fcm_token, device.fcm_fid = False, None, None
    error = outcome.error or "unknown"
    if outcome.retry_after_s is None:
        row.status, row.due_at, row.last_error = DeliveryStatus.FAILED, None, error
    elif not await retry(session, row, error, max_attempts=MAX_ATTEMPTS):
        row.status = DeliveryStatus.FAILED
    else:
        row.due_at = func.greatest(row.due_at, func.now() + timedelta(seconds=outcome.retry_after_s))
