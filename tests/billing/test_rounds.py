"""Rounds of ratings: busy, broken, killed and raced for; in few statements (docs/decisions: rounds)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text

from standpipe.billing import rating_load, rounds
from standpipe.billing.models import PeriodCharge
from standpipe.engine.batcher import BusyError
from standpipe.ledger.models import Account, Entry, LedgerTransaction
from standpipe.meters import due
from standpipe.meters.due import Claimed, MeterDue, failing_meters, mark_due
from standpipe.meters.models import Meter, MeterCommand
from standpipe.meters.reports import RegisterReading
from standpipe.platform import metrics
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.units import local_midnight
from standpipe.readings.models import RawReport
from standpipe.readings.raw import RawReadings, store_raw
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.publishing import publish
from tests.support.rating import rate_due
from tests.support.statements import counted
from tests.support.town import Home, make_home, make_settings, make_utility
from tests.support.water import state

ZONE = "Africa/Nairobi"
START = datetime(2026, 3, 20, tzinfo=UTC)
NOW = datetime(2026, 6, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
TARIFF = """
tariff: homes
name: Homes
currency: KES
effective-from: 2020-01-01
blocks: [{up-to-kl: 6, price: 53.455}, {price: 95.10}]
standing-charges:
  - {code: rent, name: Rent, amount: 300, per: month}
"""


class Stopped(Clock):
    """A clock that a test sets."""

    def __init__(self, at: datetime) -> None:
        object.__setattr__(self, "at", at)

    def now(self) -> datetime:
        at: datetime = self.at  # type: ignore[attr-defined]
        return at


async def homes_of(sessions: Sessions, count: int) -> list[Home]:
    utility_id, _ = await make_utility(sessions, ZONE)
    async with sessions.begin() as session:
        file = read_tariff(TARIFF, "homes.yaml")
        made = await publish(session, utility_id=utility_id, utility_currency="KES", file=file, today=date(2020, 1, 1))
    return [
        await make_home(sessions, make_settings(), utility_id, made.tariff_id, installed_at=START, zone=ZONE)
        for _ in range(count)
    ]


async def tell(sessions: Sessions, meter_ids: Sequence[str], *told: tuple[datetime, int]) -> None:
    readings = tuple(RegisterReading(*one) for one in told)
    async with sessions.begin() as session:
        conn = await session.connection()
        await store_raw(conn, [RawReadings(meter_id, NOW, readings) for meter_id in meter_ids])
        await mark_due(conn, meter_ids)


async def run(sessions: Sessions, sql: str, **values: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(text(sql), values)


async def leases_end(sessions: Sessions) -> None:
    await run(sessions, "UPDATE meter_due SET lease_until = now() - interval '1 second'")


async def due_row(sessions: Sessions, meter_id: str) -> MeterDue:
    async with sessions() as session:
        return await session.get_one(MeterDue, meter_id)


async def books(sessions: Sessions, meter_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """Every line of the meters' accounts, without what is another at each try: ids."""
    async with sessions() as session:
        rows = await session.execute(
            select(
                *(LedgerTransaction.kind, Account.kind, Entry.amount_minor, Entry.balance_after_minor),
                *(Entry.account_version, Account.owner_id),
            )
            .join(Entry, Entry.transaction_id == LedgerTransaction.id)
            .join(Account, Account.id == Entry.account_id)
            .where(Account.owner_id.in_(meter_ids))
        )
        return sorted((kind, account, *rest, meter_ids.index(owner)) for kind, account, *rest, owner in rows)


@asynccontextmanager
async def held(sessions: Sessions, meter_id: str) -> AsyncIterator[None]:
    """Somebody's session holds a meter's row."""
    async with sessions.begin() as session:
        await session.get(Meter, meter_id, with_for_update=True)
        yield


