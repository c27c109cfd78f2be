"""Random lives of a meter against the slow reference: the same ledger, the same statements, to the minor unit.

``MODEL_HISTORIES`` makes it longer: ``make model`` plays ten thousand. ``MODEL_SEED`` plays one history again.
"""

import os
import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, or_, select

from standpipe.billing.emergency import activate
from standpipe.billing.review import correct
from standpipe.billing.statement_body import Bill, StatementBody, is_balanced
from standpipe.billing.statements import build, issue
from standpipe.ledger.models import Account, AccountKind, Entry
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.meters.reports import MeterReport, RegisterReading
from standpipe.payments.arrears import add_arrears
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.rails.port import PaymentStatus, PaymentTruth
from standpipe.payments.settle import apply_truth
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import new_id
from standpipe.tariffs.files import read_tariff
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.publishing import publish
from standpipe.utilities.models import Utility
from tests.support.lengths import rounds
from tests.support.rating import rate, take_report
from tests.support.town import make_home, make_settings
from tests.usage import histories
from tests.usage.reference import ACCOUNTS, Books, Supply, midnight, month_of
from tests.usage.reference import Bill as SlowBill

HISTORIES = rounds(12, 40, "MODEL_HISTORIES")
FIRST_SEED = int(os.environ.get("MODEL_SEED", "0"))
STEPS = 16


