"""The inbox: a provider's notice is stored, unique per provider and event, before it is answered."""

from collections.abc import Mapping

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine import queue
from standpipe.engine.queue import Backlog, claim, finish, retry
from standpipe.payments import paybill, saved_methods
from standpipe.payments.async_results import take_result
from standpipe.payments.models import RailEvent, Refund, TopUp
from standpipe.payments.rails.port import (
    NoticeSubject,
    Rail,
    RailNotice,
    RailRefusedError,
    RailUnavailableError,
    WebhookCall,
)
from standpipe.payments.rails.registry import rail_of
from standpipe.payments.settle import find_top_up, settle
from standpipe.payments.settlements import ask_soon
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotFoundError
from standpipe.platform.notify import WORK, notify

LEASE_S = 60.0
MAX_ATTEMPTS = 12
_log = structlog.get_logger(__name__)


async def receive(session: AsyncSession, rail: Rail, call: WebhookCall) -> bool:
    """Authenticate a raw notice, then store it; False for one that is stored already.

    The caller commits, and only then answers 2xx. Raises SignatureInvalidError before anything is parsed or stored.
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
    fresh = await session.scalar(
        insert(RailEvent)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["rail", "event_id"])
        .returning(RailEvent.id)
    )
    if fresh is not None and not notice.ignored:
        await notify(session, WORK, "inbox")
    return fresh is not None


async def _trace_of(session: AsyncSession, rail: str, notice: RailNotice) -> str | None:
    """The trace of the top-up that a notice is about, where that can be told without asking the provider."""
    refs = [ref for ref in (notice.rail_ref, notice.receipt_ref) if ref]
    ours = [notice.reference] if notice.reference else []
    by_ref = or_(TopUp.rail_ref.in_(refs), TopUp.alias_ref.in_(refs), TopUp.receipt_ref.in_(refs))
    by_reference = or_(TopUp.id.in_(ours), TopUp.account_reference.in_(ours))
    found: str | None = await session.scalar(
        select(TopUp.traceparent).where(TopUp.rail == rail, or_(by_ref, by_reference)).limit(1)
    )
    return found


async def work_inbox(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, *, limit: int = 20) -> int:
    """Settle what due notices are about; returns how many were claimed."""
    async with sessions.begin() as session:
        rows = await claim(session, RailEvent, limit=limit, lease_s=LEASE_S)
    for row in rows:
        with tracing.continue_from(row.traceparent), tracing.span("inbox", rail=row.rail, subject=row.subject):
            outcome, error = await _work_one(sessions, rails, clock, row)
        async with sessions.begin() as session:
            live = await session.get(RailEvent, row.id, with_for_update=True)
            assert live is not None, "rows are never deleted"  # noqa: S101 - for the type checker.
            live.outcome = outcome
            if error is None:
                finish(live)
            elif not await retry(session, live, error, max_attempts=MAX_ATTEMPTS, base_s=0.5, cap_s=900):
                _log.error("notice given up; a person must look", rail=live.rail, event_id=live.event_id)
    return len(rows)


async def backlog(session: AsyncSession) -> Backlog:
    """The notices that nobody has worked yet."""
    return await queue.backlog(session, RailEvent.received_at, RailEvent.due_at.is_not(None))


async def _work_one(
    sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, row: RailEvent
) -> tuple[str | None, str | None]:
    """Returns (outcome, None) when done, (None, error) when to be tried again."""
    try:
        return await _by_subject(sessions, rails, clock, row), None
    except NotFoundError:
        # The notice may have overtaken our own commit (P14); after the last try a person looks at it.
        return None, "no top-up matches this notice"
    except RailRefusedError as error:
        # "There is no such payment" may be a lagging copy at the provider: asked again, and in the end a person looks.
        return None, str(error)
    except RailUnavailableError as error:
        return None, str(error)
    except Exception as error:
        _log.exception("notice failed", rail=row.rail, event_id=row.event_id)
        return None, f"{type(error).__name__}: {error}"


async def _by_subject(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, row: RailEvent) -> str:
    match row.subject:
        case NoticeSubject.PAYMENT:
            await _settle_payment(sessions, rails, clock, row)
            return "settled"
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


async def _settle_payment(sessions: Sessions, rails: Mapping[str, Rail], clock: Clock, row: RailEvent) -> None:
    try:
        top_up_id = await find_top_up(
            sessions,
            rail=row.rail,
            rail_ref=row.rail_ref,
            reference=row.reference,
            receipt_ref=row.receipt_ref,
        )
    except NotFoundError:
        # A refund or dispute names the payment by an id that we may not have learnt yet; the payment names us.
        if row.rail_ref is None:
            raise
        truth = await rail_of(rails, row.rail).fetch(row.rail_ref)
        top_up_id = await find_top_up(sessions, rail=row.rail, rail_ref=truth.rail_ref, reference=truth.reference)
    await settle(sessions, rails, top_up_id, clock, rail_ref=row.rail_ref, receipt_ref=row.receipt_ref)


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
    """What waited for this answer falls due now: the notice about the payment, or the refund."""
    later = {"due_at": func.now()}
    for model in (RailEvent, TopUp):
        mine = (model.rail == rail, model.rail_ref == subject, model.due_at > func.now())
        await session.execute(update(model).where(*mine).values(later))
    await session.execute(update(Refund).where(Refund.rail_ref == subject, Refund.due_at > func.now()).values(later))
    await notify(session, WORK, "inbox")
