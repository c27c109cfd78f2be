"""The inbox: a provider's notice is stored, unique per provider and event, before it is answered."""

from collections.abc import Mapping

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine import queue
from standpipe.engine.queue import Backlog, claim, finish, retry
from standpipe.payments import paybill, saved_methods
from standpipe.payments.answers import take_answer
from standpipe.payments.models import ProviderEvent, Refund, TopUp
from standpipe.payments.provider import (
    NoticeSubject,
    Provider,
    ProviderNotice,
    ProviderRefusedError,
    ProviderUnavailableError,
    WebhookCall,
)
from standpipe.payments.rails import provider_of
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


async def receive(session: AsyncSession, provider: Provider, call: WebhookCall) -> bool:
    """Authenticate a raw notice, then store it; False for one that is stored already.

    The caller commits, and only then answers 2xx. Raises SignatureInvalidError before anything is parsed or stored.
    """
    provider.authenticate(call)
    notice = provider.parse(call)
    if tracing.is_on():
        tracing.belongs_to(await _trace_of(session, provider.name, notice))
    values = {
        "provider": provider.name,
        "event_id": notice.event_id,
        "kind": notice.kind,
        "provider_ref": notice.provider_ref,
        "reference": notice.reference,
        "subject": notice.subject,
        "answer_to": notice.answer_to,
        "receipt_ref": notice.receipt_ref,
        "body": call.body,
        "outcome": f"ignored: {notice.ignored}" if notice.ignored else None,
    }
    if notice.ignored:
        values["due_at"] = None  # None is "not due": nobody works it.
        _log.warning("notice ignored", provider=provider.name, kind=notice.kind, reason=notice.ignored)
    fresh = await session.scalar(
        insert(ProviderEvent)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["provider", "event_id"])
        .returning(ProviderEvent.id)
    )
    if fresh is not None and not notice.ignored:
        await notify(session, WORK, "inbox")
    return fresh is not None


async def _trace_of(session: AsyncSession, provider: str, notice: ProviderNotice) -> str | None:
    """The trace of the top-up that a notice is about, where that can be told without asking the provider."""
    refs = [ref for ref in (notice.provider_ref, notice.receipt_ref) if ref]
    ours = [notice.reference] if notice.reference else []
    by_ref = or_(TopUp.provider_ref.in_(refs), TopUp.alias_ref.in_(refs), TopUp.receipt_ref.in_(refs))
    by_reference = or_(TopUp.id.in_(ours), TopUp.account_reference.in_(ours))
    found: str | None = await session.scalar(
        select(TopUp.traceparent).where(TopUp.provider == provider, or_(by_ref, by_reference)).limit(1)
    )
    return found


async def work_inbox(sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, *, limit: int = 20) -> int:
    """Settle what due notices are about; returns how many were claimed."""
    async with sessions.begin() as session:
        rows = await claim(session, ProviderEvent, limit=limit, lease_s=LEASE_S)
    for row in rows:
        with tracing.continue_from(row.traceparent), tracing.span("inbox", provider=row.provider, subject=row.subject):
            outcome, error = await _work_one(sessions, providers, clock, row)
        async with sessions.begin() as session:
            live = await session.get(ProviderEvent, row.id, with_for_update=True)
            assert live is not None, "rows are never deleted"  # noqa: S101 - for the type checker.
            live.outcome = outcome
            if error is None:
                finish(live)
            elif not await retry(session, live, error, max_attempts=MAX_ATTEMPTS, base_s=0.5, cap_s=900):
                _log.error("notice given up; a person must look", provider=live.provider, event_id=live.event_id)
    return len(rows)


async def backlog(session: AsyncSession) -> Backlog:
    """The notices that nobody has worked yet."""
    return await queue.backlog(session, ProviderEvent.received_at, ProviderEvent.due_at.is_not(None))


async def _work_one(
    sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, row: ProviderEvent
) -> tuple[str | None, str | None]:
    """Returns (outcome, None) when done, (None, error) when to be tried again."""
    try:
        return await _by_subject(sessions, providers, clock, row), None
    except NotFoundError:
        # The notice may have overtaken our own commit (P14); after the last try a person looks at it.
        return None, "no top-up matches this notice"
    except ProviderRefusedError as error:
        # "There is no such payment" may be a lagging copy at the provider: asked again, and in the end a person looks.
        return None, str(error)
    except ProviderUnavailableError as error:
        return None, str(error)
    except Exception as error:
        _log.exception("notice failed", provider=row.provider, event_id=row.event_id)
        return None, f"{type(error).__name__}: {error}"


async def _by_subject(sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, row: ProviderEvent) -> str:
    match row.subject:
        case NoticeSubject.PAYMENT:
            await _settle_payment(sessions, providers, clock, row)
            return "settled"
        case NoticeSubject.UNSOLICITED:
            await paybill.take(
                sessions,
                providers,
                clock,
                provider=row.provider,
                provider_ref=row.provider_ref or "",
                account=row.reference,
                patient=row.attempts < MAX_ATTEMPTS,
            )
            return "placed"
        case NoticeSubject.ANSWER:
            return await _take_answer(sessions, row)
        case NoticeSubject.SAVED_METHOD | NoticeSubject.CUSTOMER:
            await saved_methods.heard(
                sessions, providers, clock, provider=row.provider, subject=row.subject, ref=row.provider_ref or ""
            )
            return "saved methods looked up"
        case _:
            async with sessions.begin() as session:
                await ask_soon(session)
            return "the statement is read next"


async def _settle_payment(
    sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, row: ProviderEvent
) -> None:
    try:
        top_up_id = await find_top_up(
            sessions,
            provider=row.provider,
            provider_ref=row.provider_ref,
            reference=row.reference,
            receipt_ref=row.receipt_ref,
        )
    except NotFoundError:
        # A refund or dispute names the payment by an id that we may not have learnt yet; the payment names us.
        if row.provider_ref is None:
            raise
        truth = await provider_of(providers, row.provider).fetch(row.provider_ref)
        top_up_id = await find_top_up(
            sessions, provider=row.provider, provider_ref=truth.provider_ref, reference=truth.reference
        )
    await settle(sessions, providers, top_up_id, clock, provider_ref=row.provider_ref, receipt_ref=row.receipt_ref)


async def _take_answer(sessions: Sessions, row: ProviderEvent) -> str:
    """Keep an answer; those who wait for it (notices, refunds, top-ups) fall due by themselves, and now."""
    async with sessions.begin() as session:
        topic = await take_answer(session, provider=row.provider, conversation_id=row.answer_to or "", body=row.body)
        if topic is None:
            _log.error("an answer to no question of ours", provider=row.provider, event_id=row.event_id)
            return "ignored: nobody asked"
        await _wake_waiting(session, row.provider, topic.partition(":")[2])
    return "kept"


async def _wake_waiting(session: AsyncSession, provider: str, subject: str) -> None:
    """What waited for this answer falls due now: the notice about the payment, or the refund."""
    later = {"due_at": func.now()}
    for model in (ProviderEvent, TopUp):
        mine = (model.provider == provider, model.provider_ref == subject, model.due_at > func.now())
        await session.execute(update(model).where(*mine).values(later))
    await session.execute(
        update(Refund).where(Refund.provider_ref == subject, Refund.due_at > func.now()).values(later)
    )
    await notify(session, WORK, "inbox")
