"""Statements through GraphQL: to the cent what the ledger says, closed once, adjusted later."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from standpipe.billing.models import Statement
from standpipe.billing.statement_body import (
    is_balanced,
)
from standpipe.billing.statements import ACCOUNTS, issue, statement_by_month
from standpipe.ledger.models import Account, AccountKind, Entry, LedgerTransaction
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.due import MeterDue
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.payments.arrears import add_arrears
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import local_midnight, period_of
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.publishing import publish
from standpipe.utilities.models import Utility
from tests.support.june import (
    APRIL,
    INSTALLED,
    JUNE,
    MAY,
    NOW,
    ZONE,
    add_home,
    asked,
    close,
    minor,
    read,
    statement,
)
from tests.support.lengths import rounds
from tests.support.rating import close_months, take_report
from tests.support.town import Town, make_home, make_settings, make_utility

TARIFF = """
tariff: rich
name: Rich
currency: KES
effective-from: 2020-01-01
blocks:
  - {up-to-kl: 6, price: 53.455}
  - {up-to-kl: 20, price: 95.10}
  - {price: 130.00}
standing-charges:
  - {code: meter-rent, name: Meter rent, amount: 150.00, per: month}
levies:
  - {code: regulatory, name: Regulatory levy, percent: 4, of: [water]}
  - {code: vat, name: VAT, percent: 16, of: [meter-rent]}
