"""Posting to the ledger: any number of transactions at once, each harmless when it is posted again.

Sign: a positive amount raises an account. A top-up is clearing −1500, wallet +1500.

Lock order of the whole product, so that no two transactions wait for each other in a ring: top-up row → meter row →
period-charge row → refund row → guarded accounts in the order of their ids. Open accounts (clearing, revenue) have no
balance row to lock: every top-up touches its provider's clearing account, and one stalled transaction on such a row
would stall them all.

A batch takes two statements: ``OPEN_AND_LOCK`` opens the accounts that are new (in one order too) and locks the guarded
ones; ``POST`` writes. Where a floor may refuse something, the keys are looked up in between, when the locks are held:
what is posted already must not count twice. The floors are judged here, posting by posting; the database judges all of
it again (its triggers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standpipe.engine.unit_of_work import Order, SetWriter, UnitOfWork
from standpipe.ledger.models import AccountKind
from standpipe.platform.errors import InsufficientFundsError, InvalidInputError, NotFoundError, StandpipeError
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


@dataclass(frozen=True, slots=True)
class Posting:
    """One zero-sum transaction. ``key`` is its business key.

    ``states_fact``: it records something that has happened (water has run through the meter), so floors do not apply;
    a decision (a spend, a refund) is refused at the floor. ``reverses_id``: the transaction that it undoes.
    """

    key: str
    kind: str
    lines: Sequence[Line]
    occurred_at: datetime
    states_fact: bool = False
    reverses_id: str | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    """It stands in the ledger now, by this call."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class AlreadyPosted:
    """Its key (or its reversal) stood there before; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It is no posting (InvalidInputError) or would pass a floor (InsufficientFundsError); nothing was changed."""

    error: StandpipeError


Outcome = Posted | AlreadyPosted | Refused

OPEN_AND_LOCK = text("""
    WITH ref AS (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[]), CAST(:owners AS text[]),
                             CAST(:currencies AS text[]), CAST(:guarded AS boolean[]))
            AS r(id, kind, owner_id, currency, guarded)
    ), found AS MATERIALIZED (
        SELECT a.id, a.kind, a.owner_id, a.currency, a.guarded
        FROM ref JOIN ledger_accounts a USING (kind, owner_id, currency)
    ), opened AS (
        INSERT INTO ledger_accounts (id, kind, owner_id, currency, guarded)
        SELECT id, kind, owner_id, currency, guarded FROM ref
        WHERE (kind, owner_id, currency) NOT IN (SELECT kind, owner_id, currency FROM found)
        ORDER BY kind, owner_id, currency
        ON CONFLICT (kind, owner_id, currency) DO NOTHING
        RETURNING id, kind, owner_id, currency, guarded, balance_minor, floor_minor
    ), locked AS (
        SELECT id, kind, owner_id, currency, guarded, balance_minor, floor_minor FROM ledger_accounts
        WHERE id IN (SELECT id FROM found WHERE guarded) ORDER BY id FOR NO KEY UPDATE
    )
    SELECT * FROM opened
    UNION ALL SELECT * FROM locked
    UNION ALL SELECT id, kind, owner_id, currency, guarded, 0, 0 FROM found WHERE NOT guarded""")