class History:
    """One meter's life, lived in the product and in the reference at once."""

    def __init__(self, sessions: Sessions, seed: int) -> None:
        self.sessions, self.chance = sessions, random.Random(seed)
        self.told: list[str] = []

    async def begin(self) -> None:
        chance = self.chance
        self.zone = ZoneInfo(chance.choice(histories.ZONES))
        self.currency = chance.choice(histories.CURRENCIES)
        self.now = self.start = histories.first_instant(chance, self.zone)
        self.truth = histories.register(chance, self.start, self.start + timedelta(days=130))
        self.unsent = dict(self.truth)
        self.today = self.start.astimezone(self.zone).date()
        self.tariff_ids: dict[str, str] = {}
        self.books = Books(
            zone=self.zone, first_day=self.today, tariffs={}, supplies=[],
            debt_share=chance.choice([0, 25, 60]), weekly_cap=chance.choice([None, 0, 900, 6_000]),
            guaranteed_ml=chance.choice([0, 0, 700_000]), emergency=chance.choice([0, 2_000]), threshold=500,
        )  # fmt: skip
        await self._make_utility()
        for code in ("a", "b")[: chance.choice([1, 1, 2])]:
            await self._publish(code, self.today - timedelta(days=chance.choice([0, 400])), self.today)
        first = histories.supply(chance, self.today, sorted(self.tariff_ids), "h1")
        settings, tariff_id = make_settings(), self.tariff_ids[first.tariff]
        self.home = await make_home(
            self.sessions, settings, self.utility_id, tariff_id, installed_at=self.start, zone=str(self.zone)
        )
        async with self.sessions.begin() as session:
            meter = await lock_meter(session, self.home.meter_id)
            meter.currency = self.currency
        await self._supply(first)

    async def _make_utility(self) -> None:
        books = self.books
        utility = Utility(
            id=new_id("utl"), name="U", currency=self.currency, time_zone=str(self.zone),
            debt_share_percent=books.debt_share, debt_weekly_cap_minor=books.weekly_cap,
            guaranteed_ml=books.guaranteed_ml, emergency_credit_minor=books.emergency,
            emergency_threshold_minor=books.threshold,
        )  # fmt: skip
        async with self.sessions.begin() as session:
            session.add(utility)
        self.utility_id = utility.id

    async def _publish(self, code: str, since: date, today: date) -> None:
        written = histories.document(self.chance, code, self.currency, since)
        file = read_tariff(histories.as_file(written))
        async with self.sessions.begin() as session:
            made = await publish(
                session, utility_id=self.utility_id, utility_currency=self.currency, file=file, today=today
            )
        self.tariff_ids[code] = made.tariff_id
        self.books.tariffs.setdefault(code, []).append(histories.plain(written))
        self.books.tariffs[code].sort(key=lambda one: one["effective-from"])

    async def _supply(self, terms: Supply) -> None:
        households = {"h1": self.home.household_id, "h2": None}
        async with self.sessions.begin() as session:
            meter = await lock_meter(session, self.home.meter_id)
            session.add(
                SupplyTerms(
                    meter_id=meter.id, from_day=terms.from_day, tariff_id=self.tariff_ids[terms.tariff],
                    households=terms.households, groups=sorted(terms.groups),
                    household_id=households[terms.household],
                )
            )  # fmt: skip
            await rate(session, meter.id, self.now, reprice_from=terms.from_day)
        self.books.supplies.append(terms)
        self.books.supplies.sort(key=lambda one: one.from_day)
        self.books.rate(self.now)

    async def step(self) -> None:
        """Time goes on, and something happens."""
        next_month = midnight(month_of(self.today)[1], self.zone)
        if self.chance.random() < 0.1 and next_month > self.now:
            self.now = next_month  # Sharp: what happens now is the first of the month's.
        else:
            hours = self.chance.choice([1, 5, 30, 100, 150, 200, 400])
            self.now += timedelta(hours=hours, seconds=self.chance.randrange(3600))
        self.today = self.now.astimezone(self.zone).date()
        happening = self.chance.choice(
            [self.report] * 5 + [self.pay] * 4 + [self.owe] * 2 + [self.accrue] * 2 + [self.close_month] * 2
            + [self.announce, self.change_supply, self.help, self.correct]
        )  # fmt: skip
        self.told.append(f"{self.now:%Y-%m-%d %H:%M:%S} {happening.__name__}")
        await happening()
        await self.compare_balances()

    async def report(self) -> None:
        """What was measured, or some of it, in any order, some of it again, some of it altered, some of it absurd."""
        chance = self.chance
        due = {at: ml for at, ml in self.unsent.items() if at <= self.now and chance.random() < 0.8}
        for at in due:
            del self.unsent[at]
        again = [at for at in self.books.readings if chance.random() < 0.1]
        batch = [*due.items(), *((at, self.books.readings[at] + chance.choice([0, 5])) for at in again)]
        absurd = [at + timedelta(minutes=7) for at in due if chance.random() < 0.05]
        batch += [(at, 10**11) for at in absurd if at <= self.now]
        chance.shuffle(batch)
        readings = tuple(RegisterReading(at, ml) for at, ml in batch)
        async with self.sessions.begin() as session:
            await take_report(session, MeterReport(self.home.meter_id, self.now, readings), self.now)
        self.books.take(self.now, due)

    async def pay(self) -> None:
        paid = self.chance.choice([1, 99, 1_000, 5_000, 77_777])
        async with self.sessions.begin() as session:
            top_up = TopUp(
                id=new_id("top"), customer_id=self.home.customer_id, meter_id=self.home.meter_id, pay_minor=paid,
                currency=self.currency, idempotency_key=new_id("key"), request_hash="-", created_at=self.now,
            )  # fmt: skip
            session.add(top_up)
            await session.flush()
            session.add(
                Payment(
                    id=top_up.id, top_up_id=top_up.id, rail="sandbox", asked_minor=paid, currency=self.currency,
                    status="CREATED", updated_at=self.now,
                )
            )  # fmt: skip
            await session.flush()
            truth = PaymentTruth(
                rail_ref=new_id("sch"), reference=top_up.id, status=PaymentStatus.SUCCEEDED, currency=self.currency,
                requested_minor=paid, captured_minor=paid, refunded_minor=0,
            )  # fmt: skip
            await apply_truth(session, {}, top_up.id, truth, self.now)
        self.books.top_up(self.now, paid)

    async def accrue(self) -> None:
        async with self.sessions.begin() as session:
            await rate(session, self.home.meter_id, self.now)
        self.books.rate(self.now)

    async def owe(self) -> None:
        amount = self.chance.choice([500, 5_000, 400_000])
        async with self.sessions.begin() as session:
            await add_arrears(
                session,
                operator="op",
                meter_id=self.home.meter_id,
                amount_minor=amount,
                reference=new_id("bill"),
                now=self.now,
            )
        self.books.arrears(self.now, amount)

    async def correct(self) -> None:
        """A person says what the register stood at, between what it stood at before and after."""
        at = self.chance.choice(sorted(self.books.readings) or [self.start])
        points = sorted(self.truth)
        if at not in self.books.readings:
            return
        place = points.index(at)
        low, high = (
            self.books.readings.get(points[other], self.truth[points[other]]) if 0 <= other < len(points) else None
            for other in (place - 1, place + 1)
        )
        stood = self.chance.randrange(low or 0, (self.truth[at] if high is None else high) + 1)
        if stood == self.books.readings[at]:
            return
        async with self.sessions.begin() as session:
            await correct(
                session, operator="op", meter_id=self.home.meter_id, read_at=at, register_ml=stood, note="seen",
                now=self.now,
            )  # fmt: skip
        del self.books.readings[at]
        self.books.take(self.now, {at: stood})

    async def announce(self) -> None:
        """A new version, from a day that may be too early: then nothing changes."""
        since = self.chance.choice([self.today, self.today + timedelta(days=9), month_of(self.today)[1]])
        try:
            await self._publish(self.chance.choice(sorted(self.tariff_ids)), since, self.today)
        except InvalidInputError:
            self.told.append(f"  refused for {since}")

    async def change_supply(self) -> None:
        """Other households or groups, another tariff, a move: from a day before or after today."""
        day = self.today + timedelta(days=self.chance.choice([-40, -8, 0, 5, 20]))
        if day <= self.books.first_day or any(one.from_day == day for one in self.books.supplies):
            return
        household = self.chance.choice(["h1", "h1", "h2"])
        await self._supply(histories.supply(self.chance, day, sorted(self.tariff_ids), household))

    async def close_month(self) -> None:
        made = self.books.statements
        month = month_of(max(made))[1] if made else month_of(self.books.first_day)[0]
        if self.now < midnight(month_of(month)[1], self.zone):
            return
        async with self.sessions.begin() as session:
            statement = await issue(session, self.home.meter_id, month, self.now)
        assert statement is not None
        self.books.issue(month, self.now)
        compare_statement(StatementBody.model_validate(statement.body), self.books.statements[month])

    async def help(self) -> None:
        if not self.books.may_have_emergency():
            return
        async with self.sessions.begin() as session:
            await activate(session, customer_id=self.home.customer_id, meter_id=self.home.meter_id, now=self.now)
        self.books.give_emergency(self.now)

    async def compare_balances(self) -> None:
        """Every account of the meter and of its utility; one statement, for there are many steps."""
        own = or_(Account.owner_id.in_([self.home.meter_id, self.utility_id]), Account.kind == AccountKind.LEVIES)
        query = select(Account.kind, Account.owner_id, func.sum(Entry.amount_minor)).join(Entry).where(own)
        async with self.sessions() as session:
            rows = (await session.execute(query.group_by(Account.kind, Account.owner_id))).all()
        mine = self.home.meter_id, self.utility_id
        found = {(kind, owner): int(total) for kind, owner, total in rows if owner.split("/")[0] in mine and total}
        expected: dict[tuple[str, str], int] = {}
        for one in self.books.postings:
            for account, amount in one.amounts.items():
                if (key := self.ledger_key(account)) is not None:
                    expected[key] = expected.get(key, 0) + amount
        assert found == {key: total for key, total in expected.items() if total}

    def ledger_key(self, account: Any) -> tuple[str, str] | None:
        if account in ACCOUNTS:
            return account, self.home.meter_id
        if account == "OPENING":
            return account, self.utility_id
        if isinstance(account, tuple):
            code = account[1]
            return ("REVENUE", self.utility_id) if code == "utility" else ("LEVIES", f"{self.utility_id}/{code}")
        return None

    async def end(self) -> None:
        """Every month that is still open, as it stands."""
        month = month_of(self.books.first_day)[0]
        while month <= self.today:
            if month not in self.books.statements:
                async with self.sessions() as session:
                    body = await build(session, await session.get_one(Meter, self.home.meter_id), month)
                compare_statement(body, self.books.statement(month))
            month = month_of(month)[1]


