"""The inbox: a provider's notice is stored, unique per provider and event, before it is answered."""

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context

import structlog
from sqlalchemy import func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine import queue
from standpipe.engine.queue import Backlog, claim, hold, retry
from standpipe.payments import paybill, saved_methods
from standpipe.payments.asking import Ask, Sought, find_payment, find_payments
from standpipe.payments.async_results import take_result
from standpipe.payments.models import Payment, RailEvent, Refund, TopUp
from standpipe.payments.rails.port import (
    NoticeSubject,
    Rail,
    RailNotice,
    RailRefusedError,
    RailUnavailableError,
    WebhookCall,
)
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.settle import settle, settle_many
from standpipe.payments.settlements import ask_soon
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.errors import NotFoundError, StandpipeError
from standpipe.platform.notify import WORK, notify

MAX_ATTEMPTS = 12
MAX_RECEIPT_TRIES = 6
_SETTLED = "settled"
_log = structlog.get_logger(__name__)
DONE = text("""
    UPDATE rail_events e SET outcome = o.outcome, due_at = NULL, last_error = NULL
    FROM unnest(CAST(:ids AS bigint[]), CAST(:outcomes AS text[])) AS o(id, outcome) WHERE e.id = o.id""")


async def receive(session: AsyncSession, rail: Rail, call: WebhookCall) -> bool:
    """Authenticate a raw notice, then store it in one statement; False for one that is stored already.

    Only then it is answered with 2xx. Raises SignatureInvalidError before anything is parsed or stored.
    """
    rail.authenticate(call)
    notice = rail.parse(call)
    if tracing.is_on():
        tracing.belongs_to(await _trace_of(session, rail.name, notice))
    values = {
        "rail": rail.name,
        "event_id": notice.event_id,
        "kind": notice.kind,
        "rail_ref": notice.rail_ref,
        "reference": notice.reference,
        "subject": notice.subject,
        "answer_to": notice.answer_to,
        "receipt_ref": notice.receipt_ref,
        "body": call.body,
        "outcome": f"ignored: {notice.ignored}" if notice.ignored else None,
    }
    if notice.ignored:
        values["due_at"] = None  # None is "not due": nobody works it.
        _log.warning("notice ignored", rail=rail.name, kind=notice.kind, reason=notice.ignored)
    stored = (
        insert(RailEvent)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["rail", "event_id"])
        .returning(RailEvent.id)
        .cte("stored")
    )
    told = [] if notice.ignored else [func.pg_notify(WORK, "inbox")]
    return (await session.execute(select(stored.c.id, *told))).first() is not None


async def _trace_of(session: AsyncSession, rail: str, notice: RailNotice) -> str | None:
    """The trace of the top-up that a notice is about, where that can be told without asking the provider."""
    refs = [ref for ref in (notice.rail_ref, notice.receipt_ref) if ref]
    ours = [notice.reference] if notice.reference else []
    by_ref = or_(Payment.rail_ref.in_(refs), Payment.alias_ref.in_(refs), Payment.receipt_ref.in_(refs))
    by_reference = or_(Payment.id.in_(ours), Payment.account_reference.in_(ours))
    found: str | None = await session.scalar(
        select(TopUp.traceparent)
        .join(Payment, Payment.top_up_id == TopUp.id)
        .where(Payment.rail == rail, or_(by_ref, by_reference))
        .limit(1)
    )
    return found


async def work_inbox(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, limit: int = 200) -> int:
    """Settle what due notices are about; returns how many were claimed.

    All payments that they name are asked about at once, and booked in one transaction; each notice has its own outcome.
    """
    async with by_statement(sessions) as session:
        rows = await claim(session, RailEvent, limit=limit)
    if not rows:
        return 0
    ids = [row.id for row in rows]
    async with hold(sessions, RailEvent, ids) as held:
        outcomes = await _work(sessions, rails, clock, rows)
        await held.let_go(*ids)
        done = {row.id: outcome for row in rows if isinstance(outcome := outcomes[row.id], str)}
        async with by_statement(sessions) as session:
            await session.execute(DONE, {"ids": list(done), "outcomes": list(done.values())})
        for row in rows:
            if row.id not in done:
                async with sessions.begin() as session:
                    await _try_later(session, row, outcomes[row.id])
    return len(rows)


