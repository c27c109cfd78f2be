"""What meters owe, by what it is owed for. Amounts are positive here; in the ledger these accounts stand below zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import Account, AccountKind, Entry, LedgerTransaction

WEEK = timedelta(days=7)
_KINDS = (AccountKind.RECEIVABLE, AccountKind.STANDING_DUE, AccountKind.EMERGENCY)


@dataclass(frozen=True, slots=True)
class Dues:
    """Owed by one meter: emergency credit, standing charges, debt; and the debt that top-ups repaid in seven days."""

    emergency_minor: int = 0
    standing_minor: int = 0
    debt_minor: int = 0
    repaid_minor: int = 0


async def dues_of_many(session: AsyncSession, meter_ids: Sequence[str], now: datetime) -> dict[str, Dues]:
    """By meter id; a meter that owes nothing is left out. One statement."""
    # Asked of each of the account's few entries, by key: as a join it could read the whole ledger.
    is_repayment = (
        select(and_(LedgerTransaction.kind == "TOP_UP", LedgerTransaction.occurred_at > now - WEEK))
        .where(LedgerTransaction.id == Entry.transaction_id)
        .correlate(Entry)
        .scalar_subquery()
    )
    repaid = (
        select(func.coalesce(func.sum(Entry.amount_minor), 0))
        .where(Entry.account_id == Account.id, Entry.amount_minor > 0, is_repayment)
        .correlate(Account)
        .scalar_subquery()
    )
    # A debt that is paid off asks for no sum over its history.
    of_debt = case((Account.kind == AccountKind.RECEIVABLE, repaid), else_=0)
    rows = await session.execute(
        select(Account.owner_id, Account.kind, Account.balance_minor, of_debt).where(
            Account.kind.in_(_KINDS), Account.owner_id.in_(meter_ids), Account.balance_minor < 0
        )
    )
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


async def dues_of(session: AsyncSession, meter_id: str, now: datetime) -> Dues:
    """``dues_of_many`` for one meter."""
    return (await dues_of_many(session, [meter_id], now)).get(meter_id, Dues())
