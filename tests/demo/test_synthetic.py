"""The synthetic utility is what the product itself would have made of the same readings, and its books are whole."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.charges import contract_for, period_use
from standpipe.billing.models import PeriodCharge, StandingCharged, Statement
from standpipe.billing.rounds import rate_now
from standpipe.billing.statement_body import StatementBody, is_balanced
from standpipe.billing.use import priced_use
from standpipe.households.models import Membership
from standpipe.ledger.dues import dues_of
from standpipe.ledger.models import Account, Entry, LedgerTransaction
from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.commands import lock_meter
from standpipe.meters.due import MeterDue
from standpipe.meters.models import CreditGrant, Meter, MeterCommand
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.outbox.models import OutboxFact
from standpipe.payments.models import TopUp
from standpipe.payments.past import book_past
from standpipe.payments.reconcile import make_report
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import new_id
from standpipe.platform.units import local_midnight, period_of
from standpipe.readings.models import DailyUsage, MonthlyUsage, Reading
from standpipe.readings.rollups import roll_up_first
from standpipe.tariffs.models import SupplyTerms
from standpipe_demo.synthetic.past import STEP_MINOR
from standpipe_demo.synthetic.utility import Scale, generate
from tests.support.command import standpipe
from tests.support.rating import take_report

NOW = datetime(2026, 11, 17, 9, 30, tzinfo=UTC)
_BALANCES = text("""
SELECT count(*) FROM ledger_accounts a WHERE guarded AND balance_minor <>
    (SELECT coalesce(sum(amount_minor), 0) FROM ledger_entries e WHERE e.account_id = a.id)
""")


def silent(_done: int, _total: int) -> None:
    return None


async def meters_of(sessions: Sessions) -> list[Meter]:
    async with sessions() as session:
        return list(await session.scalars(select(Meter).order_by(Meter.serial)))


async def twin_of(sessions: Sessions, meter: Meter) -> str:
    """A meter like another, without its history."""
    names = ("label", "utility_id", "household_id", "tariff_id", "wallet_kind", "currency", "time_zone")
    names += ("installed_at", "initial_register_ml")
    async with sessions.begin() as session:
        twin = Meter(id=new_id("mtr"), serial=f"T{meter.serial}", **{name: getattr(meter, name) for name in names})
        session.add(twin)
        await session.flush()
        terms = (await session.scalars(select(SupplyTerms).where(SupplyTerms.meter_id == meter.id))).one()
        session.add(SupplyTerms(
            meter_id=twin.id, from_day=terms.from_day, tariff_id=terms.tariff_id, household_id=terms.household_id
        ))  # fmt: skip
    return twin.id


async def rows_of(session: AsyncSession, model: Any, meter_id: str, *without: str) -> list[dict[str, Any]]:
    """A meter's rows of a table, but for what must differ from one meter to the next."""
    names = [name for name in model.__table__.columns.keys() if name not in {"meter_id", *without}]  # noqa: SIM118
    rows = await session.scalars(
        select(model).where(model.meter_id == meter_id).execution_options(populate_existing=True)
    )
    return sorted(({name: getattr(row, name) for name in names} for row in rows), key=repr)


async def test_roll_ups_and_charges_are_those_of_reports(sessions: Sessions) -> None:
    assert await generate(sessions, Scale(meters=3, months=12), NOW, more=False, progress=silent) == 3
    for meter in await meters_of(sessions):
        twin_id = await twin_of(sessions, meter)
        async with sessions.begin() as session:
            rows = await session.scalars(select(Reading).where(Reading.meter_id == meter.id).order_by(Reading.read_at))
            readings = tuple(RegisterReading(row.read_at, row.register_ml) for row in rows)
            assert len(readings) == 365 * 24 + 16 * 24 + 12
            for at in range(0, len(readings), 1000):
                await take_report(session, MeterReport(twin_id, NOW, readings[at : at + 1000]), NOW)
        async with sessions() as session:
            for model in (DailyUsage, MonthlyUsage, PeriodCharge):
                ours = await rows_of(session, model, meter.id, "revision")
                assert ours == await rows_of(session, model, twin_id, "revision")
                assert len(ours) >= 13