async def _work(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, rows: Sequence[RailEvent]
) -> dict[int, str | Exception]:
    """By notice, what came of it."""
    payments = [row for row in rows if row.subject == NoticeSubject.PAYMENT]
    outcomes = await _settle_payments(sessions, rails, clock, payments)
    for row in rows:
        if row.subject == NoticeSubject.PAYMENT and isinstance(outcomes[row.id], NotFoundError):
            with _traced(row):
                outcomes[row.id] = await _outcome(_settle_as_the_rail_calls_it(sessions, rails, clock, row), row)
        elif row.subject != NoticeSubject.PAYMENT:
            with _traced(row):
                outcomes[row.id] = await _outcome(_by_subject(sessions, rails, clock, row), row)
        if outcomes[row.id] is _SETTLED and row.receipt_ref is not None:
            with _traced(row):
                outcomes[row.id] = await _outcome(_confirm_receipt(sessions, rails, row), row)
    return outcomes


def _traced(row: RailEvent) -> ExitStack:
    """A notice's step, which begins with the call and ends with the stack."""
    stack = ExitStack()
    stack.enter_context(tracing.continue_from(row.traceparent))
    stack.enter_context(tracing.span("inbox", rail=row.rail, subject=row.subject))
    return stack


@contextmanager
def _beside(row: RailEvent) -> Iterator[str | None]:
    """A notice's step and its traceparent, beside those of the other notices worked at once: none is below another."""
    own = copy_context()
    # Called in there, too: what is current here must stay so.
    step = own.run(_traced, row)
    try:
        yield own.run(tracing.current_traceparent)
    finally:
        own.run(step.close)


async def _outcome(work: Awaitable[str], row: RailEvent) -> str | Exception:
    """Work a notice; return its outcome, or the error for which it is tried again."""
    try:
        return await work
    except StandpipeError as error:
        return error
    except Exception as error:
        _log.exception("notice failed", rail=row.rail, event_id=row.event_id)
        return error


async def _try_later(session: AsyncSession, row: RailEvent, outcome: str | Exception) -> None:
    live = await session.get(RailEvent, row.id, with_for_update=True, populate_existing=True)
    assert live is not None, "rows are never deleted"  # noqa: S101 - for the type checker.
    # A notice that matches nothing may have overtaken our own commit (P14); "there is no such payment" may be a lagging
    # copy at the provider. Both are tried again, and in the end a person looks.
    error = str(outcome) if isinstance(outcome, StandpipeError) else f"{type(outcome).__name__}: {outcome}"
    error = "no payment matches this notice" if isinstance(outcome, NotFoundError) else error
    if not await retry(session, live, error, max_attempts=MAX_ATTEMPTS, base_s=0.5, cap_s=900):
        _log.error("notice given up; a person must look", rail=live.rail, event_id=live.event_id)


async def _settle_payments(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, rows: Sequence[RailEvent]
) -> dict[int, str | Exception]:
    """By notice, what came of it. Several notices about one payment are one question."""
    if not rows:
        return {}
    sought = [Sought(row.rail, row.rail_ref, row.reference, row.receipt_ref) for row in rows]
    found = await find_payments(sessions, sought)
    asks: dict[tuple[str, str | None], Ask] = {}
    with ExitStack() as steps:
        for row, payment in zip(rows, found, strict=True):
            if payment is not None:
                ask = Ask(payment.id, row.rail_ref, traceparent=steps.enter_context(_beside(row)))
                asks.setdefault((payment.id, row.rail_ref), ask)
        known = {payment.id: payment for payment in found if payment is not None}
        settled = await settle_many(sessions, rails, list(asks.values()), clock, known=known) if asks else []
        answers = dict(zip(asks, settled, strict=True))
    outcomes: dict[int, str | Exception] = {}
    for row, payment in zip(rows, found, strict=True):
        error = NotFoundError("No payment matches.") if payment is None else answers[payment.id, row.rail_ref]
        if error is not None and not isinstance(error, StandpipeError):
            _log.error("notice failed", rail=row.rail, event_id=row.event_id, exc_info=error)
        outcomes[row.id] = _SETTLED if error is None else error
    return outcomes


async def backlog(session: AsyncSession) -> Backlog:
    """The notices that nobody has worked yet."""
    return await queue.backlog(session, RailEvent.received_at, RailEvent.due_at.is_not(None))


