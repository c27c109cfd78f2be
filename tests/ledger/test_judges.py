"""The database judges every statement that adds entries, whoever wrote it: raw SQL against each of its rules."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, Posting, balances, post_many

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CLEARING = AccountRef(AccountKind.CLEARING, "stripe", "KES")
WALLET = AccountRef(AccountKind.WALLET, "m1", "KES")
BEGUN = "INSERT INTO ledger_transactions (id, key, kind, occurred_at) VALUES ('ltx_x', 'x', 'T', now())"
MOVED = "UPDATE ledger_accounts SET balance_minor = 505, version = 2 WHERE kind = 'WALLET'"
BACK = "UPDATE ledger_accounts SET balance_minor = 495, version = 2 WHERE kind = 'WALLET'"


def entries(*lines: str, transaction: str = "ltx_x") -> str:
    """Of (kind, amount, version, balance after, floor) each."""
    return f"""
        INSERT INTO ledger_entries (transaction_id, account_id, currency, amount_minor, account_version,
                                    balance_after_minor, floor_minor)
        SELECT '{transaction}', a.id, 'KES', l.amount, l.version, l.after, l.floor
        FROM (VALUES {", ".join(lines)}) l(kind, amount, version, after, floor) JOIN ledger_accounts a USING (kind)"""  # noqa: S608 - our own words.


OUT = "('CLEARING', -5, NULL::bigint, NULL::bigint, NULL::bigint)"
IN = "('WALLET', 5, 2, 505, 0)"
GOOD = [BEGUN, MOVED, entries(OUT, IN)]


async def posted_before(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await post_many(conn, [Posting("k", "T", (Line(CLEARING, -500), Line(WALLET, 500)), NOW)])


async def run(engine: AsyncEngine, statements: list[str]) -> None:
    async with engine.begin() as conn:
        for statement in statements:
            await conn.execute(text(statement))


async def wallet(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        return (await balances(conn, [WALLET]))[WALLET]


@pytest.mark.parametrize(
    "statements",
    [GOOD, [BEGUN, "SET CONSTRAINTS ALL DEFERRED", MOVED, entries(IN, OUT)]],
)
async def test_what_is_right_is_stored_by_whomever(engine: AsyncEngine, statements: list[str]) -> None:
    await posted_before(engine)
    await run(engine, statements)
    assert await wallet(engine) == 505


@pytest.mark.parametrize(
    ("said", "statements"),
    [
        ("sum to zero", [BEGUN, MOVED, entries(OUT.replace("-5", "-4"), IN)]),
        ("sum to zero", [BEGUN, MOVED, entries(IN)]),
        # In balance at the commit, and not at the end of each statement.
        ("sum to zero", [BEGUN, entries(OUT), MOVED, entries(IN)]),
        ("sum to zero", [*GOOD, "SET CONSTRAINTS ALL IMMEDIATE", entries(OUT)]),
        ("has no entries", [BEGUN]),
        ("has no entries", [BEGUN, "SET CONSTRAINTS ALL IMMEDIATE", MOVED, entries(OUT, IN)]),
        ("follow the one before", [BEGUN, MOVED, entries(OUT, IN.replace("2, 505", "NULL, NULL"))]),
        ("follow the one before", [BEGUN, MOVED, entries(OUT.replace("NULL::bigint, NULL::bigint", "1, -5", 1), IN)]),
        ("follow the one before", [BEGUN, MOVED, entries(OUT, IN.replace("2, 505", "3, 505"))]),
        ("follow the one before", [BEGUN, MOVED, entries(OUT, IN.replace("2, 505", "0, 5"))]),
        ("follow the one before", [BEGUN, MOVED, entries(OUT, IN.replace("2, 505", "-1, 5"))]),
        ("follow the one before", [BEGUN, MOVED, entries(OUT, IN.replace("505", "506"))]),
        ("uq_ledger_entries", [BEGUN, MOVED, entries(OUT, IN.replace("2, 505", "1, 5"))]),
        ("disagrees with its entries", [BEGUN, entries(OUT, IN)]),
        ("disagrees with its entries", [BEGUN, MOVED.replace("505", "506"), entries(OUT, IN)]),
        ("disagrees with its entries", [BEGUN, MOVED.replace("version = 2", "version = 3"), entries(OUT, IN)]),
        ("disagrees with its entries", [MOVED]),
        ("floor_holds", [BEGUN, BACK, entries("('CLEARING', 5, NULL::bigint, NULL::bigint, NULL::bigint)",
                                              "('WALLET', -5, 2, 495, 496)")]),
        ("amount_not_zero", [BEGUN, entries(OUT.replace("-5", "0"), "('WALLET', 0, 2, 500, 0)")]),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_refused_whole(engine: AsyncEngine, said: str, statements: list[str]) -> None:
    await posted_before(engine)
    with pytest.raises(DBAPIError, match=said):
        await run(engine, statements)
    assert await wallet(engine) == 500


async def test_a_posted_transaction_is_closed(engine: AsyncEngine) -> None:
    await posted_before(engine)
    await run(engine, GOOD)
    more = entries("('CLEARING', -7, NULL::bigint, NULL::bigint, NULL::bigint)", "('WALLET', 7, 3, 512, 0)")
    moved = "UPDATE ledger_accounts SET balance_minor = 512, version = 3 WHERE kind = 'WALLET'"
    with pytest.raises(DBAPIError, match="is closed"):
        await run(engine, [moved, more])
    assert await wallet(engine) == 505
