"""Many postings at once: as one by one, whatever is among them, and whoever else posts meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import (
    AccountRef,
    AlreadyPosted,
    Line,
    Outcome,
    Posted,
    Posting,
    Refused,
    balances,
    post_many,
)
from standpipe.platform.errors import InsufficientFundsError, InvalidInputError
from standpipe.platform.ids import new_id
from tests.support.lengths import rounds
from tests.support.statements import counted

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CLEARING = AccountRef(AccountKind.CLEARING, "stripe", "KES")
REVENUE = AccountRef(AccountKind.REVENUE, "utl", "KES")


def wallet(owner: str) -> AccountRef:
    return AccountRef(AccountKind.WALLET, owner, "KES")


def move(key: str, source: AccountRef, target: AccountRef, amount_minor: int, *, fact: bool = False) -> Posting:
    return Posting(key, "T", (Line(source, -amount_minor), Line(target, amount_minor)), NOW, fact)


def top_up(key: str, owner: str, amount_minor: int) -> Posting:
    return move(key, CLEARING, wallet(owner), amount_minor)


def spend(key: str, owner: str, amount_minor: int, *, fact: bool = False) -> Posting:
    return move(key, wallet(owner), REVENUE, amount_minor, fact=fact)


async def posted(engine: AsyncEngine, *postings: Posting) -> dict[str, Outcome]:
    async with engine.begin() as conn:
        return dict(await post_many(conn, postings))


async def balance(engine: AsyncEngine, owner: str) -> int:
    async with engine.connect() as conn:
        return (await balances(conn, [wallet(owner)]))[wallet(owner)]


async def test_two_statements_for_one_posting_and_for_two_hundred(engine: AsyncEngine) -> None:
    for size in (1, 200):
        for postings, limit in (
            ([top_up(f"t{size}:{number}", f"m{number}", 100) for number in range(size)], 4),
            ([spend(f"s{size}:{number}", f"m{number}", 1) for number in range(size)], 5),
        ):
            with counted(engine) as sent:
                outcomes = await posted(engine, *postings)
            assert {type(outcome) for outcome in outcomes.values()} == {Posted}
            sent.at_most(limit)  # BEGIN and COMMIT among them.


async def test_no_postings_take_no_statement(engine: AsyncEngine) -> None:
    with counted(engine) as sent:
        assert await posted(engine) == {}
        refused = await posted(engine, Posting("k", "T", (), NOW))
    assert isinstance(refused["k"], Refused)
    sent.at_most(0)


async def test_a_poison_among_two_hundred_costs_only_itself(engine: AsyncEngine) -> None:
    postings = [top_up(f"k{number}", f"m{number % 20}", 10) for number in range(200)]
    postings[50] = Posting("k50", "T", (Line(CLEARING, -5), Line(wallet("m1"), 4)), NOW)
    postings[51] = Posting("k51", "T", (Line(CLEARING, -(10**16)), Line(wallet("m1"), 10**16)), NOW)
    postings[150] = spend("k150", "m10", 1000)
    outcomes = await posted(engine, *postings)
    refused = {key: type(each.error) for key, each in outcomes.items() if isinstance(each, Refused)}
    assert refused == {"k50": InvalidInputError, "k51": InvalidInputError, "k150": InsufficientFundsError}
    assert sum(isinstance(outcome, Posted) for outcome in outcomes.values()) == 197
    assert [await balance(engine, f"m{number}") for number in (1, 10, 11)] == [100, 80, 90]


async def test_decisions_are_judged_in_their_order(engine: AsyncEngine) -> None:
    outcomes = await posted(
        engine,
        spend("early", "m1", 1),
        top_up("paid", "m1", 100),
        spend("first", "m1", 60),
        spend("second", "m1", 60),
        spend("water", "m1", 70, fact=True),
        spend("last", "m1", 1),
        top_up("more", "m1", 40),
        spend("enough", "m1", 10),
    )
    assert [key for key, outcome in outcomes.items() if isinstance(outcome, Refused)] == ["early", "second", "last"]
    error: Any = outcomes["second"]
    assert (error.error.balance_minor, error.error.wanted_minor, error.error.floor_minor) == (40, 60, 0)
    assert await balance(engine, "m1") == 0


async def test_a_key_posts_once_in_a_batch_and_over_batches(engine: AsyncEngine) -> None:
    outcomes = await posted(engine, top_up("k", "m1", 100), top_up("k", "m1", 7), spend("s", "m1", 100))
    assert [type(outcomes[key]) for key in ("k", "s")] == [Posted, Posted]
    # What is posted already counts neither for nor against its neighbours.
    again = await posted(engine, top_up("k", "m1", 100), spend("s", "m1", 100), spend("t", "m1", 1))
    assert [type(again[key]) for key in ("k", "s", "t")] == [AlreadyPosted, AlreadyPosted, Refused]
    assert await balance(engine, "m1") == 0


async def test_a_reversal_of_the_same_posting_is_there_once(engine: AsyncEngine) -> None:
    first: Any = (await posted(engine, top_up("k", "m1", 100)))["k"]
    mirror = replace(move("r1", wallet("m1"), CLEARING, 100, fact=True), reverses_id=first.transaction_id)
    outcomes = await posted(engine, mirror, replace(mirror, key="r2"))
    assert sorted(type(outcome).__name__ for outcome in outcomes.values()) == ["AlreadyPosted", "Posted"]
    assert await balance(engine, "m1") == 0


async def test_the_same_key_at_once_is_posted_once_and_refuses_no_neighbour(engine: AsyncEngine) -> None:
    """The second waits for the first one's locks, and must then know what the first has posted."""
    await posted(engine, top_up("paid", "m1", 100))
    async with engine.connect() as first, engine.connect() as second:
        await post_many(first, [spend("k", "m1", 60)])
        waiting = asyncio.create_task(post_many(second, [spend("k", "m1", 60), spend("other", "m1", 40)]))
        await until_somebody_waits(engine)
        await first.commit()
        outcomes = await waiting
        await second.commit()
    assert [type(outcomes[key]) for key in ("k", "other")] == [AlreadyPosted, Posted]
    assert await balance(engine, "m1") == 0


