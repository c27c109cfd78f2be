"""Payment's own lines in a top-up's timeline; delivery's come from the credit grants."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.models import TopUpEvent
from standpipe.platform import metrics
from standpipe.platform.database import after_commit


def note_status(session: AsyncSession, *, top_up_id: str, rail: str, status: str, at: datetime) -> None:
    """A top-up came to this status, in the caller's transaction; counted once that has committed."""
    session.add(TopUpEvent(top_up_id=top_up_id, status=status, at=at))
    after_commit(session, metrics.TOP_UPS.labels(rail, status).inc)
