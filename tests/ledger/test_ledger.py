"""The ledger: what the database refuses, what concurrency cannot break, and random histories that still add up."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from standpipe.ledger.models import Account, AccountKind, Entry, LedgerTransaction
from standpipe.ledger.posting import AccountRef, Line, account_sum_minor, post, reverse, wallet_balance_minor
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InsufficientFundsError, InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from tests.support.lengths import rounds

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CLEARING = AccountRef(AccountKind.CLEARING, "stripe", "KES")
REVENUE = AccountRef(AccountKind.REVENUE, "utl", "KES")


def wallet(owner: str = "m1") -> AccountRef:
    return AccountRef(AccountKind.WALLET, owner, "KES")


async def move(
    sessions: Sessions, source: AccountRef, target: AccountRef, amount_minor: int, key: str = "", *, fact: bool = False
) -> bool:
    lines = [Line(source, -amount_minor), Line(target, amount_minor)]
    async with sessions.begin() as session:
        return await post(session, key=key or new_id("key"), kind="T", lines=lines, occurred_at=NOW, states_fact=fact)


async def balance(sessions: Sessions, owner: str = "m1") -> int:
    async with sessions() as session:
        return await wallet_balance_minor(session, owner, "KES")


async def test_p47_fifty_spends_of_a_hundred_on_a_thousand_are_ten(sessions: Sessions) -> None:
    await move(sessions, CLEARING, wallet(), 1000)

    async def spend() -> bool:
        try:
            return await move(sessions, wallet(), REVENUE, 100)
        except InsufficientFundsError:
            return False

    assert sum(await asyncio.gather(*(spend() for _ in range(50)))) == 10
    assert await balance(sessions) == 0


async def test_the_same_key_posts_once_also_at_once(sessions: Sessions) -> None:
    posted = await asyncio.gather(
        *(move(sessions, CLEARING, wallet(), 1500, "stripe:pi_1:captured:1500") for _ in range(20))
    )
    assert sum(posted) == 1
    assert await balance(sessions) == 1500


async def test_a_fact_passes_the_floor_and_a_decision_does_not(sessions: Sessions) -> None:
    await move(sessions, CLEARING, wallet(), 100)
    await move(sessions, wallet(), REVENUE, 130, fact=True)
    assert await balance(sessions) == -30
    with pytest.raises(InsufficientFundsError):
        await move(sessions, wallet(), REVENUE, 1)


async def test_a_reversal_undoes_once_and_keeps_both(sessions: Sessions) -> None:
    await move(sessions, CLEARING, wallet(), 500, "k1")
    for expected in (True, False):
        async with sessions.begin() as session:
            assert await reverse(session, key="k1", occurred_at=NOW) is expected
    assert await balance(sessions) == 0
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(LedgerTransaction)) == 2
        with pytest.raises(NotFoundError):
            await reverse(session, key="never", occurred_at=NOW)


@pytest.mark.parametrize(
    "lines",
    [[], [Line(wallet(), 5)], [Line(CLEARING, -5), Line(wallet(), 4)], [Line(CLEARING, 0), Line(wallet(), 0)],
     [Line(wallet(), 5), Line(wallet(), -5)], [Line(CLEARING, -(10**16)), Line(wallet(), 10**16)]],
)  # fmt: skip
async def test_lines_that_are_no_posting_are_refused(sessions: Sessions, lines: Sequence[Line]) -> None:
    async with sessions() as session:
        with pytest.raises(InvalidInputError):
            await post(session, key="k", kind="T", lines=lines, occurred_at=NOW)


async def test_two_currencies_must_each_sum_to_zero(sessions: Sessions) -> None:
    lines = [Line(CLEARING, -5), Line(AccountRef(AccountKind.SUSPENSE, "s", "USD"), 5)]
    async with sessions() as session:
        with pytest.raises(InvalidInputError):
            await post(session, key="k", kind="T", lines=lines, occurred_at=NOW)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET amount_minor = 1",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries",
        "UPDATE ledger_transactions SET kind = 'X'",
        "DELETE FROM ledger_transactions",
        "TRUNCATE ledger_transactions CASCADE",
        "DELETE FROM ledger_accounts",
        # Entries that join a posted transaction, even in balance.
        "INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor) "
        "SELECT t.id, a.id, 'KES', x FROM ledger_transactions t, ledger_accounts a, (VALUES (5), (-5)) v(x) "
        "WHERE a.kind = 'CLEARING'",
        # A transaction that does not sum to zero, or has no entries at all.
        "INSERT INTO ledger_transactions (id, key, kind, occurred_at) VALUES ('ltx_x', 'x', 'T', now())",
        "WITH t AS (INSERT INTO ledger_transactions (id, key, kind, occurred_at) VALUES ('ltx_x', 'x', 'T', now()) "
        "RETURNING id) INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor) "
        "SELECT t.id, a.id, 'KES', x FROM t, ledger_accounts a, (VALUES (5), (-4)) v(x) WHERE a.kind = 'CLEARING'",
        # A wallet's row that no entry explains, and an entry that skips a version.
        "UPDATE ledger_accounts SET balance_minor = 999 WHERE kind = 'WALLET'",
        "UPDATE ledger_accounts SET balance_minor = 7 WHERE kind = 'CLEARING'",
        "WITH t AS (INSERT INTO ledger_transactions (id, key, kind, occurred_at) VALUES ('ltx_x', 'x', 'T', now()) "
        "RETURNING id) INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor, "
        "account_version, balance_after_minor) SELECT t.id, a.id, 'KES', 5, 9, 505 FROM t, ledger_accounts a "
        "WHERE a.kind = 'WALLET'",
    ],
)
async def test_p48_the_database_itself_refuses(sessions: Sessions, statement: str) -> None:
    await move(sessions, CLEARING, wallet(), 500)
    with pytest.raises(DBAPIError):
        async with sessions.begin() as session:
            await session.execute(text(statement))
    assert await balance(sessions) == 500


async def test_open_accounts_are_never_locked(sessions: Sessions) -> None:
    """One stalled transaction on a provider's clearing account must not hold up another top-up."""
    await move(sessions, CLEARING, wallet("m1"), 1)
    async with sessions.begin() as stalled:
        lines = [Line(CLEARING, -5), Line(wallet("m1"), 5)]
        await post(stalled, key="stalled", kind="T", lines=lines, occurred_at=NOW)
        await asyncio.wait_for(move(sessions, CLEARING, wallet("m2"), 7), 5)
    assert await balance(sessions, "m2") == 7