def compare_statement(body: StatementBody, slow: dict[str, Any]) -> None:
    assert is_balanced(body)
    assert {kind: (span.opening_minor, span.closing_minor) for kind, span in body.accounts.items()} == slow["accounts"]
    assert [(one.at, one.kind, one.amounts, one.paid_minor) for one in body.movements] == slow["movements"]
    compare_bill(body.use, slow["use"], slow["charged"].get(("WALLET", body.period_start), 0))
    compare_bill(body.standing, slow["standing"], slow["charged"].get(("STANDING_DUE", body.period_start), 0))
    found = {(one.account, one.period_start): (one.was.total_minor, one.now.total_minor) for one in body.adjustments}
    assert found == slow["adjustments"]
    assert all(one.now.total_minor - one.was.total_minor == one.difference_minor for one in body.adjustments)
    assert {day: ml for day, ml in body.daily_ml.items() if ml} == slow["daily"]


def compare_bill(bill: Bill, slow: SlowBill, charged: int) -> None:
    assert bill.total_minor == slow.total == charged
    assert [(one.kind, one.code, one.tier, one.quantity, one.amount_minor) for one in bill.lines] == list(slow.lines)
    assert bill.volume_ml == slow.volume_ml


def seeds() -> Iterator[int]:
    yield from range(FIRST_SEED, FIRST_SEED + HISTORIES)


async def test_t4_t6_any_life_of_a_meter_comes_to_the_references_ledger_and_statements(sessions: Sessions) -> None:
    for seed in seeds():
        history = History(sessions, seed)
        try:
            await history.begin()
            for _ in range(STEPS):
                await history.step()
            await history.end()
        except Exception as error:
            steps = "\n".join(history.told)
            pytest.fail(f"MODEL_SEED={seed} in {history.zone}: {type(error).__name__}: {error}\n{steps}", pytrace=True)
