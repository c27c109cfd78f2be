"""Which statements are due: a queue over meters, the oldest open month of each."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, DateTime, ScalarSelect, cast, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.failure_backoff import FailureBackoff
from standpipe.billing.models import Statement
from standpipe.billing.statements import ACCOUNTS, issue
from standpipe.ledger.models import Account, Entry, LedgerTransaction
from standpipe.meters.models import Meter
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.units import local_midnight, period_of
from standpipe.utilities.models import Utility


async def issue_due(sessions: Sessions, clock: Clock, rests: FailureBackoff | None = None, *, limit: int = 50) -> int:
    """Make the statements that are due, each in a transaction of its own; returns how many meters were seen to.

    A meter that fails is logged and rests (``rests``), so that the others get theirs.
    """
    now, rests = clock.now(), rests or FailureBackoff("monthly_statements")
    async with sessions() as session:
        due = dict(await _due(session, now, rests.backing_off(), limit))

    async def make(meter_id: str) -> None:
        async with sessions.begin() as session:
            await issue(session, meter_id, due[meter_id], now)

    return await rests.each(due, make)


async def _due(session: AsyncSession, now: datetime, resting: Sequence[str], limit: int) -> list[tuple[str, date]]:
    """Meters whose oldest open month may be closed: the month after their last statement, else the last that ended."""
    found: list[tuple[str, date]] = []
    newest = select(func.max(Statement.period_start)).where(Statement.meter_id == Meter.id).scalar_subquery()
    for utility_id, zone, after_days in (
        await session.execute(select(Utility.id, Utility.time_zone, Utility.statement_after_days))
    ).all():
        day = now.astimezone(ZoneInfo(zone)).date() - timedelta(days=after_days)
        last = period_of(period_of(day)[0] - timedelta(days=1))[0]
        rows = await session.execute(
            select(Meter.id, newest, Meter.closed_at)
            .where(
                Meter.utility_id == utility_id,
                Meter.id.not_in(resting),
                Meter.installed_at < local_midnight(period_of(last)[1], ZoneInfo(zone)),
                func.coalesce(newest, date.min) < last,
                or_(Meter.closed_at.is_(None), _moved_since(newest, last, zone)),
            )
            .order_by(Meter.id)
            .limit(limit - len(found))
        )
        found.extend((meter_id, _next_month(made, last, closed_at, zone)) for meter_id, made, closed_at in rows)
        if len(found) >= limit:
            break
    return found


def _moved_since(newest: ScalarSelect[Any], last: date, zone: str) -> ColumnElement[bool]:
    """Whether a meter out of service has yet to state something: its last month, and what was booked after it.

    One that never had a statement gets that of its last month, however long ago that was.
    """
    due = func.coalesce(newest + text("interval '1 month'"), last)
    since = func.timezone(zone, cast(due, DateTime))
    booked = (
        select(Entry.id)
        .join(Account, Account.id == Entry.account_id)
        .join(LedgerTransaction, LedgerTransaction.id == Entry.transaction_id)
        .where(Account.owner_id == Meter.id, Account.kind.in_(ACCOUNTS), LedgerTransaction.occurred_at >= since)
    )
    return or_(newest.is_(None), Meter.closed_at >= since, booked.exists())


def _next_month(made: date | None, last: date, closed_at: datetime | None, zone: str) -> date:
    if made is not None:
        return period_of(made)[1]
    if closed_at is None:
        return last
    return min(last, period_of(closed_at.astimezone(ZoneInfo(zone)).date())[0])
