"""The inbox: a provider's notice is stored, unique per provider and event, before it is answered."""

from collections.abc import Mapping

import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.clock import Clock
from standpipe.db.engine import Sessions
from standpipe.db.notify import WORK, notify
from standpipe.db.queue import claim, finish, retry
from standpipe.errors import NotFoundError
from standpipe.payments.models import ProviderEvent
from standpipe.payments.provider import Provider, ProviderUnavailableError
from standpipe.payments.settle import find_top_up, settle

LEASE_S = 60.0
MAX_ATTEMPTS = 12
_log = structlog.get_logger(__name__)


async def receive(
    session: AsyncSession, provider: Provider, *, headers: Mapping[str, str], body: bytes, now_s: float
) -> bool:
    """Authenticate a raw notice, then store it; False for one that is stored already.

    The caller commits, and only then answers 2xx. Raises SignatureInvalidError before anything is parsed or stored.
    """
    provider.authenticate(headers, body, now_s)
    notice = provider.parse(body)
    values = {
        "provider": provider.name,
        "event_id": notice.event_id,
        "kind": notice.kind,
        "provider_ref": notice.provider_ref,
        "reference": notice.reference,
        "body": body,
        "outcome": f"ignored: {notice.ignored}" if notice.ignored else None,
    }
    if notice.ignored:
        values["due_at"] = None
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


async def work_inbox(sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, *, limit: int = 20) -> int:
    """Settle what due notices are about; returns how many were claimed."""
    async with sessions.begin() as session:
        rows = await claim(session, ProviderEvent, limit=limit, lease_s=LEASE_S)
    for row in rows:
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


async def _work_one(
    sessions: Sessions, providers: Mapping[str, Provider], clock: Clock, row: ProviderEvent
) -> tuple[str | None, str | None]:
    """Returns (outcome, None) when done, (None, error) when to be tried again."""
    try:
        top_up_id = await find_top_up(
            sessions, provider=row.provider, provider_ref=row.provider_ref, reference=row.reference
        )
        await settle(sessions, providers, top_up_id, clock, provider_ref=row.provider_ref)
    except NotFoundError:
        # The notice may have overtaken our own commit (P14); after the last try a person looks at it.
        return None, "no top-up matches this notice"
    except ProviderUnavailableError as error:
        return None, str(error)
    except Exception as error:
        _log.exception("notice failed", provider=row.provider, event_id=row.event_id)
        return None, f"{type(error).__name__}: {error}"
    return "settled", None
