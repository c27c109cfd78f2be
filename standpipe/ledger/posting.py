"""Posting to the ledger: one function posts, one reverses, and both are harmless when called twice.

Sign: a positive amount raises an account. A top-up is clearing −1500, wallet +1500.

Lock order of the whole product, so that no two transactions wait for each other in a ring: top-up row → meter row →
period-charge row → refund row → guarded accounts in the order of their ids. Open accounts (clearing, revenue) have no
balance row to lock: every top-up touches its provider's clearing account, and one stalled transaction on such a row
would stall them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import Account, AccountKind, Entry, LedgerTransaction
from standpipe.platform.errors import InsufficientFundsError, InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.units import MAX_MINOR

GUARDED_KINDS = frozenset(
    {
        *(AccountKind.WALLET, AccountKind.RECEIVABLE, AccountKind.STANDING_DUE, AccountKind.EMERGENCY),
        AccountKind.FLOAT,
    }
)


@dataclass(frozen=True, slots=True)
class AccountRef:
    """Names an account by what it is for; it is opened at its first use."""

    kind: AccountKind
    owner_id: str
    currency: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a posting; ``amount_minor`` in the account's currency, never 0."""

    account: AccountRef
    amount_minor: int


async def post(
    session: AsyncSession,
    *,
    key: str,
    kind: str,
    lines: Sequence[Line],
    occurred_at: datetime,
    states_fact: bool = False,
) -> bool:
    """Post one zero-sum transaction under its business key; returns False where the key is posted already.

    ``states_fact``: the posting records something that has happened (water has run through the meter), so floors
    do not apply; a decision (a spend, a refund) is refused at the floor.
    Raises InvalidInputError for lines that are not zero-sum, InsufficientFundsError at a floor.
    """
    _check(lines)
    transaction_id = new_id("ltx")
    fresh = await session.scalar(
        insert(LedgerTransaction)
        .values(id=transaction_id, key=key, kind=kind, occurred_at=occurred_at)
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(LedgerTransaction.id)
    )
    if fresh is None:
        return False
    await _add_entries(session, transaction_id, lines, states_fact=states_fact)
    return True


async def reverse(session: AsyncSession, *, key: str, occurred_at: datetime) -> bool:
    """Undo a posting by its mirror image. Returns False where it is reversed already.

    A reversal states a fact, so floors do not stop it. Raises NotFoundError for an unknown key.
    """
    original = await session.scalar(select(LedgerTransaction).where(LedgerTransaction.key == key))
    if original is None:
        raise NotFoundError(f"no posting {key}")
    rows = await session.execute(
        select(Account.kind, Account.owner_id, Entry.currency, Entry.amount_minor)
        .join(Account, Account.id == Entry.account_id)
        .where(Entry.transaction_id == original.id)
        .order_by(Entry.id)
    )
    lines = [Line(AccountRef(AccountKind(kind), owner, currency), -amount) for kind, owner, currency, amount in rows]
    transaction_id = new_id("ltx")
    fresh = await session.scalar(
        insert(LedgerTransaction)
        .values(
            id=transaction_id,
            key=f"reversal:{key}",
            kind=f"{original.kind}_REVERSAL",
            reverses_id=original.id,
            occurred_at=occurred_at,
        )
        .on_conflict_do_nothing()
        .returning(LedgerTransaction.id)
    )
    if fresh is None:
        return False
    await _add_entries(session, transaction_id, lines, states_fact=True)
    return True


async def wallet_balance_minor(session: AsyncSession, meter_id: str, currency: str) -> int:
    """What the ledger says is in a meter's wallet; 0 for one that was never used."""
    balance = await session.scalar(
        select(Account.balance_minor).where(
            Account.kind == AccountKind.WALLET, Account.owner_id == meter_id, Account.currency == currency
        )
    )
    return balance or 0


async def account_sum_minor(session: AsyncSession, ref: AccountRef) -> int:
    """The sum of an account's entries: the way to read an open account, which keeps no balance."""
    total = await session.scalar(
        select(func.coalesce(func.sum(Entry.amount_minor), 0))
        .join(Account, Account.id == Entry.account_id)
        .where(Account.kind == ref.kind, Account.owner_id == ref.owner_id, Account.currency == ref.currency)
    )
    return int(total or 0)


def _check(lines: Sequence[Line]) -> None:
    sums: dict[str, int] = {}
    for line in lines:
        if not line.amount_minor or abs(line.amount_minor) > MAX_MINOR:
            raise InvalidInputError("A ledger line must be a non-zero amount within bounds.")
        sums[line.account.currency] = sums.get(line.account.currency, 0) + line.amount_minor
    if not lines or any(sums.values()):
        raise InvalidInputError("The lines of a posting must sum to zero in each currency.")
    if len({line.account for line in lines}) != len(lines):
        raise InvalidInputError("A posting names each account once.")


async def _add_entries(session: AsyncSession, transaction_id: str, lines: Sequence[Line], *, states_fact: bool) -> None:
    account_ids = {line.account: await _account_id(session, line.account) for line in lines}
    guarded = await _lock_guarded(session, [account_ids[line.account] for line in lines])
    entries = []
    for line in lines:
        account_id = account_ids[line.account]
        account = guarded.get(account_id)
        if account is not None:
            _move(account, line.amount_minor, states_fact=states_fact)
        entries.append(
            Entry(
                transaction_id=transaction_id,
                account_id=account_id,
                currency=line.account.currency,
                amount_minor=line.amount_minor,
                account_version=account.version if account else None,
                balance_after_minor=account.balance_minor if account else None,
                floor_minor=account.floor_minor if account and not states_fact else None,
            )
        )
    session.add_all(entries)
    await session.flush()


def _move(account: Account, amount_minor: int, *, states_fact: bool) -> None:
    balance_minor = account.balance_minor + amount_minor
    if amount_minor < 0 and not states_fact and balance_minor < account.floor_minor:
        raise InsufficientFundsError(account.id, account.balance_minor, -amount_minor, account.floor_minor)
    account.balance_minor = balance_minor
    account.version += 1


async def _account_id(session: AsyncSession, ref: AccountRef) -> str:
    query = select(Account.id).where(
        Account.kind == ref.kind, Account.owner_id == ref.owner_id, Account.currency == ref.currency
    )
    found = await session.scalar(query)
    if found is not None:
        return found
    await session.execute(
        insert(Account)
        .values(
            id=new_id("acc"),
            kind=ref.kind,
            owner_id=ref.owner_id,
            currency=ref.currency,
            guarded=ref.kind in GUARDED_KINDS,
        )
        .on_conflict_do_nothing(index_elements=["kind", "owner_id", "currency"])
    )
    return (await session.scalars(query)).one()


async def _lock_guarded(session: AsyncSession, account_ids: Sequence[str]) -> dict[str, Account]:
    rows = await session.scalars(
        select(Account)
        .where(Account.id.in_(account_ids), Account.guarded)
        .order_by(Account.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return {account.id: account for account in rows}