async def _by_subject(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, row: RailEvent) -> str:
    match row.subject:
        case NoticeSubject.UNSOLICITED:
            await paybill.take(
                sessions,
                rails,
                clock,
                rail_name=row.rail,
                rail_ref=row.rail_ref or "",
                account=row.reference,
                patient=row.attempts < MAX_ATTEMPTS,
            )
            return "placed"
        case NoticeSubject.ANSWER:
            return await _take_answer(sessions, row)
        case NoticeSubject.SAVED_METHOD | NoticeSubject.CUSTOMER:
            await saved_methods.heard(
                sessions, rails, clock, rail=row.rail, subject=row.subject, ref=row.rail_ref or ""
            )
            return "saved methods looked up"
        case _:
            async with sessions.begin() as session:
                await ask_soon(session)
            return "the statement is read next"


async def _settle_as_the_rail_calls_it(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, row: RailEvent
) -> str:
    """A refund or dispute names the payment by an id that we may not have learnt yet; the payment names us."""
    if row.rail_ref is None:
        raise NotFoundError("No payment matches.")
    truth = await rail_of(rails, row.rail).fetch(row.rail_ref)
    payment_id = await find_payment(sessions, rail=row.rail, rail_ref=truth.rail_ref, reference=truth.reference)
    await settle(sessions, rails, payment_id, clock, rail_ref=row.rail_ref)
    return _SETTLED


async def _confirm_receipt(sessions: Sessions, rails: Mapping[str, Rail], row: RailEvent) -> str:
    """The receipt that a notice names is a hint until the rail says that it is this payment's money (P52).

    Raises RailUnavailableError to be asked again, while there are tries left: a payment does not hang on its receipt.
    """
    payment_id = await find_payment(sessions, rail=row.rail, rail_ref=row.rail_ref, reference=row.reference)
    async with sessions() as session:
        payment = await session.get_one(Payment, payment_id)
        top_up = await session.get_one(TopUp, payment.top_up_id)
    if row.receipt_ref is None or payment.receipt_ref is not None or not payment.captured_minor:
        return _SETTLED
    try:
        truth = await rail_of(rails, row.rail).fetch(row.receipt_ref)
    except RailRefusedError:
        return f"{_SETTLED}; the rail does not know the receipt that it names"
    except RailUnavailableError:
        if row.attempts < MAX_RECEIPT_TRIES:
            raise
        return f"{_SETTLED}; the rail has not confirmed the receipt that it names"
    ours = truth.reference in {None, top_up.id} and truth.account_reference in {None, payment.account_reference}
    same_payer = None in (truth.payer, top_up.phone) or same_phone(truth.payer, top_up.phone)
    if ours and same_payer and await paybill.name_receipt(sessions, payment_id, truth):
        return _SETTLED
    _log.error("a notice names another payment's receipt", rail=row.rail, event_id=row.event_id, payment_id=payment_id)
    return f"{_SETTLED}; the receipt that it names is not this payment's"


def same_phone(masked: str | None, phone: str | None) -> bool:
    """Tell if a number as a rail masks it can be this one: each digit that it shows is the phone's, from the end."""
    shown, digits = (masked or "")[::-1], (phone or "").lstrip("+")[::-1]
    return all(char == digit for char, digit in zip(shown, digits, strict=False) if char.isdigit())


async def _take_answer(sessions: Sessions, row: RailEvent) -> str:
    """Keep an answer; those who wait for it (notices, refunds, top-ups) fall due by themselves, and now."""
    async with sessions.begin() as session:
        topic = await take_result(session, rail=row.rail, conversation_id=row.answer_to or "", body=row.body)
        if topic is None:
            _log.error("an answer to no question of ours", rail=row.rail, event_id=row.event_id)
            return "ignored: nobody asked"
        await _wake_waiting(session, row.rail, topic.partition(":")[2])
    return "kept"


async def _wake_waiting(session: AsyncSession, rail: str, subject: str) -> None:
    """Make due what waited for this answer: the notice about the payment, or the refund."""
    later = {"due_at": func.now()}
    # A question about a push is asked by the receipt that its notice names, which is not yet a name of the payment.
    about = or_(RailEvent.rail_ref == subject, RailEvent.receipt_ref == subject)
    await session.execute(
        update(RailEvent).where(RailEvent.rail == rail, about, RailEvent.due_at > func.now()).values(later)
    )
    mine = (Payment.rail == rail, Payment.rail_ref == subject, Payment.due_at > func.now())
    await session.execute(update(Payment).where(*mine).values(later))
    await session.execute(update(Refund).where(Refund.rail_ref == subject, Refund.due_at > func.now()).values(later))
    await notify(session, WORK, "inbox")
