"""A unit of work: each table written once, in one order, before the commit, and callbacks only after it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.engine.unit_of_work import Order, SetWriter, UnitOfWork, unit
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import LEDGER, AccountRef, Line, Posting
from standpipe.outbox.facts import MeterStated, add_fact
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InsufficientFundsError
from standpipe.platform.notify import LIVE, WORK, Listener
from standpipe.utilities.operators import AUDIT, AuditLine
from tests.support.statements import counted

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def top_up(number: int, amount_minor: int = 100, *, states_fact: bool = False) -> Posting:
    clearing = AccountRef(AccountKind.CLEARING, "stripe", "KES")
    wallet = AccountRef(AccountKind.WALLET, f"m{number}", "KES")
    lines = [Line(clearing, -amount_minor), Line(wallet, amount_minor)]
    return Posting(f"k{number}:{amount_minor}", "TOP_UP", lines, NOW, states_fact)


def gather(work: UnitOfWork, number: int) -> None:
    work.notify(LIVE, f"m{number}")
    work.add(AUDIT, AuditLine("ann", "credit", f"m{number}", {"number": number}))
    add_fact(work, MeterStated(f"m{number}"))
    work.add(LEDGER, top_up(number))


async def rows(engine: AsyncEngine) -> tuple[int, ...]:
    query = text("""
        SELECT (SELECT count(*) FROM ledger_transactions), (SELECT count(*) FROM ledger_entries),
               (SELECT count(*) FROM outbox_facts), (SELECT count(*) FROM operator_actions)""")
    async with engine.connect() as conn:
        return tuple((await conn.execute(query)).one())


async def test_any_number_of_rows_takes_the_same_statements(engine: AsyncEngine) -> None:
    counts = []
    for size in (1, 200):
        with counted(engine) as sent:
            async with unit(engine) as work:
                for number in range(size):
                    gather(work, 1000 * size + number)
        counts.append(sent.count)
        # BEGIN, two for the ledger, facts, audit, notifications, COMMIT.
        sent.at_most(7)
    assert counts[0] == counts[1]
    assert await rows(engine) == (201, 402, 201, 201)


async def test_nothing_is_written_where_nothing_was_gathered(engine: AsyncEngine) -> None:
    with counted(engine) as sent:
        async with unit(engine) as work:
            await work.conn.execute(text("SELECT 1 AS one"))
    sent.at_most(3)


async def test_what_is_raised_undoes_all_and_calls_nobody(engine: AsyncEngine) -> None:
    called: list[str] = []

    async def fail() -> None:
        async with unit(engine) as work:
            gather(work, 1)
            await work.flush()
            work.after_commit(lambda: called.append("never"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await rows(engine) == (0, 0, 0, 0)
    assert called == []


async def test_a_posting_that_is_refused_undoes_all(engine: AsyncEngine) -> None:
    async def overspend() -> None:
        async with unit(engine) as work:
            gather(work, 1)
            work.add(LEDGER, top_up(2, -5))

    with pytest.raises(InsufficientFundsError):
        await overspend()
    assert await rows(engine) == (0, 0, 0, 0)


async def test_callbacks_run_after_the_commit_and_cannot_undo_it(engine: AsyncEngine) -> None:
    seen: list[int] = []

    def fail() -> None:
        raise RuntimeError("the meter of meters is broken")

    async with unit(engine) as work:
        gather(work, 1)
        work.after_commit(fail)
        work.after_commit(lambda: seen.append(1))
        await work.flush()
        assert seen == []
    assert seen == [1]
    assert (await rows(engine))[0] == 1


async def test_a_session_lends_its_transaction(engine: AsyncEngine, sessions: Sessions) -> None:
    seen: list[str] = []
    async with sessions.begin() as session:
        work = await UnitOfWork.of(session)
        gather(work, 1)
        work.after_commit(lambda: seen.append("committed"))
        await work.flush()
        assert seen == []
    assert seen == ["committed"]
    assert await rows(engine) == (1, 2, 1, 1)
    async with sessions() as session:
        work = await UnitOfWork.of(session)
        gather(work, 2)
        work.after_commit(lambda: seen.append("rolled back"))
        await work.flush()
        await session.rollback()
    assert seen == ["committed"]


async def test_writers_take_their_turns_in_one_order_and_may_add_to_later_ones(engine: AsyncEngine) -> None:
    turns: list[str] = []

    def writer(name: str, order: Order, then: SetWriter[int] | None = None) -> SetWriter[int]:
        async def write(work: UnitOfWork, written: Sequence[int]) -> None:
            turns.append(f"{name} {list(written)}")
            if then is not None:
                work.add(then, 9)

        return SetWriter(name, order, write)

    audit = writer("audit", Order.AUDIT)
    facts = writer("facts", Order.FACTS, audit)
    async with unit(engine) as work:
        work.add(audit, 1)
        work.add(facts, 2)
        work.add(writer("rows", Order.ROWS), 3, 4)
        work.add(facts, 5)
    assert turns == ["rows [3, 4]", "facts [2, 5]", "audit [1, 9]"]


async def test_each_notification_is_heard_once_and_only_after_the_commit(
    engine: AsyncEngine, database_url: str
) -> None:
    listener = Listener(database_url, LIVE, WORK)
    await listener.start()
    try:
        async with listener.subscribe(LIVE, "m1") as one, listener.subscribe(WORK, "outbox") as facts:
            one.clear()
            facts.clear()
            async with unit(engine) as work:
                work.notify(LIVE, "m1")
                gather(work, 1)
                await work.flush()
                assert not one.is_set()
            await asyncio.wait_for(asyncio.gather(one.wait(), facts.wait()), 10)
    finally:
        await listener.stop()
