"""Dues of meters, by what they are owed for. Amounts are positive here; in the ledger these accounts are below zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.ledger.models import AccountKind

WEEK = timedelta(days=7)
_KINDS = [AccountKind.RECEIVABLE.value, AccountKind.STANDING_DUE.value, AccountKind.EMERGENCY.value]


@dataclass(frozen=True, slots=True)
class Dues:
    """Owed by one meter: emergency credit, standing charges, debt; and the debt that top-ups repaid in seven days."""

    emergency_minor: int = 0
    standing_minor: int = 0
    debt_minor: int = 0
    repaid_minor: int = 0


# A repayment is asked of each of the account's few entries, by key: as a join it could read the whole ledger. A debt
# that is paid off asks for no sum over its history.
DUES = text("""
    SELECT a.owner_id, a.kind, a.balance_minor, CASE WHEN a.kind = 'RECEIVABLE' THEN (
        SELECT coalesce(sum(e.amount_minor), 0) FROM ledger_entries e
        WHERE e.account_id = a.id AND e.amount_minor > 0 AND (
            SELECT t.kind = 'TOP_UP' AND t.occurred_at > :since FROM ledger_transactions t
            WHERE t.id = e.transaction_id)
        ) ELSE 0 END AS repaid_minor
    FROM ledger_accounts a
    WHERE a.kind = ANY(CAST(:kinds AS text[])) AND a.owner_id = ANY(CAST(:meters AS text[])) AND a.balance_minor < 0""")


async def dues_of_many(
    conn: AsyncConnection | AsyncSession, meter_ids: Sequence[str], now: datetime
) -> dict[str, Dues]:
    """By meter id; a meter that owes nothing is left out. One statement."""
    rows = await conn.execute(DUES, {"since": now - WEEK, "kinds": _KINDS, "meters": list(meter_ids)})
    owed: dict[str, dict[str, int]] = {}
    for meter_id, kind, balance_minor, repaid_minor in rows:
        own = owed.setdefault(meter_id, {})
        own[kind] = -balance_minor
        if kind == AccountKind.RECEIVABLE:
            own["repaid"] = int(repaid_minor)
    return {
        meter_id: Dues(
            emergency_minor=own.get(AccountKind.EMERGENCY, 0),
            standing_minor=own.get(AccountKind.STANDING_DUE, 0),
            debt_minor=own.get(AccountKind.RECEIVABLE, 0),
            repaid_minor=own.get("repaid", 0),
        )
        for meter_id, own in owed.items()
    }


async def dues_of(session: AsyncConnection | AsyncSession, meter_id: str, now: datetime) -> Dues:
    """``dues_of_many`` for one meter."""
    return (await dues_of_many(session, [meter_id], now)).get(meter_id, Dues())