steps = st.lists(
    st.tuples(
        st.sampled_from(["top_up", "spend", "usage", "reverse", "repeat"]),
        st.sampled_from(["m1", "m2"]),
        st.integers(1, 10**6),
    ),
    max_size=12,
)


@given(steps)
@settings(max_examples=rounds(10, 25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_p49_any_history_adds_up(sessions: Sessions, history: list[tuple[str, str, int]]) -> None:
    keys: list[str] = []
    expected: dict[str, int] = {}
    effects: dict[str, tuple[str, int]] = {}
    prefix = new_id("h")
    for kind, owner, amount in history:
        name, key = f"{prefix}{owner}", new_id("key")
        if kind in {"reverse", "repeat"}:
            if not keys:
                continue
            key = keys[amount % len(keys)]
            name, effect = effects[key]
            if kind == "reverse":
                async with sessions.begin() as session:
                    if await reverse(session, key=key, occurred_at=NOW):
                        expected[name] -= effect
            else:
                assert not await move(sessions, CLEARING, wallet(name), amount, key)
            continue
        effect = amount if kind == "top_up" else -amount
        source, target = (CLEARING, wallet(name)) if kind == "top_up" else (wallet(name), REVENUE)
        try:
            await move(sessions, source, target, amount, key, fact=kind == "usage")
        except InsufficientFundsError:
            assert kind == "spend"
            assert expected.get(name, 0) < amount
            continue
        keys.append(key)
        effects[key] = (name, effect)
        expected[name] = expected.get(name, 0) + effect
    await check(sessions, expected)


async def check(sessions: Sessions, expected: dict[str, int]) -> None:
    async with sessions() as session:
        total = await session.scalar(select(func.coalesce(func.sum(Entry.amount_minor), 0)))
        assert total == 0
        for name, balance_minor in expected.items():
            account = (await session.scalars(select(Account).where(Account.owner_id == name))).one()
            versions = (
                await session.scalars(
                    select(Entry.account_version).where(Entry.account_id == account.id).order_by(Entry.account_version)
                )
            ).all()
            assert account.balance_minor == balance_minor == await account_sum_minor(session, wallet(name))
            assert list(versions) == list(range(1, account.version + 1))


def test_names() -> None:
    """Ids sort by age and carry their kind."""
    first: Any = new_id("mtr")
    assert first.startswith("mtr_")
    assert len({new_id("mtr") for _ in range(1000)}) == 1000