async def test_accounts_of_two_batches_in_opposite_order_are_no_deadlock(engine: AsyncEngine) -> None:
    """Also where both open them."""
    for turn in range(12):
        owners = [f"{turn}:{number}" for number in range(8)]
        one = [top_up(f"a{turn}:{owner}", owner, 100) for owner in owners]
        other = [top_up(f"b{turn}:{owner}", owner, 10) for owner in reversed(owners)]
        outcomes = await asyncio.gather(posted(engine, *one), posted(engine, *other))
        assert all(isinstance(outcome, Posted) for half in outcomes for outcome in half.values())
        spends = [[spend(f"{each}{turn}:{owner}", owner, 55) for owner in owners] for each in "cd"]
        await asyncio.gather(posted(engine, *spends[0]), posted(engine, *reversed(spends[1])))
        assert {await balance(engine, owner) for owner in owners} == {0}


async def test_open_accounts_are_summed_and_unknown_ones_hold_nothing(engine: AsyncEngine) -> None:
    await posted(engine, top_up("k", "m1", 100), spend("s", "m1", 30))
    with counted(engine) as sent:
        async with engine.connect() as conn:
            found = await balances(conn, [CLEARING, REVENUE, wallet("m1"), wallet("nobody")])
    assert list(found.values()) == [-100, 30, 70, 0]
    sent.at_most(3)


async def until_somebody_waits(engine: AsyncEngine) -> None:
    async with asyncio.timeout(10), engine.connect() as conn:
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not await conn.scalar(waiting):
            await asyncio.sleep(0.01)


OWNERS = ("m1", "m2", "m3")
histories = st.lists(
    st.tuples(
        st.sampled_from(["top_up", "spend", "usage", "transfer", "crooked", "repeat"]),
        st.sampled_from(OWNERS),
        st.integers(1, 300),
    ),
    max_size=25,
)