async def test_a_full_round_takes_at_most_forty_statements(sessions: Sessions) -> None:
    homes = await homes_of(sessions, 200)
    ids = [home.meter_id for home in homes]
    await run(sessions, "UPDATE utilities SET cut_off = 'NEVER', guaranteed_ml = 500000")
    await tell(sessions, ids, *((NOW - n * HOUR, 400_000 - n * 1_000) for n in range(24 * 40)))
    with counted(sessions) as sent:
        assert await rounds.rate_due(sessions, Stopped(NOW)) == 200
    sent.at_most(40)
    assert (await state(sessions, homes[7]))["charges"]
    with counted(sessions) as sent:
        await tell(sessions, ids, (NOW + HOUR / 60, 400_500))
        assert await rounds.rate_due(sessions, Stopped(NOW + HOUR)) == 200
    sent.at_most(40)


async def test_of_a_batch_of_two_hundred_the_sound_ones_are_rated_whatever_the_others_are(sessions: Sessions) -> None:
    homes = await homes_of(sessions, 198)
    ids = [home.meter_id for home in homes]
    poison, locked, twice = ids[5], ids[77], ids[100]
    await tell(sessions, ids, (NOW - HOUR, 7_000_000))
    # A number that is taken already: only the database notices.
    await run(sessions, "UPDATE utilities SET cut_off = 'NEVER'")
    await run(
        sessions,
        "INSERT INTO meter_commands (id, meter_id, sequence, kind, value, status) "
        "VALUES ('cmd_taken', :meter_id, 1, 'VALVE', 0, 'EXPIRED')",
        meter_id=poison,
    )
    claimed = [Claimed(meter_id, 2, 1) for meter_id in (*ids, twice, "mtr_unknown")]
    engine = sessions.kw["bind"]
    async with held(sessions, locked):
        answers = await rounds.work_off(
            lambda batch: rounds._rate(engine, NOW, batch), claimed, name="test", again_after_s=()
        )
    assert len(answers) == 200
    bad = {one.meter_id: type(answer) for one, answer in zip(claimed, answers, strict=True) if answer is not None}
    assert {bad.pop(locked), bad.pop("mtr_unknown")} == {BusyError}
    assert list(bad) == [poison]
    async with sessions() as session:
        charged = list(await session.scalars(select(PeriodCharge.meter_id)))
    assert sorted(charged) == sorted(set(ids) - {poison, locked})


async def test_one_that_fails_rests_with_its_reason_and_comes_back(sessions: Sessions) -> None:
    homes = await homes_of(sessions, 3)
    ids = [home.meter_id for home in homes]
    await tell(sessions, ids, (NOW - HOUR, 1_000_000))
    await run(sessions, "UPDATE utilities SET cut_off = 'NEVER'")
    await run(
        sessions,
        "INSERT INTO meter_commands (id, meter_id, sequence, kind, value, status) "
        "VALUES ('cmd_taken', :meter_id, 1, 'VALVE', 0, 'EXPIRED')",
        meter_id=ids[1],
    )
    assert await rate_due(sessions, Stopped(NOW)) == 3
    row = await due_row(sessions, ids[1])
    assert (row.attempts, row.marked_at is None) == (1, False)
    assert "IntegrityError" in (row.last_error or "")
    assert [bool((await state(sessions, home))["charges"]) for home in homes] == [True, False, True]
    assert await rate_due(sessions, Stopped(NOW)) == 0
    await run(sessions, "DELETE FROM meter_commands WHERE id = 'cmd_taken'")
    await leases_end(sessions)
    assert await rate_due(sessions, Stopped(NOW)) == 1
    assert (await due_row(sessions, ids[1])).last_error is None
    assert await state(sessions, homes[1]) == await state(sessions, homes[0])


