"""The queue of meters whose month is to be closed by its statement.

A rating says it (``closing_rule``, pure) and leaves the month in the meter's row of ``meter_due``; ``issue_due`` makes
the statements, each in a transaction of its own, and has the meter rated again, which finds the month after.
"""

from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.billing.statements import issue
from standpipe.meters import due
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, without_transactions
from standpipe.platform.reconnect import is_passing

AT_ONCE = 50
REST = timedelta(minutes=10)
"""Time that a meter rests whose statement could not be made, in real time."""
_log = structlog.get_logger(__name__)


async def issue_due(sessions: Sessions, clock: Clock, *, limit: int = AT_ONCE) -> int:
    """Make the statements that are due; returns how many were claimed. One that fails rests, and the others go on."""
    engine: AsyncEngine = sessions.kw["bind"]
    now = clock.now()
    async with without_transactions(engine).connect() as conn:
        claimed = await due.claim_closing(conn, most=limit, lease=REST)
    for meter_id, month in claimed:
        try:
            async with sessions.begin() as session:
                await issue(session, meter_id, month, now)
                await due.closed(await session.connection(), meter_id)
        except Exception as error:
            if is_passing(error):
                raise
            _log.exception("statement not made", meter_id=meter_id, month=month.isoformat())
    return len(claimed)
