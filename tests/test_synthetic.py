"""The synthetic utility is what the product itself would have made of the same readings, and its books are whole."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from standpipe.db.engine import Sessions
from standpipe.errors import InvalidInputError
from standpipe.ids import new_id
from standpipe.meters.models import Meter, MeterCommand
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.outbox.models import OutboxFact
from standpipe.payments.reconcile import make_report
from standpipe.synthetic import Scale, generate
from standpipe.tariffs.models import SupplyTerms
from standpipe.usage.models import DailyUsage, MonthlyUsage, PeriodCharge, Reading, Statement
from standpipe.usage.readings import take_report
from standpipe.usage.statement_body import StatementBody, is_balanced
from tests.support.command import standpipe

_BALANCES = text("""
SELECT count(*) FROM ledger_accounts a WHERE guarded AND balance_minor <>
    (SELECT coalesce(sum(amount_minor), 0) FROM ledger_entries e WHERE e.account_id = a.id)
""")


def silent(_done: int, _total: int) -> None:
    return None


async def meters_of(sessions: Sessions) -> list[Meter]:
    async with sessions() as session:
        return list(await session.scalars(select(Meter).order_by(Meter.serial)))


async def twin_of(sessions: Sessions, meter: Meter, now: datetime) -> str:
    """A meter like another, whose readings come in by reports."""
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
        rows = await session.scalars(select(Reading).where(Reading.meter_id == meter.id).order_by(Reading.read_at))
        readings = tuple(RegisterReading(row.read_at, row.register_ml) for row in rows)
        for at in range(0, len(readings), 1000):
            await take_report(session, MeterReport(twin.id, now, readings[at : at + 1000]), now)
    return twin.id


async def test_roll_ups_and_charges_are_those_of_reports(sessions: Sessions) -> None:
    now = datetime(2026, 11, 17, 9, 30, tzinfo=UTC)
    assert await generate(sessions, Scale(meters=3, years=1), now, more=False, progress=silent) == 3
    for meter in await meters_of(sessions):
        twin_id = await twin_of(sessions, meter, now)
        async with sessions() as session:
            for model in (DailyUsage, MonthlyUsage, PeriodCharge):
                found: list[list[dict[str, Any]]] = []
                for meter_id in (meter.id, twin_id):
                    names = [name for name in model.__table__.columns.keys() if name not in {"meter_id", "revision"}]  # noqa: SIM118
                    rows = await session.scalars(select(model).where(model.meter_id == meter_id))
                    found.append(sorted(({n: getattr(row, n) for n in names} for row in rows), key=repr))
                assert found[0] == found[1]
                assert len(found[0]) >= 13
            sums = select(func.count(), func.count(Reading.counted_ml)).where(Reading.meter_id == meter.id)
            assert (await session.execute(sums)).one() == (365 * 24 + 16 * 24 + 12,) * 2


async def test_the_books_of_the_synthetic_utility_are_whole(sessions: Sessions) -> None:
    now = datetime(2026, 11, 17, 9, 30, tzinfo=UTC)
    await generate(sessions, Scale(meters=2, years=1), now, more=False, progress=silent)
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
        report = await make_report(session, {}, now, missing_after=timedelta(days=7))
        assert not report.differences


async def test_it_goes_on_only_where_it_is_asked_to(sessions: Sessions) -> None:
    now = datetime(2026, 11, 17, 9, 30, tzinfo=UTC)
    await generate(sessions, Scale(meters=1, years=1), now, more=False, progress=silent)
    with pytest.raises(InvalidInputError, match="1 synthetic meters already"):
        await generate(sessions, Scale(meters=2, years=1), now, more=False, progress=silent)
    assert await generate(sessions, Scale(meters=2, years=1), now, more=True, progress=silent) == 1
    assert [meter.serial for meter in await meters_of(sessions)] == ["GEN0001", "GEN0002"]


async def test_the_command_makes_meters_and_shows_where_they_lie(
    sessions: Sessions, database_url: str, tmp_path: Path
) -> None:
    words = ("storage", "generate", "--years", "1", "--meters")
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
    assert not {"readings_legacy", "readings_rest"} & set(months)
    # Its months are closed by statements, so that they can be let go.
    gone = standpipe(database_url, tmp_path, "storage", "retain", "--months", "6")
    assert (gone.returncode, "dropped" in gone.stdout) == (0, True), gone.stderr