KNOWN_KEYS = text("SELECT key FROM ledger_transactions WHERE key = ANY(CAST(:keys AS text[]))")
# Accounts are read as they were locked; entries are numbered and carry their balance in the order of the lines.
POST = text("""
    WITH posting AS (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:keys AS text[]), CAST(:kinds AS text[]),
                             CAST(:occurred_ats AS timestamptz[]), CAST(:reverses AS text[]))
            AS p(id, key, kind, occurred_at, reverses_id)
    ), line AS (
        SELECT * FROM unnest(CAST(:line_ids AS text[]), CAST(:accounts AS text[]), CAST(:currencies AS text[]),
                             CAST(:amounts AS bigint[]), CAST(:floors_hold AS boolean[]))
            WITH ORDINALITY AS l(transaction_id, account_id, currency, amount_minor, floor_holds, position)
    ), fresh AS (
        INSERT INTO ledger_transactions (id, key, kind, occurred_at, reverses_id)
        SELECT id, key, kind, occurred_at, reverses_id FROM posting ORDER BY key
        ON CONFLICT DO NOTHING RETURNING id, key
    ), entry AS (
        SELECT l.*, a.guarded, a.floor_minor, a.version + row_number() OVER running AS account_version,
               CAST(a.balance_minor + sum(l.amount_minor) OVER running AS bigint) AS balance_after_minor
        FROM line l JOIN fresh ON fresh.id = l.transaction_id JOIN ledger_accounts a ON a.id = l.account_id
        WINDOW running AS (PARTITION BY l.account_id ORDER BY l.position)
    ), moved AS (
        UPDATE ledger_accounts a SET balance_minor = a.balance_minor + e.amount_minor, version = a.version + e.lines
        FROM (SELECT account_id, CAST(sum(amount_minor) AS bigint) AS amount_minor, count(*) AS lines
              FROM entry WHERE guarded GROUP BY account_id) e
        WHERE a.id = e.account_id
    ), written AS (
        INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor, account_version,
                                    balance_after_minor, floor_minor)
        SELECT transaction_id, account_id, currency, amount_minor, CASE WHEN guarded THEN account_version END,
               CASE WHEN guarded THEN balance_after_minor END, CASE WHEN guarded AND floor_holds THEN floor_minor END
        FROM entry ORDER BY position
    )
    SELECT id, key FROM fresh""")
BALANCES = text("""
    SELECT a.kind, a.owner_id, a.currency,
           CASE WHEN a.guarded THEN a.balance_minor
                ELSE (SELECT coalesce(sum(e.amount_minor), 0) FROM ledger_entries e WHERE e.account_id = a.id)
           END AS balance_minor
    FROM unnest(CAST(:kinds AS text[]), CAST(:owners AS text[]), CAST(:currencies AS text[]))
        AS ref(kind, owner_id, currency)
    JOIN ledger_accounts a USING (kind, owner_id, currency)""")
ENTRIES_OF = text("""
    SELECT t.id AS transaction_id, t.kind AS posting_kind, a.kind, a.owner_id, e.currency, e.amount_minor
    FROM ledger_transactions t
    JOIN ledger_entries e ON e.transaction_id = t.id JOIN ledger_accounts a ON a.id = e.account_id
    WHERE t.key = :key ORDER BY e.id""")
SUM = text("""
    SELECT sum(e.amount_minor) FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id
    WHERE a.kind = :kind AND a.owner_id = :owner AND a.currency = :currency""")


@dataclass(slots=True)
class _LockedAccount:
    """An account under our lock, after what was accepted so far. An open one keeps no balance."""

    id: str
    guarded: bool
    balance_minor: int
    floor_minor: int


async def post_many(conn: AsyncConnection, postings: Sequence[Posting]) -> Mapping[str, Outcome]:
    """Post all of them, in order, in two or three statements; the outcome by key.

    A key that occurs twice is posted once, by the first that is not refused. A refused one changes nothing, and the
    others go on.
    Locks the guarded accounts in the order of their ids, until the transaction ends. Two transactions that post one
    key at once wait for each other; the second finds it posted.
    """
    faults = [(posting, _fault(posting)) for posting in postings]
    outcomes: dict[str, Outcome] = {posting.key: Refused(error) for posting, error in faults if error is not None}
    sound = [posting for posting, error in faults if error is None]
    if not sound:
        return outcomes
    accounts = await _open_and_lock(conn, {line.account for posting in sound for line in posting.lines})
    known: set[str] = set()
    if any(_may_be_refused(posting) for posting in sound):
        known = set(await conn.scalars(KNOWN_KEYS, {"keys": [posting.key for posting in sound]}))
    accepted, refused = _judge([posting for posting in sound if posting.key not in known], accounts)
    fresh = await _write(conn, accepted, accounts) if accepted else {}
    return {
        **outcomes,
        **refused,
        **dict.fromkeys((*known, *(posting.key for posting in accepted)), AlreadyPosted()),
        **fresh,
    }


