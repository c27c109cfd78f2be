"""Questions that a provider answers by a later callback: stored before they are asked, so no answer is a stranger."""

from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.models import AsyncResult
from standpipe.platform.database import Sessions

ASK_EVERY_S = 30
"""Time within which a question is not put again."""


class StoredResults:
    """``rail.AsyncResults`` on the database."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def expect(self, rail: str, *, conversation_id: str, topic: str) -> bool:
        """Note a question; False where it was put a moment ago, or under this very id before."""
        async with self._sessions.begin() as session:
            lock = func.pg_advisory_xact_lock(func.hashtextextended(f"answers:{rail}:{topic}", 0))
            await session.execute(select(lock))
            recent = await session.scalar(
                select(AsyncResult.conversation_id).where(
                    AsyncResult.rail == rail,
                    AsyncResult.topic == topic,
                    AsyncResult.answered_at.is_(None),
                    AsyncResult.asked_at > func.now() - timedelta(seconds=ASK_EVERY_S),
                )
            )
            if recent is not None:
                return False
            fresh = await session.scalar(
                insert(AsyncResult)
                .values(rail=rail, conversation_id=conversation_id, topic=topic)
                .on_conflict_do_nothing()
                .returning(AsyncResult.conversation_id)
            )
            return fresh is not None

    async def recall(self, rail: str, topic: str) -> bytes | None:
        """The newest answer on a topic."""
        async with self._sessions() as session:
            body: bytes | None = await session.scalar(
                select(AsyncResult.body)
                .where(
                    AsyncResult.rail == rail,
                    AsyncResult.topic == topic,
                    AsyncResult.answered_at.is_not(None),
                )
                .order_by(AsyncResult.answered_at.desc())
                .limit(1)
            )
        return body


async def take_result(session: AsyncSession, *, rail: str, conversation_id: str, body: bytes) -> str | None:
    """Store an answer; returns its topic, or None where nobody asked. The first answer to a question stands."""
    topic: str | None = await session.scalar(
        update(AsyncResult)
        .where(
            AsyncResult.rail == rail,
            AsyncResult.conversation_id == conversation_id,
            AsyncResult.answered_at.is_(None),
        )
        .values(body=body, answered_at=func.now())
        .returning(AsyncResult.topic)
    )
    if topic is not None:
        return topic
    asked: str | None = await session.scalar(
        select(AsyncResult.topic).where(AsyncResult.rail == rail, AsyncResult.conversation_id == conversation_id)
    )
    return asked
