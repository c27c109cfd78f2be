"""Settling in batches: a bad one costs its neighbours nothing, nobody waits, and any order ends at one ledger."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import Account
from standpipe.meters.models import CreditGrant, Meter, MeterCommand
from standpipe.payments.asking import Ask
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import (
    MOBILE_POLLS_S,
    Capabilities,
    PaymentStatus,
    PaymentTruth,
    RailRefusedError,
    RailUnavailableError,
)
from standpipe.payments.settle import settle_many
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, create_engine, create_sessions
from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import new_id
from tests.support.database import DatabaseServer, database_server
from tests.support.statements import counted
from tests.support.town import Home, make_home, make_settings, make_utility

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CLOCK = Clock()


class Told:
    """A rail that answers at once what it was told to."""

    name = "told"
    capabilities = Capabilities(MOBILE_POLLS_S, reports_refunds=True)

    def __init__(self) -> None:
        self.truths: dict[str, PaymentTruth] = {}
        self.asked = 0

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        self.asked += 1
        await asyncio.sleep(0)
        if rail_ref not in self.truths:
            raise RailRefusedError(self.name, "none", "none")
        return self.truths[rail_ref]


@dataclass
class Place:
    sessions: Sessions
    homes: list[Home]
    rail: Told

    @property
    def rails(self) -> Any:
        return {"told": self.rail}

    async def order(self, home: Home, amount_minor: int = 1500, captured_minor: int | None = None) -> str:
        top_up_id, ref = new_id("top"), new_id("ref")
        captured_minor = amount_minor if captured_minor is None else captured_minor
        self.rail.truths[ref] = PaymentTruth(
            ref, top_up_id, PaymentStatus.SUCCEEDED, "KES", amount_minor, captured_minor, 0
        )
        async with self.sessions.begin() as session:
            session.add(
                TopUp(
                    id=top_up_id,
                    customer_id=home.customer_id,
                    meter_id=home.meter_id,
                    pay_minor=amount_minor,
                    currency="KES",
                    idempotency_key=top_up_id,
                    request_hash="",
                    created_at=NOW,
                )
            )
            await session.flush()
            session.add(
                Payment(
                    id=top_up_id,
                    top_up_id=top_up_id,
                    rail="told",
                    rail_ref=ref,
                    asked_minor=amount_minor,
                    currency="KES",
                    status="PENDING",
                    updated_at=NOW,
                )
            )
        return top_up_id

    async def settle(self, *top_up_ids: str) -> list[Exception | None]:
        return await settle_many(self.sessions, self.rails, [Ask(one) for one in top_up_ids], CLOCK)

    async def wallets(self) -> list[int]:
        async with self.sessions() as session:
            rows = await session.execute(select(Account.owner_id, Account.balance_minor).where(Account.guarded))
            found = {owner: int(balance) for owner, balance in rows}
        return [found.get(home.meter_id, 0) for home in self.homes]


async def make_place(sessions: Sessions, homes: int) -> Place:
    utility_id, tariff_id = await make_utility(sessions)
    made = [
        await make_home(sessions, make_settings(), utility_id, tariff_id, installed_at=NOW, zone="Africa/Nairobi")
        for _ in range(homes)
    ]
    return Place(sessions, made, Told())


@pytest.fixture
async def place(sessions: Sessions) -> Place:
    return await make_place(sessions, 10)


async def test_one_settlement_is_thirteen_statements_and_two_hundred_are_forty(place: Place) -> None:
    first = await place.order(place.homes[0])
    assert await place.settle(first) == [None]
    alone = await place.order(place.homes[0])
    with counted(place.sessions) as sent:
        assert await place.settle(alone) == [None]
    sent.at_most(13)
    many = [await place.order(place.homes[number % 10]) for number in range(200)]
    with counted(place.sessions) as sent:
        assert await place.settle(*many) == [None] * 200
    sent.at_most(40)
    with counted(place.sessions) as sent:
        assert await place.settle(*many) == [None] * 200
    sent.at_most(10)


async def test_a_poison_an_unknown_a_twice_and_a_locked_one_cost_the_others_nothing(place: Place) -> None:
    ids = [await place.order(place.homes[number % 9]) for number in range(197)]
    poison, locked = await place.order(place.homes[0]), await place.order(place.homes[9])
    async with place.sessions.begin() as session:
        row = await session.get_one(Payment, poison)
        truth = place.rail.truths[row.rail_ref or ""]
        # No account takes this much: the database refuses the posting.
        place.rail.truths[row.rail_ref or ""] = replace(truth, captured_minor=2**70)
    async with place.sessions.begin() as held:
        await held.execute(select(Meter).where(Meter.id == place.homes[9].meter_id).with_for_update())
        asked = [*ids, poison, "top_nobody", locked]
        outcomes = dict(zip(asked, await place.settle(*asked), strict=True))
        assert {outcomes[one] for one in ids} == {None}
        assert isinstance(outcomes["top_nobody"], NotFoundError)
        assert isinstance(outcomes[locked], RailUnavailableError)
        assert outcomes[poison] is not None
        assert sum(await place.wallets()) == 197 * 1500
    assert await place.settle(locked, locked, *ids[:3]) == [None] * 5
    assert sum(await place.wallets()) == 198 * 1500
    assert (await place.wallets())[9] == 1500


class _DiedError(BaseException):
    """The worker was killed here."""


class _Dying:
    """Sessions whose transaction dies at the n-th statement, or at the commit (before it, or after)."""

    def __init__(self, sessions: Sessions, left: int) -> None:
        self._sessions, self.left = sessions, left

    def __call__(self) -> Any:
        return self._sessions()

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _DiedError

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        engine = self._sessions.kw["bind"].sync_engine

        def each_statement(*_: Any) -> None:
            self.step()

        async with self._sessions.begin() as session:
            event.listen(engine, "before_cursor_execute", each_statement)
            try:
                yield session
                self.step()
            finally:
                event.remove(engine, "before_cursor_execute", each_statement)
        self.step()


async def test_a_worker_killed_at_any_point_leaves_one_outcome(place: Place) -> None:
    points = 0
    for step in range(40):
        ids = [await place.order(home) for home in place.homes[:3]]
        dying: Any = _Dying(place.sessions, step)
        try:
            await settle_many(dying, place.rails, [Ask(one) for one in ids], CLOCK)
        except _DiedError:
            points += 1
        assert await place.settle(*ids) == [None] * 3
        assert await place.wallets() == [1500 * (step + 1)] * 3 + [0] * 7
        if dying.left >= 0:
            break
    assert points >= 8, "it died nowhere"
    async with place.sessions() as session:
        granted = (await session.scalars(select(Meter.credit_granted))).all()
        assert sum(granted) == 3 * 1500 * (points + 1)


async def test_two_payments_of_one_meter_in_a_batch_are_decided_one_after_the_other(place: Place) -> None:
    home = place.homes[0]
    ids = [await place.order(home, amount) for amount in (100, 200, 300)]
    assert await place.settle(*ids) == [None] * 3
    async with place.sessions() as session:
        totals = (await session.scalars(select(CreditGrant.total_after).order_by(CreditGrant.total_after))).all()
        commands = (await session.scalars(select(MeterCommand.value).where(MeterCommand.status == "QUEUED"))).all()
    assert max(totals) == 600
    assert commands == [600]
    assert (await place.wallets())[0] == 600


LEDGER = """
    SELECT count(DISTINCT t.id), a.kind, sum(e.amount_minor) FROM ledger_entries e
    JOIN ledger_accounts a ON a.id = e.account_id JOIN ledger_transactions t ON t.id = e.transaction_id
    GROUP BY a.kind ORDER BY a.kind"""


@settings(max_examples=int(os.environ.get("BATCH_EXAMPLES", "5")), deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(
    orders=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3000)), min_size=1, max_size=8),
    first=st.lists(st.integers(0, 7), min_size=1, max_size=10),
    second=st.lists(st.integers(0, 7), min_size=1, max_size=10),
)
def test_two_workers_at_once_end_where_one_by_one_ends(
    orders: list[tuple[int, int]], first: list[int], second: list[int]
) -> None:
    async def play() -> None:
        async with database_server() as server:
            ledgers = [await _ledger(server, orders, first, second, together=together) for together in (True, False)]
        assert ledgers[0] == ledgers[1]

    asyncio.run(play())


async def _ledger(
    server: DatabaseServer, orders: list[tuple[int, int]], first: list[int], second: list[int], *, together: bool
) -> list[Any]:
    async with server.clone() as url:
        engine = create_engine(url)
        try:
            place = await make_place(create_sessions(engine), 3)
            ids = [await place.order(place.homes[home], amount) for home, amount in orders]
            lots = [[ids[number % len(ids)] for number in lot] for lot in (first, second)]
            if together:
                await asyncio.gather(*(place.settle(*lot) for lot in lots))
            else:
                for one in [one for lot in lots for one in lot]:
                    await place.settle(one)
            # What was busy for the other worker is looked at again.
            await place.settle(*(one for lot in lots for one in lot))
            async with place.sessions() as session:
                rows = (await session.execute(text(LEDGER))).all()
            return [*map(tuple, rows), await place.wallets()]
        finally:
            await engine.dispose()


async def test_a_rail_that_stumbles_over_one_answer_costs_the_others_nothing(place: Place) -> None:
    good, bad = await place.order(place.homes[0]), await place.order(place.homes[1])
    fetch = place.rail.fetch

    async def stumbles(ref):
        truth = await fetch(ref)
        if truth.reference == bad:
            raise KeyError("status")
        return truth

    place.rail.fetch = stumbles
    outcomes = await place.settle(good, bad)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], KeyError)
    assert (await place.wallets())[:2] == [1500, 0]
