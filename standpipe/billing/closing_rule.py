"""The rule of which month a meter's next statement closes, and when. Pure."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from standpipe.ledger.models import AccountKind
from standpipe.platform.units import local_midnight, period_of

ACCOUNTS = (AccountKind.WALLET, AccountKind.STANDING_DUE, AccountKind.RECEIVABLE, AccountKind.EMERGENCY)
"""Accounts of a meter that a statement states."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The state by which a meter's next statement is found.

    ``last_statement``: the month of its last one. ``after_days``: how long its utility waits for late readings.
    ``booked_at``: of a meter out of service, when money last moved on its accounts.
    """

    last_statement: date | None
    after_days: int
    booked_at: datetime | None = None


def month_to_close(
    made: Closed, *, installed_at: datetime, closed_at: datetime | None, zone: ZoneInfo, now: datetime
) -> date | None:
    """The oldest month that is over and has no statement; None where there is none, or nothing is left to state.

    A meter that never had a statement begins with the month that ended last. One out of service has statements until
    all is told: its last month, and months in which something was booked after it.
    """
    last = _last_ended(now.astimezone(zone).date() - timedelta(days=made.after_days))
    if installed_at >= local_midnight(period_of(last)[1], zone):
        return None
    if made.last_statement is not None and made.last_statement >= last:
        return None
    month = last if made.last_statement is None else period_of(made.last_statement)[1]
    if closed_at is None:
        return month
    if made.last_statement is None:
        return min(last, period_of(closed_at.astimezone(zone).date())[0])
    since = local_midnight(month, zone)
    is_told = closed_at < since and (made.booked_at is None or made.booked_at < since)
    return None if is_told else month


def closes_next_at(after_days: int, zone: ZoneInfo, now: datetime) -> datetime:
    """The next instant from which on another month may be closed."""
    running = period_of(_last_ended(now.astimezone(zone).date() - timedelta(days=after_days)))[1]
    return local_midnight(period_of(running)[1] + timedelta(days=after_days), zone)


def _last_ended(day: date) -> date:
    """The first day of the month that had ended by a day."""
    return period_of(period_of(day)[0] - timedelta(days=1))[0]
