"""The worker: queues worked off, and the one place that says who reacts to what."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.clock import Clock
from standpipe.db.engine import Sessions
from standpipe.db.notify import WORK, Listener
from standpipe.db.queue import claim, finish, retry
from standpipe.notifications.alerts import check_low_balance, raise_once
from standpipe.notifications.deliver import deliver_due
from standpipe.notifications.models import AlertKind
from standpipe.notifications.push import PushSender
from standpipe.notifications.rules import LowBalanceSignal
from standpipe.outbox.facts import CreditConfirmed, Fact, MoneyInSuspense, TopUpFailed, TopUpPaid, UsageRecorded, read
from standpipe.outbox.models import OutboxFact
from standpipe.payments.inbox import work_inbox
from standpipe.payments.provider import Provider
from standpipe.payments.top_ups import poll_due
from standpipe.usage.overview import MeterView, meter_view

LOOK_EVERY_S = 2.0
"""Queues are looked at this often even when nobody calls: retries and leases fall due in silence."""
MAX_ATTEMPTS = 10
LEASE_S = 60.0
_log = structlog.get_logger(__name__)


async def run_worker(
    sessions: Sessions,
    listener: Listener,
    providers: Mapping[str, Provider],
    sender: PushSender | None,
    clock: Clock,
    offline_after: timedelta,
) -> None:
    """Work all queues until cancelled. Any number of workers may run; rows are claimed, never shared."""
    queues: dict[str, Callable[[], Awaitable[int]]] = {
        "inbox": lambda: work_inbox(sessions, providers, clock),
        "janitor": lambda: poll_due(sessions, providers, clock),
        "outbox": lambda: work_outbox(sessions, clock, offline_after),
        "deliveries": lambda: deliver_due(sessions, sender),
    }
    async with asyncio.TaskGroup() as group:
        for name, work in queues.items():
            group.create_task(_keep_working(name, work, listener), name=name)


async def work_outbox(sessions: Sessions, clock: Clock, offline_after: timedelta, *, limit: int = 50) -> int:
    """React to due facts, each in a transaction of its own; returns how many were claimed."""
    async with sessions.begin() as session:
        ids = [row.id for row in await claim(session, OutboxFact, limit=limit, lease_s=LEASE_S)]
    for fact_id in ids:
        error = None
        try:
            async with sessions.begin() as session:
                row = await session.get_one(OutboxFact, fact_id, with_for_update=True)
                await react(session, read(row), clock, offline_after)
                finish(row)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
            _log.exception("reaction failed", fact_id=fact_id)
        if error is not None:
            async with sessions.begin() as session:
                row = await session.get_one(OutboxFact, fact_id, with_for_update=True)
                await retry(session, row, error, max_attempts=MAX_ATTEMPTS)
    return len(ids)


async def react(session: AsyncSession, fact: Fact, clock: Clock, offline_after: timedelta) -> None:
    """Who reacts to what. A reaction may run twice, so each goes by a business key."""
    now = clock.now()
    match fact:
        case UsageRecorded(meter_id) | TopUpPaid(_, meter_id):
            view = await meter_view(session, meter_id, now, offline_after=offline_after)
            if view is not None and view.on_meter_as_of is not None:
                await check_low_balance(
                    session, meter_id=meter_id, signal=_signal(view, now, offline_after), params=_params(view), now=now
                )
        case CreditConfirmed(meter_id, accepted_minor):
            view = await meter_view(session, meter_id, now, offline_after=offline_after)
            if view is not None:
                await raise_once(
                    session,
                    meter_id=meter_id,
                    kind=AlertKind.TOP_UP,
                    business_key=f"credit:{meter_id}:{accepted_minor}",
                    params=_params(view),
                    now=now,
                )
        case TopUpFailed(top_up_id, meter_id):
            view = await meter_view(session, meter_id, now, offline_after=offline_after)
            if view is not None:
                await raise_once(
                    session,
                    meter_id=meter_id,
                    kind=AlertKind.TOP_UP,
                    business_key=f"top-up-failed:{top_up_id}",
                    params=_params(view) | {"variant": "TOP_UP_FAILED"},
                    now=now,
                )
        case MoneyInSuspense(top_up_id, reason):
            _log.error("money in suspense: a person must look", top_up_id=top_up_id, reason=reason)


def _signal(view: MeterView, now: datetime, offline_after: timedelta) -> LowBalanceSignal:
    days = None if view.lasts is None else view.lasts.days_likely
    # By the meter's own last word, not its last sign of life: one that only registers says nothing about its water.
    fresh = view.on_meter_as_of is not None and now - view.on_meter_as_of < offline_after
    return LowBalanceSignal(days_left=days, credit_minor=view.ledger_minor, fresh=fresh)


def _params(view: MeterView) -> dict[str, Any]:
    return {
        "label": view.label,
        "credit_minor": view.ledger_minor,
        "currency": view.currency,
        "days_left": 0 if view.lasts is None else int(view.lasts.days_likely),
    }


async def _keep_working(name: str, work: Callable[[], Awaitable[int]], listener: Listener) -> None:
    async with listener.subscribe(WORK, name) as flag:
        while True:
            flag.clear()
            try:
                claimed = await work()
            except Exception:
                # The database may be away: this worker outlives that.
                _log.exception("queue failed", queue=name)
                claimed = 0
            if not claimed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await flag.wait()
