"""The worker: queues worked off. Who reacts to which fact stands in ``standpipe.reactions``."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

import structlog

from standpipe.billing.failure_backoff import FailureBackoff
from standpipe.billing.rounds import rate_due, sweep
from standpipe.billing.statement_queue import issue_due
from standpipe.engine.queue import Hold, claim, finish, hold, retry
from standpipe.households.retention import forget_sign_ins
from standpipe.meters import due
from standpipe.notifications.deliver import deliver_due
from standpipe.notifications.push import PushSender
from standpipe.outbox.facts import PATIENT, read, redact
from standpipe.outbox.models import OutboxFact
from standpipe.payments.inbox import work_inbox
from standpipe.payments.rails.port import Rail, RailUnavailableError
from standpipe.payments.refunds import work_refunds
from standpipe.payments.settlements import pull_due
from standpipe.payments.top_ups import poll_due
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotYetError
from standpipe.platform.notify import WORK, Listener
from standpipe.reactions import follow_up, react
from standpipe.readings.storage import keep_partitions
from standpipe.vending.issuer import TokenIssuer
from standpipe.vending.issuing import issue_tokens
from standpipe.vending.offers import QUEUE, offer_due

LOOK_EVERY_S = 2.0
"""Queues are looked at this often even when nobody calls: retries and leases fall due in silence."""
LOOK_SELDOM_S = 30.0
"""For queues whose look is dear (every meter of a utility) and whose work comes once a day or month."""
MAX_ATTEMPTS = 10
AGAIN_S = 300.0
"""How soon what runs daily is tried again after it failed."""
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
        "monthly_statements": partial(issue_due, sessions, clock, FailureBackoff("monthly_statements")),
    }
    if issuer is not None:
        queues["keypad_offers"] = partial(offer_due, sessions, clock, token_after)
        queues[QUEUE] = partial(issue_tokens, sessions, issuer, clock)
    seldom = {"monthly_statements"}
    async with asyncio.TaskGroup() as group:
        for name, work in queues.items():
            every_s = LOOK_SELDOM_S if name in seldom else LOOK_EVERY_S
            group.create_task(_keep_working(name, work, listener, every_s), name=name)


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
    """React to due facts, each in a transaction of its own; returns how many were claimed."""
    async with sessions.begin() as session:
        due = [(row.id, row) for row in await claim(session, OutboxFact, limit=limit)]
    if due:
        async with hold(sessions, OutboxFact, [fact_id for fact_id, _ in due]) as held:
            await _react_to(sessions, rails, clock, offline_after, due, held)
    return len(due)


async def _react_to(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    clock: Clock,
    offline_after: timedelta,
    due: Sequence[tuple[int, OutboxFact]],
    held: Hold,
) -> None:
    for fact_id, claimed in due:
        error = None
        try:
            fact = read(claimed)
            with tracing.continue_from(claimed.traceparent), tracing.span("outbox", fact=claimed.kind):
                await follow_up(sessions, rails, fact, clock, offline_after)
                async with sessions.begin() as session:
                    row = await session.get_one(OutboxFact, fact_id, with_for_update=True)
                    await react(session, fact, clock, offline_after)
                    finish(row)
                    redact(row)
        except (NotYetError, RailUnavailableError) as caught:
            error = str(caught)
            _log.info("reaction must wait", fact_id=fact_id, error=error)
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
            _log.exception("reaction failed", fact_id=fact_id)
        if error is not None:
            await held.let_go(fact_id)
            async with sessions.begin() as session:
                row = await session.get_one(OutboxFact, fact_id, with_for_update=True)
                tries = sys.maxsize if row.kind in _PATIENT else MAX_ATTEMPTS
                await retry(session, row, error, max_attempts=tries)


async def _keep_working(name: str, work: Callable[[], Awaitable[int]], listener: Listener, every_s: float) -> None:
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
                    async with asyncio.timeout(every_s):
                        await flag.wait()