async def test_a_meter_that_somebody_holds_keeps_no_other_waiting(sessions: Sessions) -> None:
    homes = await homes_of(sessions, 4)
    await tell(sessions, [home.meter_id for home in homes], (NOW - HOUR, 1_000_000))
    async with held(sessions, homes[2].meter_id), asyncio.timeout(5):
        assert await rate_due(sessions, Stopped(NOW)) == 4
        assert [bool((await state(sessions, home))["charges"]) for home in homes] == [True, True, False, True]
    row = await due_row(sessions, homes[2].meter_id)
    assert (row.attempts, row.last_error) == (0, None)
    await leases_end(sessions)
    assert await rate_due(sessions, Stopped(NOW)) == 1
    assert (await state(sessions, homes[2]))["charges"]


class Killed(BaseException):
    """The process is gone."""


async def killed_at(sessions: Sessions, number: int) -> bool:
    """A round whose process dies before its n-th statement or commit; False where it has fewer."""
    engine = sessions.kw["bind"].sync_engine
    left = number

    def count(*_args: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    event.listen(engine, "before_cursor_execute", count)
    event.listen(engine, "commit", count)
    try:
        await rounds.rate_due(sessions, Stopped(NOW))
    except Killed:
        return True
    finally:
        event.remove(engine, "before_cursor_execute", count)
        event.remove(engine, "commit", count)
    return False


async def test_killed_at_any_point_it_is_as_if_it_had_never_begun_and_the_next_round_ends_it(
    sessions: Sessions,
) -> None:
    homes = await homes_of(sessions, 3)
    ids = [home.meter_id for home in homes]
    await tell(sessions, ids, (NOW - 40 * 24 * HOUR, 3_000_000), (NOW - HOUR, 9_000_000))
    await run(sessions, "UPDATE utilities SET cut_off = 'NEVER'")
    number, stopped = 0, 0
    while await killed_at(sessions, number := number + 1):
        stopped += 1
        assert await books(sessions, ids) == []
        async with sessions() as session:
            assert len((await session.scalars(select(RawReport))).all()) == 3
        await leases_end(sessions)
    assert stopped > 20
    assert len(await books(sessions, ids)) == 3 * 3, "two months of water, and this month's standing charge"
    async with sessions() as session:
        assert (await session.scalars(select(RawReport))).all() == []
    charged = [await state(sessions, home) for home in homes]
    assert charged[0] == charged[1] == charged[2]
    assert sum(charged[0]["days"].values()) == 9_000_000


async def test_marked_while_it_is_being_rated_it_is_rated_again(sessions: Sessions) -> None:
    [home] = await homes_of(sessions, 1)
    await tell(sessions, [home.meter_id], (NOW - 2 * HOUR, 1_000_000))
    engine = sessions.kw["bind"]
    async with engine.begin() as conn:
        claimed = await rounds.due.claim(conn, NOW)
    await tell(sessions, [home.meter_id], (NOW - HOUR, 2_000_000))
    # What came before the load is in it; the mark stays all the same.
    assert await rounds._rate(engine, NOW, claimed) == [None]
    assert sum((await state(sessions, home))["days"].values()) == 2_000_000
    assert await rate_due(sessions, Stopped(NOW)) == 1
    assert await rate_due(sessions, Stopped(NOW)) == 0


async def test_the_clock_jumps_a_month_each_months_charge_comes_once_and_in_order(sessions: Sessions) -> None:
    [home] = await homes_of(sessions, 1)
    zone = ZoneInfo(ZONE)
    for at in (START, datetime(2026, 4, 2, tzinfo=UTC), NOW, NOW, NOW + HOUR):
        await rate_due(sessions, Stopped(at))
    async with sessions() as session:
        rows = (
            await session.execute(
                select(LedgerTransaction.key, LedgerTransaction.occurred_at, Entry.amount_minor)
                .join(Entry, Entry.transaction_id == LedgerTransaction.id)
                .join(Account, Account.id == Entry.account_id)
                .where(Account.owner_id == home.meter_id)
                .order_by(Entry.account_version)
            )
        ).all()
    assert [(row.key.split(":")[2:], row.amount_minor) for row in rows] == [
        (["2026-03-01", "r1"], -round(30_000 * 12 / 31)),
        (["2026-04-01", "r1"], -30_000),
        (["2026-05-01", "r1"], -30_000),
        (["2026-06-01", "r1"], -30_000),
    ]
    assert rows[2].occurred_at < local_midnight(date(2026, 6, 1), zone) <= rows[3].occurred_at


async def test_who_takes_money_away_goes_by_all_that_was_told(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    [home] = await homes_of(sessions, 1)
    for day in range(5):
        await tell(sessions, [home.meter_id], (START + timedelta(days=day + 1), 1_000_000 * (day + 1)))
    monkeypatch.setattr(rating_load, "MAX_READINGS", 2)
    async with sessions.begin() as session:
        await rounds.rate_now(await session.connection(), home.meter_id, NOW)
    assert await waiting_reports(sessions) == 0
    assert sum(one.volume_ml for one in await charges(sessions)) == 5_000_000


async def waiting_reports(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(RawReport)) or 0


async def charges(sessions: Sessions) -> list[PeriodCharge]:
    async with sessions() as session:
        return list(await session.scalars(select(PeriodCharge)))


async def test_a_rule_about_zero_credit_that_no_instant_names_is_met_by_the_sweep(sessions: Sessions) -> None:
    [home] = await homes_of(sessions, 1)
    await rate_due(sessions, Stopped(NOW))
    await run(sessions, "UPDATE utilities SET cut_off = 'TRICKLE'")
    await run(sessions, "UPDATE meter_due SET marked_at = NULL, due_next_at = NULL")
    before = metrics.RATED_LATE._value.get()
    await rounds.sweep(sessions, Stopped(NOW + timedelta(hours=30)))
    assert metrics.RATED_LATE._value.get() == before + 1
    async with sessions() as session:
        assert await session.scalar(select(Meter.at_zero).where(Meter.id == home.meter_id)) == "TRICKLE"


async def test_a_forgotten_instant_is_met_by_the_sweep_and_counted(sessions: Sessions) -> None:
    homes = await homes_of(sessions, 2)
    await rate_due(sessions, Stopped(NOW))
    before = metrics.RATED_LATE._value.get()
    await rounds.sweep(sessions, Stopped(NOW + timedelta(hours=30)))
    assert metrics.RATED_LATE._value.get() == before, "what is due by its instant is nobody's oversight"
    await run(
        sessions, "UPDATE meter_due SET due_next_at = NULL WHERE meter_id = :meter_id", meter_id=homes[0].meter_id
    )
    await rounds.sweep(sessions, Stopped(NOW + timedelta(days=31)))
    assert metrics.RATED_LATE._value.get() == before + 1
    assert (await due_row(sessions, homes[0].meter_id)).due_next_at is not None


REFUSED = """
    UPDATE meter_commands SET status = 'REJECTED', attempts = 1, reason = :reason WHERE kind = 'AT_ZERO'"""


@pytest.mark.parametrize(("reason", "told"), [("UNSUPPORTED", 1), ("UNSUPPORTED: no such object", 1), ("BAD_MAC", 2)])
async def test_m22_what_a_meter_cannot_be_told_is_not_queued_again(sessions: Sessions, reason: str, told: int) -> None:
    [home] = await homes_of(sessions, 1)
    await run(sessions, "UPDATE utilities SET cut_off = 'TRICKLE'")
    await rate_due(sessions, Stopped(NOW))
    await run(sessions, REFUSED, reason=reason)
    await run(sessions, "UPDATE utilities SET cut_off = 'NEVER'")
    await tell(sessions, [home.meter_id], (NOW, 1_000))
    await rate_due(sessions, Stopped(NOW + HOUR))
    async with sessions() as session:
        statuses = (await session.scalars(select(MeterCommand.status).where(MeterCommand.kind == "AT_ZERO"))).all()
    assert len(statuses) == told
    assert (await state(sessions, home))["days"]


async def test_what_the_sweep_rates_no_round_rates_before_it(sessions: Sessions) -> None:
    await homes_of(sessions, 3)
    await rate_due(sessions, Stopped(NOW))
    await run(sessions, "UPDATE meter_due SET due_next_at = NULL")
    later = NOW + timedelta(days=2)
    async with sessions.kw["bind"].begin() as conn:
        first = await due.claim_stale(conn, later, later, most=2)
    assert len(first) == 2
    async with sessions.kw["bind"].begin() as conn:
        assert await due.claim(conn, later) == [], "marked, and leased by the sweep"
        assert len(await due.claim_stale(conn, later, later)) == 1
        assert await due.claim_stale(conn, later, later) == []


async def test_guaranteed_water_that_costs_otherwise_is_a_change(sessions: Sessions) -> None:
    await homes_of(sessions, 1)
    await rate_due(sessions, Stopped(NOW))
    await run(sessions, "UPDATE utilities SET guaranteed_ml = 6000000")
    await run(sessions, "UPDATE meter_due SET marked_at = NULL, due_next_at = NULL")
    before = metrics.RATED_LATE._value.get()
    await run(sessions, "UPDATE meter_due SET accrued_through = '2100-01-01'")
    await rounds.sweep(sessions, Stopped(NOW + timedelta(hours=30)))
    assert metrics.RATED_LATE._value.get() == before + 1


HOURS = st.integers(1, 24 * 60)
REPORTS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.tuples(HOURS, st.sampled_from([0, 0, 0, 900, 10**11])), max_size=5)),
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=REPORTS)
async def test_two_workers_in_batches_come_to_the_ledger_of_one_by_one(
    sessions: Sessions, reports: list[tuple[int, list[tuple[int, int]]]]
) -> None:
    homes = await homes_of(sessions, 6)
    together, alone = [home.meter_id for home in homes[:3]], [home.meter_id for home in homes[3:]]
    for which, told in reports:
        readings = [(START + hour * HOUR, hour * 20_000 + bent) for hour, bent in told]
        await tell(sessions, [together[which]], *readings)
        await tell(sessions, [alone[which]], *readings)
        async with sessions.begin() as session:
            await rounds.rate_now(await session.connection(), alone[which], NOW)
    async with sessions.begin() as session:
        for meter_id in alone:
            await rounds.rate_now(await session.connection(), meter_id, NOW)
    await asyncio.gather(*(rate_due(sessions, Stopped(NOW), most=2) for _ in range(2)))
    # One by one a charge moves in more steps: the same sums in every account, days and periods.
    for home, twin in zip(homes[:3], homes[3:], strict=True):
        assert await state(sessions, home) == await state(sessions, twin)
    sums = [
        {(account, owner): sum(row[2] for row in rows if (row[1], row[5]) == (account, owner))
         for account in ("WALLET", "STANDING_DUE") for owner in range(3)}
        for rows in (await books(sessions, together), await books(sessions, alone))
    ]  # fmt: skip
    assert sums[0] == sums[1]


async def test_the_office_lists_who_could_not_be_rated_and_why(sessions: Sessions) -> None:
    homes = await homes_of(sessions, 2)
    await run(
        sessions,
        "INSERT INTO tariffs (id, utility_id, code, name, currency, basis) "
        "SELECT 'trf_bare', utility_id, 'bare', 'bare', currency, basis FROM tariffs LIMIT 1",
    )
    await run(sessions, "UPDATE meters SET tariff_id = 'trf_bare' WHERE id = :meter_id", meter_id=homes[0].meter_id)
    assert await rate_due(sessions, Stopped(NOW)) == 2
    async with sessions() as session:
        [failing] = await failing_meters(await session.connection())
    assert (failing.serial, failing.attempts) == (homes[0].serial, 1)
    assert failing.error == "NotFoundError: This tariff has no prices."
    assert failing.again_at is not None