async def post(
    session: AsyncSession,
    *,
    key: str,
    kind: str,
    lines: Sequence[Line],
    occurred_at: datetime,
    states_fact: bool = False,
) -> bool:
    """``post_many`` for one, in a session's transaction; returns False where the key is posted already.

    Raises InvalidInputError for lines that are not zero-sum, InsufficientFundsError at a floor.
    """
    return await _post_one(session, Posting(key, kind, lines, occurred_at, states_fact))


async def reverse(session: AsyncSession, *, key: str, occurred_at: datetime) -> bool:
    """Undo a posting by its mirror image. Returns False where it is reversed already.

    A reversal states a fact, so floors do not stop it. Raises NotFoundError for an unknown key.
    """
    rows = (await session.execute(ENTRIES_OF, {"key": key})).all()
    if not rows:
        raise NotFoundError(f"no posting {key}")
    lines = [Line(AccountRef(AccountKind(row.kind), row.owner_id, row.currency), -row.amount_minor) for row in rows]
    original = rows[0]
    mirror = Posting(
        f"reversal:{key}",
        f"{original.posting_kind}_REVERSAL",
        lines,
        occurred_at,
        states_fact=True,
        reverses_id=original.transaction_id,
    )
    return await _post_one(session, mirror)


async def _post_all(work: UnitOfWork, postings: Sequence[Posting]) -> None:
    for outcome in (await post_many(work.conn, postings)).values():
        if isinstance(outcome, Refused):
            raise outcome.error


LEDGER: SetWriter[Posting] = SetWriter("ledger", Order.LEDGER, _post_all)
"""Posts what a unit of work gathered. A refusal is an error there: who decides knows the balances that it locked."""


async def balances(conn: AsyncConnection | AsyncSession, refs: Sequence[AccountRef]) -> dict[AccountRef, int]:
    """Balances in minor units by account, in one statement; 0 for one that was never used.

    An open account keeps no balance: its entries are summed.
    """
    known = {
        AccountRef(AccountKind(row.kind), row.owner_id, row.currency): int(row.balance_minor)
        for row in await conn.execute(BALANCES, _ref_columns(refs))
    }
    return {ref: known.get(ref, 0) for ref in refs}


async def wallet_balance_minor(conn: AsyncConnection | AsyncSession, meter_id: str, currency: str) -> int:
    """Return the ledger's balance of a meter's wallet, in minor units; 0 for one that was never used."""
    ref = AccountRef(AccountKind.WALLET, meter_id, currency)
    return (await balances(conn, [ref]))[ref]


async def account_sum_minor(conn: AsyncConnection | AsyncSession, ref: AccountRef) -> int:
    """The sum of an account's entries: the slow way, and the only one to read an open account."""
    total = await conn.scalar(SUM, {"kind": ref.kind.value, "owner": ref.owner_id, "currency": ref.currency})
    return int(total or 0)


async def _post_one(session: AsyncSession, posting: Posting) -> bool:
    # What the session holds back may be what the caller counts on, and goes first as it always did.
    await session.flush()
    outcome = (await post_many(await session.connection(), [posting]))[posting.key]
    if isinstance(outcome, Refused):
        raise outcome.error
    return isinstance(outcome, Posted)