async def live_slowly(session: AsyncSession, meter: Meter, customer_id: str, month: date) -> None:
    """A month as the product would have lived it: a top-up is settled, then the month is charged."""
    zone, (start, end) = ZoneInfo(meter.time_zone), period_of(month)
    begins, ends = local_midnight(start, zone), min(local_midnight(end, zone) - timedelta(microseconds=1), NOW)
    use = await period_use(session, meter.id, await contract_for(session, meter), start)
    due_minor = (await dues_of(session, meter.id, begins)).standing_minor
    balance_minor = await wallet_balance_minor(session, meter.id, meter.currency)
    wanted_minor = priced_use(use).total_minor + due_minor - balance_minor
    if wanted_minor > 0:
        pay_minor = -(-wanted_minor // STEP_MINOR) * STEP_MINOR
        await book_past(session, meter, customer_id=customer_id, pay_minor=pay_minor, at=begins)
    await session.flush()
    await rate_now(await session.connection(), meter.id, ends, changed_days=frozenset({start}))
    await session.refresh(meter)


async def ledger_of(session: AsyncSession, meter_id: str) -> list[Any]:
    """Every line of every transaction that touches a meter's accounts, in order of time."""
    own = select(Entry.transaction_id).join(Account, Account.id == Entry.account_id).where(Account.owner_id == meter_id)
    rows = await session.execute(
        select(LedgerTransaction.kind, LedgerTransaction.occurred_at, Account.kind, Entry.amount_minor,
               Entry.account_version, Entry.balance_after_minor, Entry.floor_minor)
        .join(Entry, Entry.transaction_id == LedgerTransaction.id)
        .join(Account, Account.id == Entry.account_id)
        .where(LedgerTransaction.id.in_(own))
        .order_by(LedgerTransaction.occurred_at, LedgerTransaction.kind, Account.kind, Entry.amount_minor)
    )  # fmt: skip
    return list(rows.all())


async def test_the_past_is_booked_as_settling_and_charging_would(sessions: Sessions) -> None:
    await generate(sessions, Scale(meters=2, months=12), NOW, more=False, progress=silent)
    for meter in await meters_of(sessions):
        twin_id = await twin_of(sessions, meter)
        async with sessions.begin() as session:
            columns = "read_at, register_ml, quality, reason, received_at, counted_ml, claimed_at"
            copy = f"INSERT INTO readings (meter_id, {columns}) SELECT :twin, {columns} FROM readings"  # noqa: S608 - names.
            await session.execute(text(f"{copy} WHERE meter_id = :ours"), {"twin": twin_id, "ours": meter.id})
            twin = await lock_meter(session, twin_id)
            customers = select(Membership.customer_id).where(Membership.household_id == meter.household_id)
            customer_id = (await session.scalars(customers)).one()
            for month in await roll_up_first(session, twin):
                await live_slowly(session, twin, customer_id, month)
        async with sessions() as session:
            ours, theirs = await ledger_of(session, meter.id), await ledger_of(session, twin_id)
            assert ours == theirs
            assert len({line[0] for line in ours}) == 3
            for model, without in (
                (PeriodCharge, ()), (StandingCharged, ()),
                (TopUp, ("id", "rail_ref", "idempotency_key", "started_real_at", "due_at")),
                (CreditGrant, ("credit_key", "source_id", "sent_at", "confirmed_at")),
                (MeterCommand, ("id", "status", "created_at", "confirmed_at")),
            ):  # fmt: skip
                mine = await rows_of(session, model, meter.id, *without)
                assert mine == await rows_of(session, model, twin_id, *without)
                assert len(mine) >= 12
            fresh = [await session.get_one(Meter, name) for name in (meter.id, twin_id)]
            names = ("credit_granted", "last_sequence")
            assert [getattr(fresh[0], name) for name in names] == [getattr(fresh[1], name) for name in names]
            due = [await session.get_one(MeterDue, name) for name in (meter.id, twin_id)]
            assert due[0].accrued_through == due[1].accrued_through


async def test_the_books_of_the_synthetic_utility_are_whole(sessions: Sessions) -> None:
    await generate(sessions, Scale(meters=2, months=12), NOW, more=False, progress=silent)
    async with sessions() as session:
        assert await session.scalar(text("SELECT sum(amount_minor) FROM ledger_entries")) == 0
        assert await session.scalar(_BALANCES) == 0
        assert await session.scalar(text("SELECT min(balance_minor) >= 0 FROM ledger_accounts WHERE kind = 'WALLET'"))
        bodies = [StatementBody.model_validate(body) for body in await session.scalars(select(Statement.body))]
        assert len(bodies) == 2
        assert all(is_balanced(body) and body.accounts["WALLET"].opening_minor >= 0 for body in bodies)
        # Nothing of the past is news, or on its way to a meter.
        assert await session.scalar(select(func.count()).where(OutboxFact.due_at.is_not(None))) == 0
        assert set(await session.scalars(select(MeterCommand.status))) == {"SUPERSEDED", "CONFIRMED"}
        report = await make_report(session, {}, NOW, missing_after=timedelta(days=7))
        assert not report.differences


async def test_it_goes_on_only_where_it_is_asked_to(sessions: Sessions) -> None:
    await generate(sessions, Scale(meters=1, months=12), NOW, more=False, progress=silent)
    with pytest.raises(InvalidInputError, match="1 synthetic meters already"):
        await generate(sessions, Scale(meters=2, months=12), NOW, more=False, progress=silent)
    assert await generate(sessions, Scale(meters=2, months=12), NOW, more=True, progress=silent) == 1
    assert [meter.serial for meter in await meters_of(sessions)] == ["GEN0001", "GEN0002"]


async def test_the_command_makes_meters_and_shows_where_they_lie(
    sessions: Sessions, database_url: str, tmp_path: Path
) -> None:
    words = ("generate", "--years", "1", "--meters")
    made = standpipe(database_url, tmp_path, *words, "2")
    assert (made.returncode, made.stdout) == (0, "2 meters made; there are 2.\n"), made.stderr
    again = standpipe(database_url, tmp_path, *words, "3")
    assert (again.returncode, "already" in again.stderr) == (1, True)
    assert "1 meters made; there are 3." in standpipe(database_url, tmp_path, *words, "3", "--more").stdout
    async with sessions() as session:
        rows = await session.execute(text("SELECT tableoid::regclass::text, count(*) FROM readings GROUP BY 1"))
        months = dict(rows.all())
    # A month each, and none in what lies before the first or after the last.
    assert len(months) == 14
    assert not {"readings_first", "readings_rest"} & set(months)
    # Its months are closed by statements, so that they can be let go.
    key = standpipe(database_url, tmp_path, "operator", "add", "amina").stdout.strip()
    gone = standpipe(database_url, tmp_path, "storage", "retain", "--months", "6", operator_key=key)
    assert (gone.returncode, "dropped" in gone.stdout) == (0, True), gone.stderr
