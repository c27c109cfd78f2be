"""``settle``: make the ledger agree with the rail. Webhook, redirect, poll and poller all call this function.

Rails are asked outside any transaction, many at once. Then all that was answered is booked in one: payments and meters
are loaded and locked, ``decide`` says what the difference between running totals becomes, and it is saved table by
table. Twice, late, or in another order, the second difference is zero.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.billing.rounds import rate_many_now
from standpipe.engine.batcher import BusyError, work_off
from standpipe.engine.unit_of_work import UnitOfWork
from standpipe.outbox.facts import SecondPayment
from standpipe.payments.asking import Answered, Ask, Snapshot, ask_all
from standpipe.payments.decide import decide, takes_back
from standpipe.payments.models import Payment
from standpipe.payments.rails.port import PaymentTruth, Rail, RailUnavailableError
from standpipe.payments.rows import Loaded, Opening, load, names_of, save
from standpipe.payments.schedule import polls_of
from standpipe.payments.state import Around, Changes, PaymentState, new_payment
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotFoundError, StandpipeError
from standpipe.platform.ids import new_id

MAX_ROUNDS = 8
BUSY_AFTER_S = (0.02, 0.1, 0.3)
"""Pauses before another look at rows that somebody holds; after them whoever called comes again."""
_log = structlog.get_logger(__name__)


class _StaleError(Exception):
    """Another worker settled while we asked: what we were told may be older than what it was told (P17)."""


async def settle(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    payment_id: str,
    clock: Clock,
    *,
    rail_ref: str | None = None,
    account: str | None = None,
) -> None:
    """Ask the rail what became of one payment and post the difference; see ``Ask`` for the hints.

    Raises NotFoundError, RailUnavailableError (nothing changed; ask again), RailRefusedError.
    """
    [outcome] = await settle_many(sessions, rails, [Ask(payment_id, rail_ref, account)], clock)
    if outcome is not None:
        raise outcome


async def settle_many(
    sessions: Sessions,
    rails: Mapping[str, Rail],
    asks: Sequence[Ask],
    clock: Clock,
    *,
    known: Mapping[str, Snapshot] | None = None,
) -> list[Exception | None]:
    """``settle`` for many payments: all rails are asked at once, and one transaction books what they answered.

    The outcomes in the order of the asks; an exception is that payment's own and costs the others nothing. A payment
    whose row somebody holds is left to the next look (RailUnavailableError). ``known``: the payments as they stand,
    where the caller has just read them.
    """
    outcomes: dict[int, Exception | None] = {}
    places = list(range(len(asks)))
    for _ in range(MAX_ROUNDS):
        answers = await ask_all(sessions, rails, [asks[place] for place in places], known)
        known = None
        told = [(place, answer) for place, answer in zip(places, answers, strict=True) if isinstance(answer, Answered)]
        outcomes |= {
            place: answer for place, answer in zip(places, answers, strict=True) if not isinstance(answer, Answered)
        }
        booked = await _book_all(sessions, rails, clock, [answer for _, answer in told])
        places = []
        for (place, answer), outcome in zip(told, booked, strict=True):
            outcomes[place] = outcome
            if isinstance(outcome, BusyError | _StaleError):
                reason = "others settle this payment at the same moment"
                outcomes[place] = RailUnavailableError(answer.rail, reason)
            if isinstance(outcome, _StaleError):
                # What others saw may be older than what we were called for.
                places.append(place)
        if not places:
            break
    return [outcomes[place] for place in range(len(asks))]


async def _book_all(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, items: Sequence[Answered]
) -> list[Exception | None]:
    """``book``, and once more after each pause for those whose rows somebody else holds: they keep nobody waiting."""
    work = partial(book, sessions, rails, clock)
    outcomes = await work_off(work, items, name="settle")
    for pause_s in BUSY_AFTER_S:
        busy = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, BusyError)]
        if not busy:
            break
        await asyncio.sleep(pause_s)
        again = await work_off(work, [items[place] for place in busy], name="settle")
        for place, outcome in zip(busy, again, strict=True):
            outcomes[place] = outcome
    return outcomes


async def book(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, items: Sequence[Answered]
) -> list[Exception | None]:
    """Load, decide and save what the rails answered, in one transaction.

    Answers None, NotFoundError, BusyError (somebody holds the row) or ``_StaleError`` for each. The second truth about
    one payment in a batch is stale: nobody knows which of the two is older.
    """
    now = clock.now()
    async with sessions.begin() as session:
        work = await UnitOfWork.of(session)
        truths: dict[str, PaymentTruth] = {}
        for item in items:
            truths.setdefault(item.payment_id, item.truth)
        loaded = await _load(work.conn, truths, now, skip_locked=True)
        there = await _existing(work.conn, [key for key in truths if key not in loaded.payments])
        answers: list[Exception | None] = []
        changes: list[Changes] = []
        opened: dict[str, Opening] = {}
        decided: set[str] = set()
        for item in items:
            payment = loaded.payments.get(item.payment_id)
            if payment is None:
                busy = BusyError("This payment is being settled.")
                answers.append(busy if item.payment_id in there else NotFoundError("No such payment."))
            elif payment.version != item.version or item.payment_id in decided:
                answers.append(_StaleError())
            else:
                decided.add(item.payment_id)
                polls_s = polls_of(rails.get(payment.rail))
                with tracing.continue_from(item.traceparent), tracing.span("settle", rail=payment.rail):
                    changes += _decide_one(loaded, payment, item.truth, now, polls_s, opened)
                answers.append(None)
        await save(work, changes, now, opened)
        await work.flush()
    return answers


async def _load(
    conn: AsyncConnection, truths: Mapping[str, PaymentTruth], now: datetime, *, skip_locked: bool
) -> Loaded:
    """``rows.load``; where money goes back, after the meters were rated: water that has run is not given back."""
    loaded = await load(conn, list(truths), now, truths, skip_locked=skip_locked)
    taking = {one.meter_id for one in loaded.payments.values() if takes_back(one, truths[one.id])}
    if not taking:
        return loaded
    try:
        async with conn.begin_nested():
            await rate_many_now(conn, sorted(taking), now)
    except StandpipeError as error:
        # The money is gone whatever the meter costs: it is booked by what was charged so far.
        _log.error("meters not rated before money went back", error=str(error))
    return await load(conn, list(loaded.payments), now, truths)


def _decide_one(
    loaded: Loaded,
    payment: PaymentState,
    truth: PaymentTruth,
    now: datetime,
    polls_s: tuple[int, ...],
    opened: dict[str, Opening],
) -> list[Changes]:
    """A payment's changes and, where the rail told of another one for the same order, that one's too (P31)."""
    around = loaded.around.get(payment.id, Around())
    change = decide(payment, loaded.meters[payment.meter_id], around, truth, now, polls_s)
    loaded.payments[payment.id], loaded.meters[payment.meter_id] = change.payment, change.meter
    if change.problem is not None:
        _log.error("payment not applied", payment_id=payment.id, rail_ref=truth.rail_ref, reason=change.problem)
    if change.second is None:
        return [change]
    second = second_payment(payment, truth, now)
    opened[second.id] = Opening()
    if payment.captured_minor and payment.names & names_of(truth):
        around = replace(around, elsewhere=payment.id)
    own = decide(second, change.meter, replace(around, refunds=(), known_as=None), truth, now, polls_s)
    loaded.meters[payment.meter_id] = own.meter
    _log.error("second payment for one order", top_up_id=payment.top_up_id, payment_id=second.id)
    return [change, replace(own, facts=(SecondPayment(payment.top_up_id, second.id), *own.facts))]


def second_payment(payment: PaymentState, truth: PaymentTruth, now: datetime) -> PaymentState:
    """Another payment for an order: real money for this meter, so it is credited too, and flagged (P31)."""
    second = new_payment(
        meter_id=payment.meter_id,
        customer_id=payment.customer_id,
        rail=payment.rail,
        rail_ref=truth.rail_ref,
        origin=payment.origin,
        funder_id=payment.funder_id,
        method_id=payment.method_id,
        asked_minor=max(truth.requested_minor, 1),
        currency=payment.currency,
        now=now,
    )
    return replace(second, id=new_id("pay"), top_up_id=payment.top_up_id, created_at=payment.created_at)


EXISTING = text("SELECT id FROM payments WHERE id = ANY(CAST(:ids AS text[]))")


async def _existing(conn: AsyncConnection, ids: Sequence[str]) -> set[str]:
    return set(await conn.scalars(EXISTING, {"ids": list(ids)})) if ids else set()


async def lock_payment(session: AsyncSession, payment_id: str) -> Payment:
    """The payment's row, locked and fresh. Raises NotFoundError."""
    payment = await session.get(Payment, payment_id, with_for_update={"key_share": True}, populate_existing=True)
    if payment is None:
        raise NotFoundError("No such payment.")
    return payment


async def apply_truth(
    session: AsyncSession,
    rails: Mapping[str, Rail],
    payment_id: str,
    truth: PaymentTruth,
    now: datetime,
    *,
    only_first: bool = False,
) -> None:
    """``book`` for one payment whose rail has just answered, in the caller's transaction. Raises NotFoundError.

    ``only_first``: the answer may be older than what others have settled meanwhile, and counts only where nobody has.
    """
    work = await UnitOfWork.of(session)
    await session.flush()
    loaded = await _load(work.conn, {payment_id: truth}, now, skip_locked=False)
    if payment_id not in loaded.payments:
        raise NotFoundError("No such payment.")
    opened: dict[str, Opening] = {}
    payment = loaded.payments[payment_id]
    if only_first and payment.version:
        return
    await save(work, _decide_one(loaded, payment, truth, now, polls_of(rails.get(payment.rail)), opened), now, opened)
    await work.flush()


async def save_one(session: AsyncSession, change: Changes, now: datetime, opening: Opening | None = None) -> None:
    """Save a decision on one payment in the caller's transaction."""
    work = await UnitOfWork.of(session)
    await save(work, [change], now, {} if opening is None else {change.payment.id: opening})
    await work.flush()