def _fault(posting: Posting) -> InvalidInputError | None:
    sums: dict[str, int] = {}
    for line in posting.lines:
        if not line.amount_minor or abs(line.amount_minor) > MAX_MINOR:
            return InvalidInputError("A ledger line must be a non-zero amount within bounds.")
        sums[line.account.currency] = sums.get(line.account.currency, 0) + line.amount_minor
    if not posting.lines or any(sums.values()):
        return InvalidInputError("The lines of a posting must sum to zero in each currency.")
    if len({line.account for line in posting.lines}) != len(posting.lines):
        return InvalidInputError("A posting names each account once.")
    return None


def _may_be_refused(posting: Posting) -> bool:
    return not posting.states_fact and any(
        line.amount_minor < 0 and line.account.kind in GUARDED_KINDS for line in posting.lines
    )


def _judge(
    postings: Sequence[Posting], accounts: Mapping[AccountRef, _LockedAccount]
) -> tuple[list[Posting], dict[str, Outcome]]:
    """Those to post, each key once, and those refused at a floor; each is judged after what was accepted before it."""
    accepted: dict[str, Posting] = {}
    refused: dict[str, Outcome] = {}
    for posting in postings:
        if posting.key in accepted:
            continue
        moves = [
            (accounts[line.account], line.amount_minor) for line in posting.lines if accounts[line.account].guarded
        ]
        error = None if posting.states_fact else _too_low(moves)
        if error is not None:
            refused[posting.key] = Refused(error)
            continue
        accepted[posting.key] = posting
        for account, amount_minor in moves:
            account.balance_minor += amount_minor
    return list(accepted.values()), refused


def _too_low(moves: Sequence[tuple[_LockedAccount, int]]) -> InsufficientFundsError | None:
    for account, amount_minor in moves:
        if amount_minor < 0 and account.balance_minor + amount_minor < account.floor_minor:
            return InsufficientFundsError(account.id, account.balance_minor, -amount_minor, account.floor_minor)
    return None


async def _open_and_lock(conn: AsyncConnection, refs: set[AccountRef]) -> dict[AccountRef, _LockedAccount]:
    ordered = sorted(refs, key=lambda ref: (ref.kind, ref.owner_id, ref.currency))
    columns = _ref_columns(ordered) | {
        "ids": [new_id("acc") for _ in ordered],
        "guarded": [ref.kind in GUARDED_KINDS for ref in ordered],
    }
    accounts: dict[AccountRef, _LockedAccount] = {}
    # Opened by somebody else while we looked, an account is in neither half of the first answer.
    while len(accounts) < len(ordered):
        for row in await conn.execute(OPEN_AND_LOCK, columns):
            ref = AccountRef(AccountKind(row.kind), row.owner_id, row.currency)
            accounts[ref] = _LockedAccount(row.id, row.guarded, row.balance_minor, row.floor_minor)
    return accounts


async def _write(
    conn: AsyncConnection, postings: Sequence[Posting], accounts: Mapping[AccountRef, _LockedAccount]
) -> dict[str, Outcome]:
    """Those that were posted, by key; not among them are those that stood there already."""
    ids = {posting.key: new_id("ltx") for posting in postings}
    lines = [(posting, line) for posting in postings for line in posting.lines]
    fresh = await conn.execute(
        POST,
        {
            "ids": list(ids.values()),
            "keys": list(ids),
            "kinds": [posting.kind for posting in postings],
            "occurred_ats": [posting.occurred_at for posting in postings],
            "reverses": [posting.reverses_id for posting in postings],
            "line_ids": [ids[posting.key] for posting, _ in lines],
            "accounts": [accounts[line.account].id for _, line in lines],
            "currencies": [line.account.currency for _, line in lines],
            "amounts": [line.amount_minor for _, line in lines],
            "floors_hold": [not posting.states_fact for posting, _ in lines],
        },
    )
    return {key: Posted(transaction_id) for transaction_id, key in fresh}


def _ref_columns(refs: Sequence[AccountRef]) -> dict[str, list[object]]:
    return {
        "kinds": [ref.kind.value for ref in refs],
        "owners": [ref.owner_id for ref in refs],
        "currencies": [ref.currency for ref in refs],
    }
