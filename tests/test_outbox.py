"""Facts in batches: each reacted to once, whatever its neighbours are and whoever else works."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from standpipe import worker
from standpipe.notifications.models import Alert
from standpipe.outbox.facts import CreditConfirmed, Fact, publish
from standpipe.outbox.models import OutboxFact
from standpipe.platform.errors import NotYetError
from standpipe.worker import work_outbox
from tests.support.statements import counted
from tests.support.town import Town

OFFLINE_AFTER = timedelta(hours=26)


async def published(town: Town, count: int, first: int = 1) -> None:
    """Credits that the town's meter has confirmed, each of them news to its household."""
    async with town.sessions.begin() as session:
        for number in range(first, first + count):
            await publish(session, CreditConfirmed(town.home.meter_id, number))


async def work(town: Town, limit: int = 50) -> int:
    return await work_outbox(town.sessions, town.rails, town.settings.clock, OFFLINE_AFTER, limit=limit)


async def told(town: Town) -> int:
    return await town.count(Alert)


async def waiting(town: Town) -> list[OutboxFact]:
    async with town.sessions() as session:
        rows = await session.scalars(select(OutboxFact).where(OutboxFact.due_at.is_not(None)).order_by(OutboxFact.id))
        return list(rows)


async def test_a_batch_is_one_transaction(town: Town) -> None:
    await published(town, 1)
    await work(town)
    await published(town, 20, first=2)
    with counted(town.sessions) as sent:
        assert await work(town) == 20
    assert await told(town) == 21
    assert await waiting(town) == []
    # A claim, one BEGIN and COMMIT, one read of the meter; then what each piece of news takes.
    assert sent.plumbing <= 3
    sent.at_most(12 + 4 * 20)


@pytest.mark.parametrize("wrong", [ZeroDivisionError(), NotYetError("later")])
async def test_one_that_cannot_be_reacted_to_costs_the_others_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch, wrong: Exception
) -> None:
    await published(town, 7)
    react = worker.react

    async def fails(session: Any, fact: Fact, meters: Any) -> None:
        await react(session, fact, meters)
        if fact == CreditConfirmed(town.home.meter_id, 5):
            raise wrong

    monkeypatch.setattr(worker, "react", fails)
    assert await work(town) == 7
    assert await told(town) == 6
    [left] = await waiting(town)
    assert (left.payload["accepted"], left.attempts) == (5, 1)
    assert left.last_error is not None
    monkeypatch.setattr(worker, "react", react)
    await town.hurry(OutboxFact)
    assert await work(town) == 1
    assert await told(town) == 7


async def test_what_another_has_ticked_off_meanwhile_is_not_reacted_to(town: Town) -> None:
    await published(town, 3)
    async with town.sessions() as session:
        rows = list(await session.scalars(select(OutboxFact).order_by(OutboxFact.id)))
    async with town.sessions.begin() as session:
        await session.execute(update(OutboxFact).where(OutboxFact.id == rows[1].id).values(due_at=None))
    facts = [(row, CreditConfirmed(town.home.meter_id, number)) for number, row in enumerate(rows, 1)]
    assert await worker._react_to(town.sessions, town.settings.clock, OFFLINE_AFTER, facts) == [None] * 3
    assert await told(town) == 2


async def test_workers_at_once_tell_each_piece_of_news_once(town: Town) -> None:
    await published(town, 40)
    while any(await asyncio.gather(*(work(town, limit=7) for _ in range(3)))):
        pass
    assert await told(town) == 40
    assert await waiting(town) == []


async def test_a_worker_that_dies_between_reaction_and_commit_has_told_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(town, 3)
    react = worker.react

    async def dies(session: Any, fact: Fact, meters: Any) -> None:
        await react(session, fact, meters)
        raise asyncio.CancelledError

    monkeypatch.setattr(worker, "react", dies)
    with pytest.raises(asyncio.CancelledError):
        await work(town)
    assert await told(town) == 0
    monkeypatch.setattr(worker, "react", react)
    # Not when a lease ends, but at once: it was let go.
    soon = func.now() + timedelta(seconds=2)
    assert await town.count(OutboxFact, OutboxFact.due_at < soon) == 3
    await town.hurry(OutboxFact)
    assert await work(town) == 3
    assert await told(town) == 3