"""


async def test_an_open_month_shows_how_it_stands(june: Town) -> None:
    await read(june, (datetime(2026, 5, 30, tzinfo=UTC), 4_000_000), (datetime(2026, 6, 10, tzinfo=UTC), 16_000_000))
    await june.pay_by_card("500.00")
    await june.poll()
    found = await statement(june, JUNE)
    assert (found["number"], found["month"], found["volume"]["litres"]) == (None, "2026-06-01", "12000")
    assert minor(found["opening"]) == -20_000
    assert [(item["code"], minor(item["amount"])) for item in found["charges"]] == [
        ("WATER", 50_000),
        ("WATER", 20_000),
    ]
    assert found["charges"][1]["label"] == "Water, block 2: 2.0 m³ × KES100.00/m³"
    [paid] = found["movements"]
    assert (paid["code"], minor(paid["paid"]), minor(paid["credit"])) == ("TOP_UP", 50_000, 50_000)
    assert paid["label"] == "Top-up (paid KES500.00)"
    assert minor(found["closing"]) == await june.wallet() == -40_000
    assert found["accounts"][0]["code"] == "WALLET"
    # Any day of the month names it.
    assert (await statement(june, date(2026, 6, 30)))["closing"] == found["closing"]


async def test_a_late_reading_in_a_closed_month_is_an_adjustment_of_the_open_one(june: Town) -> None:
    await read(june, (datetime(2026, 4, 29, tzinfo=UTC), 6_000_000), (datetime(2026, 5, 20, tzinfo=UTC), 17_000_000))
    for month in (APRIL, MAY):
        assert await close(june, month) is not None
    closed = await statement(june, APRIL)
    assert (closed["number"], minor(closed["chargesTotal"])) == ("000001", 30_000)
    assert [minor((await statement(june, month))["chargesTotal"]) for month in (APRIL, MAY)] == [30_000, 60_000]
    # Four of May's eleven kilolitres had run in April.
    await read(june, (datetime(2026, 4, 30, 12, tzinfo=UTC), 10_000_000))
    shown = await statement(june, JUNE)
    assert [(item["month"], minor(item["was"]), minor(item["now"])) for item in shown["adjustments"]] == [
        ("2026-04-01", 30_000, 50_000), ("2026-05-01", 60_000, 35_000),
    ]  # fmt: skip
    assert [line["code"] for line in shown["adjustments"][0]["lines"]] == ["WATER"]
    # What was closed stands as it was.
    assert await statement(june, APRIL) | {"pdf": ""} == closed | {"pdf": ""}
    # And a second one goes on from what the first had told.
    await read(june, (datetime(2026, 4, 30, 18, tzinfo=UTC), 10_500_000))
    again = await statement(june, JUNE)
    # Still one adjustment for each month, for June is open.
    assert [(item["month"], minor(item["was"]), minor(item["now"])) for item in again["adjustments"]] == [
        ("2026-04-01", 30_000, 55_000), ("2026-05-01", 60_000, 32_500),
    ]  # fmt: skip
    assert minor(again["closing"]) == await june.wallet()


async def test_each_statement_goes_on_from_what_the_last_one_told(june: Town) -> None:
    """Two late readings for April, told in two later statements."""
    await read(june, (datetime(2026, 4, 29, tzinfo=UTC), 6_000_000))
    await close(june, APRIL)
    await read(june, (datetime(2026, 4, 30, 12, tzinfo=UTC), 7_000_000))
    await close(june, MAY)
    await read(june, (datetime(2026, 4, 30, 18, tzinfo=UTC), 9_000_000))
    [may], [last] = (await statement(june, MAY))["adjustments"], (await statement(june, JUNE))["adjustments"]
    assert [minor(may[name]) for name in ("was", "now", "difference")] == [30_000, 35_000, 5_000]
    assert [minor(last[name]) for name in ("was", "now", "difference")] == [35_000, 45_000, 10_000]


async def test_standing_charges_and_debts_have_accounts_of_their_own(june: Town) -> None:
    async with june.sessions.begin() as session:
        found = await publish(
            session,
            utility_id=june.utility_id,
            utility_currency="KES",
            file=read_tariff(TARIFF),
            today=NOW.date(),
        )
        session.add(SupplyTerms(meter_id=june.home.meter_id, from_day=JUNE, tariff_id=found.tariff_id))
        await add_arrears(
            *(session,), operator="amina", meter_id=june.home.meter_id, amount_minor=90_000, reference="B", now=NOW
        )
    await read(june, (datetime(2026, 6, 2, tzinfo=UTC), 1_000_000))
    await june.pay_by_card("500.00")
    await june.poll()
    shown = await statement(june, JUNE)
    assert [(item["code"], minor(item["amount"])) for item in shown["standingCharges"]] == [
        ("meter-rent", 15_000), ("vat", 2_400),
    ]  # fmt: skip
    assert shown["standingCharges"][0]["label"] == "Meter rent, 30 days"
    assert {item["code"]: minor(item["closing"]) for item in shown["accounts"]} == {
        "WALLET": await june.wallet(), "STANDING_DUE": 0, "RECEIVABLE": -90_000 + 12_500, "EMERGENCY": 0,
    }  # fmt: skip
    assert [item["code"] for item in shown["movements"]] == ["ARREARS", "TOP_UP"]
    assert [item["code"] for item in shown["charges"]] == ["WATER", "regulatory"]


async def test_t6_prices_that_change_within_a_month_are_prorated_and_explained(june: Town) -> None:
    async with june.sessions.begin() as session:
        for text, today in (
            (TARIFF, NOW.date()),
            # Announced in April, for the middle of May.
            (TARIFF.replace("2020-01-01", "2026-05-16").replace("95.10", "200.00"), date(2026, 4, 20)),
        ):
            found = await publish(
                *(session,), utility_id=june.utility_id, utility_currency="KES", file=read_tariff(text), today=today
            )
        session.add(SupplyTerms(meter_id=june.home.meter_id, from_day=APRIL, tariff_id=found.tariff_id))
        (await session.get_one(MeterDue, june.home.meter_id)).accrued_through = date(2026, 4, 30)
    start = local_midnight(MAY, ZONE)
    await read(june, (start, 0), (start + timedelta(days=15), 6_000_000), (start + timedelta(days=31), 12_000_000))
    may = await statement(june, MAY)
    labels = [item["label"] for item in may["charges"] if item["code"] == "WATER"]
    # 15 and 16 of 31 days, and so many 31sts of the six kilolitres of the first block.
    assert labels == [
        "Water, block 1: 2.903 m³ × KES53.455/m³", "Water, block 2: 3.097 m³ × KES95.10/m³",
        "Water, block 1: 3.097 m³ × KES53.455/m³", "Water, block 2: 2.903 m³ × KES200.00/m³",
    ]  # fmt: skip
    assert [item["label"] for item in may["standingCharges"]] == [
        "Meter rent, 15 days", "VAT", "Meter rent, 16 days", "VAT",
    ]  # fmt: skip
    assert sum(minor(item["amount"]) for item in may["standingCharges"]) == 17_400


@pytest.mark.parametrize("month", ["2026-07-01", "9999-12-31", "0001-01-01", "2026-02-28", "1900-01-01"])
async def test_months_that_have_no_statement(june: Town, month: str) -> None:
    payload = await asked(june, month)
    assert (payload["statement"], payload["userErrors"]) == (None, [{"code": "INVALID", "field": ["month"]}])


# --- Closing ---


async def test_a_month_is_closed_once_and_in_order(june: Town) -> None:
    assert await close(june, MAY) is not None
    assert await close(june, MAY) is None
    # Before the first one, or beyond the next: neither follows the last.
    assert await close(june, APRIL) is None
    for month in (JUNE, date(9999, 12, 1)):
        with pytest.raises(InvalidInputError, match="not ended"):
            await close(june, month)
    with pytest.raises(InvalidInputError, match="not there yet"):
        await close(june, date(2026, 2, 1))
    assert await june.count(Statement) == 1


async def test_the_worker_closes_what_is_due_and_numbers_it_without_gaps(june: Town) -> None:
    homes = [june.home, *[await add_home(june) for _ in range(4)]]
    for home in homes:
        await read(june, (datetime(2026, 5, 20, tzinfo=UTC), 1_000_000), home=home)
    # Two workers at once; and a third that finds nothing left.
    await asyncio.gather(*(close_months(june.sessions, june.settings.clock) for _ in range(2)))
    await close_months(june.sessions, june.settings.clock)
    async with june.sessions() as session:
        made = (await session.scalars(select(Statement).order_by(Statement.number))).all()
    assert {(item.meter_id, item.period_start) for item in made} >= {(home.meter_id, MAY) for home in homes}
    assert [item.number for item in made] == list(range(1, len(made) + 1))


async def test_a_meter_out_of_service_has_statements_until_all_is_told(june: Town) -> None:
    gone, paid_back = await add_home(june), await add_home(june)
    async with june.sessions.begin() as session:
        for home in (gone, paid_back):
            (await session.get_one(Meter, home.meter_id)).closed_at = datetime(2026, 4, 10, tzinfo=UTC)
        await add_arrears(
            session, operator="op", meter_id=paid_back.meter_id, amount_minor=500, reference="late",
            now=datetime(2026, 5, 9, tzinfo=UTC),
        )  # fmt: skip
    never = await add_home(june)
    async with june.sessions.begin() as session:
        (await session.get_one(Meter, never.meter_id)).closed_at = datetime(2026, 4, 10, tzinfo=UTC)
    for home in (gone, paid_back):
        assert await close(june, APRIL, home) is not None
    for _ in range(4):
        await close_months(june.sessions, june.settings.clock)
    async with june.sessions() as session:
        rows = (await session.execute(select(Statement.meter_id, Statement.period_start))).all()
    months = {
        home.meter_id: {month for meter_id, month in rows if meter_id == home.meter_id}
        for home in (gone, paid_back, never, june.home)
    }
    assert months.pop(never.meter_id) == {APRIL}
    assert months == {gone.meter_id: {APRIL}, paid_back.meter_id: {APRIL, MAY}, june.home.meter_id: {MAY}}


async def test_late_readings_are_waited_for_as_long_as_the_utility_says(june: Town) -> None:
    async with june.sessions.begin() as session:
        await session.execute(update(Utility).values(statement_after_days=20))
    await close_months(june.sessions, june.settings.clock)
    async with june.sessions() as session:
        months = set((await session.scalars(select(Statement.period_start))).all())
    assert months == {APRIL}


RANDOM_STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 40 * 24), st.integers(0, 3_000_000)),
    st.tuples(st.just("late"), st.integers(1, 90 * 24), st.integers(0, 100)),
    st.tuples(st.just("pay"), st.integers(0, 10 * 24), st.integers(1, 1_000_000)),
    st.tuples(st.just("owe"), st.integers(0, 24), st.integers(1, 1_000_000)),
    st.tuples(st.just("close"), st.integers(0, 5 * 24), st.just(0)),
)


@given(st.lists(RANDOM_STEP, min_size=3, max_size=20))
@settings(max_examples=rounds(8, 25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_history_is_explained_to_the_cent(sessions: Sessions, steps: list[tuple[str, int, int]]) -> None:
    life = await Life.begin(sessions)
    for what, hours, amount in steps:
        life.now += timedelta(hours=hours if what != "late" else 1)
        await getattr(life, what)(hours, amount)
    await life.check()


class Life:
    """A meter's life: readings in and out of order, payments, debts, months that are closed."""

    def __init__(self, sessions: Sessions, meter_id: str) -> None:
        self.sessions, self.meter_id = sessions, meter_id
        self.now, self.register_ml, self.bills, self.paid = INSTALLED, 0, 0, 0
        self.told: dict[datetime, int] = {INSTALLED: 0}

    @classmethod
    async def begin(cls, sessions: Sessions) -> "Life":
        utility_id, _ = await make_utility(sessions)
        async with sessions.begin() as session:
            file = read_tariff(TARIFF)
            found = await publish(
                session, utility_id=utility_id, utility_currency="KES", file=file, today=INSTALLED.date()
            )
        home = await make_home(
            sessions, make_settings(), utility_id, found.tariff_id, installed_at=INSTALLED, zone=str(ZONE)
        )
        return cls(sessions, home.meter_id)

    async def read(self, _hours: int, amount: int) -> None:
        self.register_ml += amount
        await self._tell(self.now, self.register_ml)

    async def late(self, hours: int, share: int) -> None:
        """One from before, somewhere on the line between its neighbours."""
        at = max(INSTALLED + timedelta(hours=1), self.now - timedelta(hours=hours))
        below = max(other for other in self.told if other <= at)
        above = min((other for other in self.told if other > at), default=below)
        rise = self.told[above] - self.told[below]
        await self._tell(at, self.told[below] + rise * share // 100)

    async def _tell(self, at: datetime, register_ml: int) -> None:
        self.told.setdefault(at, register_ml)
        async with self.sessions.begin() as session:
            report = MeterReport(self.meter_id, self.now, (RegisterReading(at, register_ml),))
            await take_report(session, report, self.now)

    async def pay(self, _hours: int, amount: int) -> None:
        self.paid += 1
        async with self.sessions.begin() as session:
            lines = [
                Line(AccountRef(AccountKind.CLEARING, "stripe", "KES"), -amount),
                Line(AccountRef(AccountKind.WALLET, self.meter_id, "KES"), amount),
            ]
            await post(
                session, key=f"pay:{self.meter_id}:{self.paid}", kind="TOP_UP", lines=lines, occurred_at=self.now
            )

    async def owe(self, _hours: int, amount: int) -> None:
        self.bills += 1
        async with self.sessions.begin() as session:
            await add_arrears(
                *(session,),
                operator="amina",
                meter_id=self.meter_id,
                amount_minor=amount,
                reference=f"B{self.bills}",
                now=self.now,
            )

    async def close(self, _hours: int, _amount: int) -> None:
        """Every month that may be, oldest first."""
        month = INSTALLED.date().replace(day=1)
        while local_midnight(period_of(month)[1], ZONE) <= self.now:
            async with self.sessions.begin() as session:
                await issue(session, self.meter_id, month, self.now)
            month = period_of(month)[1]

    async def check(self) -> None:
        month, opening = INSTALLED.date().replace(day=1), dict.fromkeys(ACCOUNTS, 0)
        async with self.sessions() as session:
            while local_midnight(month, ZONE) <= self.now:
                found = await statement_by_month(session, self.meter_id, month, self.now)
                assert found is not None
                body = found[0]
                assert is_balanced(body), month
                assert {kind: span.opening_minor for kind, span in body.accounts.items()} == opening, month
                opening = {kind: span.closing_minor for kind, span in body.accounts.items()}
                posted = await session.execute(
                    select(Account.kind, func.sum(Entry.amount_minor))
                    .join(Entry, Entry.account_id == Account.id)
                    .join(LedgerTransaction, LedgerTransaction.id == Entry.transaction_id)
                    .where(
                        Account.owner_id == self.meter_id,
                        LedgerTransaction.occurred_at < local_midnight(body.period_end, ZONE),
                    )
                    .group_by(Account.kind)
                )
                assert {kind: amount for kind, amount in opening.items() if amount} == {
                    kind: int(amount) for kind, amount in posted if amount
                }, month
                month = period_of(month)[1]
            balances = await session.execute(
                select(Account.kind, Account.balance_minor).where(Account.owner_id == self.meter_id)
            )
            # The last one that has begun closes with what the accounts hold: nothing is left out.
            assert {kind: amount for kind, amount in opening.items() if amount} == {
                kind: amount for kind, amount in balances if amount
            }