@given(histories, st.integers(1, 6))
@settings(max_examples=rounds(15, 60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_batch_is_as_its_postings_one_by_one(
    engine: AsyncEngine, history: Sequence[tuple[str, str, int]], size: int
) -> None:
    """The same entries, versions, balances and refusals; in batches of any size."""
    seen: list[tuple[object, ...]] = []
    for each in (1, size, max(len(history), 1)):
        prefix = new_id("h")
        postings = [made(prefix, number, step) for number, step in enumerate(history)]
        outcomes: list[tuple[str, str]] = []
        async with engine.connect() as conn:
            for start in range(0, len(postings), each):
                batch = postings[start : start + each]
                found = await post_many(conn, batch)
                outcomes += [(posting.key.removeprefix(prefix), type(found[posting.key]).__name__) for posting in batch]
            seen.append((best_of_each(outcomes), *await books(conn, prefix)))
            await conn.rollback()
    assert seen[0] == seen[1] == seen[2]


def made(prefix: str, number: int, step: tuple[str, str, int]) -> Posting:
    kind, owner, amount = step
    account, key = wallet(prefix + owner), f"{prefix}{number}"
    if kind == "repeat":
        return move(f"{prefix}{amount % (number + 1)}", CLEARING, account, amount)
    if kind == "transfer":
        to = wallet(prefix + OWNERS[(OWNERS.index(owner) + 1) % len(OWNERS)])
        return move(key, account, to, amount)
    if kind == "crooked":
        return Posting(key, "T", (Line(account, amount), Line(CLEARING, 1 - 2 * amount)), NOW)
    source, target = (CLEARING, account) if kind == "top_up" else (account, REVENUE)
    return move(key, source, target, amount, fact=kind == "usage")


def best_of_each(outcomes: list[tuple[str, str]]) -> dict[str, str]:
    """Of a key's postings one may be accepted where others were refused, or posted before others find it there."""
    order = ["Refused", "AlreadyPosted", "Posted"]
    found: dict[str, str] = {}
    for key, outcome in outcomes:
        found[key] = max(outcome, found.get(key, outcome), key=order.index)
    return found


async def books(conn: AsyncConnection, prefix: str) -> tuple[list[Any], list[Any]]:
    """What stands in the ledger of one history, with its prefix and ids taken out."""
    await conn.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    entries = await conn.execute(
        text("""
            SELECT substr(t.key, :skip), a.kind, CASE WHEN a.guarded THEN substr(a.owner_id, :skip) END,
                   e.amount_minor, e.account_version, e.balance_after_minor, e.floor_minor
            FROM ledger_entries e JOIN ledger_transactions t ON t.id = e.transaction_id
            JOIN ledger_accounts a ON a.id = e.account_id
            WHERE starts_with(t.key, :prefix) ORDER BY e.id"""),
        {"prefix": prefix, "skip": len(prefix) + 1},
    )
    accounts = await conn.execute(
        text("""
            SELECT substr(owner_id, :skip), balance_minor, version FROM ledger_accounts
            WHERE starts_with(owner_id, :prefix) ORDER BY owner_id"""),
        {"prefix": prefix, "skip": len(prefix) + 1},
    )
    # Wallets that were never moved are opened and empty, or not there: both hold nothing.
    return [tuple(row) for row in entries], [tuple(row) for row in accounts if row.version]


@pytest.mark.parametrize("kind", [AccountKind.WALLET, AccountKind.CLEARING])
async def test_two_who_open_one_account_at_once_both_post(engine: AsyncEngine, kind: AccountKind) -> None:
    account = AccountRef(kind, "new", "KES")
    async with engine.connect() as first, engine.connect() as second:
        await post_many(first, [move("a", REVENUE, account, 5)])
        waiting = asyncio.create_task(post_many(second, [move("b", REVENUE, account, 7)]))
        await until_somebody_waits(engine)
        await first.commit()
        assert isinstance((await waiting)["b"], Posted)
        await second.commit()
    async with engine.connect() as conn:
        assert (await balances(conn, [account]))[account] == 12
