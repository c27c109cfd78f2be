"""Limits on tries, counted in the database: any number of server processes share them, and aliases count one by one.

A try is counted whether it succeeds or not, so the caller's transaction must commit in both cases. Real time.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Identity, Index, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from standpipe.platform.base import Base
from standpipe.platform.errors import RateLimitedError

KEEP_S = 2 * 86_400
"""The longest window of any limit, with room; what is older counts for nothing and is deleted."""


class Attempt(Base):
    """A try of something that may be tried only so often (a code sent, a claim): what limits are counted from.

    ``kind`` names the limit, ``key`` whose tries they are (a hash where it would be personal). Real time.
    """

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_kind", "kind", "key", "at"), Index("ix_attempts_at", "at"))

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    key: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``tries`` within ``window_s``."""

    tries: int
    window_s: int


async def count_try(session: AsyncSession, *, kind: str, key: str, limits: Sequence[Limit]) -> None:
    """Count one try of ``kind`` for ``key``. Raises RateLimitedError, and counts nothing, where a limit is reached."""
    # One lock per key: two tries at once must not both find the last place free.
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"try:{kind}:{key}", 0))))
    longest_s = max(limit.window_s for limit in limits)
    rows = await session.scalars(
        select(Attempt.at)
        .where(Attempt.kind == kind, Attempt.key == key, Attempt.at > func.now() - timedelta(seconds=longest_s))
        .order_by(Attempt.at.desc())
        .limit(max(limit.tries for limit in limits))
    )
    tried, now = list(rows), datetime.now(UTC)
    for limit in limits:
        within = [at for at in tried if now - at < timedelta(seconds=limit.window_s)]
        if len(within) >= limit.tries:
            free_at = within[limit.tries - 1] + timedelta(seconds=limit.window_s)
            raise RateLimitedError(max(1, int((free_at - now).total_seconds()) + 1))
    session.add(Attempt(kind=kind, key=key))
    await session.flush()


async def forget_tries(session: AsyncSession) -> None:
    """Delete the tries that no limit counts any more; the worker does it daily."""
    await session.execute(delete(Attempt).where(Attempt.at < func.now() - timedelta(seconds=KEEP_S)))


def private_key(text: str, secret: str) -> str:
    """A key that is personal (a phone number, an address) as it is kept: a keyed hash."""
    return hmac.new(secret.encode(), f"try:{text}".encode(), hashlib.sha256).hexdigest()
