"""The worker: queues worked off. What a room does about a fact stands in its ``reactions``."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy import select, update

from standpipe.billing.closing import issue_due
from standpipe.billing.rounds import rate_due, sweep
from standpipe.engine.batcher import work_off
from standpipe.engine.queue import claim, hold, retry
from standpipe.households.retention import forget_sign_ins
from standpipe.meters import due
from standpipe.notifications.deliver import deliver_due
from standpipe.notifications.push import PushSender
from standpipe.outbox.facts import PATIENT, Fact, read, redact
from standpipe.outbox.models import OutboxFact
from standpipe.payments.inbox import work_inbox
from standpipe.payments.rails.port import Rail, RailUnavailableError
from standpipe.payments.reactions import follow_up, standing_orders
from standpipe.payments.refunds import work_refunds
from standpipe.payments.settlements import pull_due
from standpipe.payments.top_ups import poll_due
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import NotYetError
from standpipe.platform.notify import WORK, Listener
from standpipe.reactions import load_meters, react
from standpipe.readings.storage import keep_partitions
from standpipe.vending.issuer import TokenIssuer
from standpipe.vending.issuing import issue_tokens
from standpipe.vending.offers import QUEUE, offer_due

LOOK_EVERY_S = 2.0
"""Queues are looked at this often even when nobody calls: retries and leases fall due in silence."""
MAX_ATTEMPTS = 10
AGAIN_S = 300.0
"""Seconds until what runs daily is tried again after it failed."""
DAY_S = 86_400.0
_PATIENT = {kind.__name__ for kind in PATIENT}
_log = structlog.get_logger(__name__)


async def run_worker(
    sessions: Sessions,
    listener: Listener,
    rails: Mapping[str, Rail],
    sender: PushSender | None,
    clock: Clock,
    offline_after: timedelta,
    issuer: TokenIssuer | None = None,
    token_after: timedelta = timedelta(hours=2),
) -> None:
    """Work all queues until cancelled. Any number of workers may run; rows are claimed, never shared.

    Without an ``issuer`` no keypad token is offered; with one, what is on its way for longer than ``token_after``.
    """
    queues: dict[str, Callable[[], Awaitable[int]]] = {
        "inbox": lambda: work_inbox(sessions, rails, clock),
        "payment_poller": lambda: poll_due(sessions, rails, clock),
        due.QUEUE: partial(rate_due, sessions, clock),
        "outbox": lambda: work_outbox(sessions, rails, clock, offline_after),
        "statements": lambda: pull_due(sessions, rails, clock),
        "refunds": lambda: work_refunds(sessions, rails, clock),
        "deliveries": lambda: deliver_due(sessions, sender, clock),
        "partitions": daily(lambda: keep_partitions(sessions, clock), clock.real_s(timedelta(days=1))),
        "rating_sweep": daily(lambda: sweep(sessions, clock), clock.real_s(timedelta(days=1))),
        "sign_in_retention": daily(lambda: forget_sign_ins(sessions), DAY_S),
        "monthly_statements": partial(issue_due, sessions, clock),
    }
    if issuer is not None:
        queues["keypad_offers"] = partial(offer_due, sessions, clock, token_after)
        queues[QUEUE] = partial(issue_tokens, sessions, issuer, clock)
    async with asyncio.TaskGroup() as group:
        for name, work in queues.items():
            group.create_task(_keep_working(name, work, listener), name=name)


def daily(work: Callable[[], Awaitable[None]], every_s: float) -> Callable[[], Awaitable[int]]:
    """A queue of one: ``work`` at once and then every so often; sooner again where it failed."""
    due_s = time.monotonic()

    async def look() -> int:
        nonlocal due_s
        if time.monotonic() < due_s:
            return 0
        due_s = time.monotonic() + min(AGAIN_S, every_s)
        await work()
        due_s = time.monotonic() + every_s
        return 0

    return look


async def work_outbox(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, offline_after: timedelta, *, limit: int = 50
) -> int:
    """React to due facts, all in one transaction; returns how many were claimed.

    A batch with one that cannot be reacted to is halved until that stands alone; it is tried again by itself.
    """
    async with by_statement(sessions) as session:
        rows = await claim(session, OutboxFact, limit=limit)
    if not rows:
        return 0
    async with hold(sessions, OutboxFact, [row.id for row in rows]) as held:
        failed: dict[int, Exception] = {}
        known: list[tuple[OutboxFact, Fact]] = []
        ready: list[tuple[OutboxFact, Fact]] = []
        for row in rows:
            try:
                known.append((row, read(row)))
            except Exception as error:
                failed[row.id] = error
        orders = await standing_orders(sessions, [fact for _, fact in known])
        for row, fact in known:
            try:
                with tracing.continue_from(row.traceparent):
                    await follow_up(sessions, rails, fact, clock, offline_after, orders)
            except Exception as error:
                failed[row.id] = error
            else:
                ready.append((row, fact))
        reacted = await work_off(partial(_react_to, sessions, clock, offline_after), ready, name="outbox")
        failed |= {row.id: answer for (row, _), answer in zip(ready, reacted, strict=True) if answer is not None}
        await held.let_go(*failed)
        for fact_id, why in failed.items():
            await _try_later(sessions, fact_id, why)
    return len(rows)


async def _react_to(
    sessions: Sessions, clock: Clock, offline_after: timedelta, facts: Sequence[tuple[OutboxFact, Fact]]
) -> list[Exception | None]:
    """Raises what a reaction raises; then nothing has happened."""
    async with sessions.begin() as session:
        # Whoever has ticked one off meanwhile has reacted to it.
        still = select(OutboxFact).where(
            OutboxFact.id.in_([row.id for row, _ in facts]), OutboxFact.due_at.is_not(None)
        )
        rows = {row.id: row for row in await session.scalars(still.order_by(OutboxFact.id).with_for_update())}
        mine = [(rows[row.id], fact) for row, fact in facts if row.id in rows]
        meters = await load_meters(session, [fact for _, fact in mine], clock.now(), offline_after)
        for row, fact in mine:
            with tracing.continue_from(row.traceparent), tracing.span("outbox", fact=row.kind):
                await react(session, fact, meters)
                redact(row)
                await session.flush()
        done = {"due_at": None, "last_error": None}
        await session.execute(update(OutboxFact).where(OutboxFact.id.in_(rows)).values(done))
    return [None] * len(facts)


async def _try_later(sessions: Sessions, fact_id: int, error: Exception) -> None:
    if isinstance(error, (NotYetError, RailUnavailableError)):
        words = str(error)
        _log.info("reaction must wait", fact_id=fact_id, error=words)
    else:
        words = f"{type(error).__name__}: {error}"
        _log.error("reaction failed", fact_id=fact_id, exc_info=error)
    async with sessions.begin() as session:
        row = await session.get_one(OutboxFact, fact_id, with_for_update=True)
        tries = sys.maxsize if row.kind in _PATIENT else MAX_ATTEMPTS
        await retry(session, row, words, max_attempts=tries)


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
