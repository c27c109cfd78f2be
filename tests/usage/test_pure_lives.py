"""Lives of a meter on the pure rules alone, against the slow reference: thousands in minutes, without a database.

What ``rating_load`` reads and ``rating_save`` writes is kept in dictionaries here; every rule is the product's own.
"""

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from standpipe.billing.closing_rule import Closed
from standpipe.billing.rating import AtZero, Charged, MeterState, decide
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, Posting
from standpipe.meters.credit import Credit
from standpipe.meters.models import WalletKind
from standpipe.meters.reports import RegisterReading
from standpipe.payments import decide as payments
from standpipe.payments.rails.port import PaymentStatus, PaymentTruth
from standpipe.payments.state import Around, MeterMoney, new_payment
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import new_id
from standpipe.readings.judging import DayUse, Register, StoredReading, Surroundings, told_spans
from standpipe.readings.raw import RawReadings
from standpipe.readings.storage import month_start
from standpipe.supply.zero_credit import PolicyTerms, UtilityPolicy
from standpipe.supply.zero_credit_rules import CutOff
from standpipe.tariffs.catalogue import Contract
from standpipe.tariffs.files import read_tariff, to_terms
from standpipe.tariffs.models import Tariff, TariffVersion
from standpipe.tariffs.periods import Supply, TariffInForce
from standpipe.tariffs.publishing import _check_follows
from tests.support.lengths import rounds
from tests.usage import histories
from tests.usage.reference import ACCOUNTS, Books, midnight, month_of
from tests.usage.reference import Supply as SlowSupply
from tests.usage.test_model import FIRST_SEED, STEPS, History

LIVES = rounds(30, 1_000, "PURE_LIVES")
WEEK = timedelta(days=7)
POLICY = UtilityPolicy("DISCONNECT", None, None, None, {})


class PureLife(History):
    """A meter's life in memory: ``state`` is what a rating would load."""

    def __init__(self, seed: int) -> None:
        super().__init__(None, seed)  # type: ignore[arg-type] - it has no database.
        self.readings: dict[tuple[datetime, int], StoredReading] = {}
        self.days: dict[date, DayUse] = {}
        self.usage: dict[date, Charged] = {}
        self.standing: dict[date, Charged] = {}
        self.supplies: list[Supply] = []
        self.versions: dict[str, list[TariffInForce]] = {}
        self.rows: dict[str, list[TariffVersion]] = {}
        self.postings: list[Posting] = []
        self.accrued_through: date | None = None
        self.guaranteed_minor = 0
        self.at_zero: str | None = None
        self.last_statement: date | None = None
        self.utility_id = "utl"

    async def begin(self) -> None:
        chance = self.chance
        self.zone = ZoneInfo(chance.choice(histories.ZONES))
        self.currency = chance.choice(histories.CURRENCIES)
        self.now = self.start = histories.first_instant(chance, self.zone)
        self.truth = histories.register(chance, self.start, self.start + timedelta(days=130))
        self.unsent = dict(self.truth)
        self.today = self.start.astimezone(self.zone).date()
        self.tariff_ids = {}
        self.books = Books(
            zone=self.zone, first_day=self.today, tariffs={}, supplies=[],
            debt_share=chance.choice([0, 25, 60]), weekly_cap=chance.choice([None, 0, 900, 6_000]),
            guaranteed_ml=chance.choice([0, 0, 700_000]), emergency=chance.choice([0, 2_000]), threshold=500,
        )  # fmt: skip
        for code in ("a", "b")[: chance.choice([1, 1, 2])]:
            await self._publish(code, self.today - timedelta(days=chance.choice([0, 400])), self.today)
        first = histories.supply(chance, self.today, sorted(self.tariff_ids), "h1")
        await self._supply(first)

    async def _publish(self, code: str, since: date, today: date) -> None:
        written = histories.document(self.chance, code, self.currency, since)
        file = read_tariff(histories.as_file(written))
        known = self.rows.setdefault(code, [])
        if known:
            same = [one for one in known if one.effective_from == since]
            if not same or same[0].document != file.model_dump(mode="json", by_alias=True):
                tariff = Tariff(
                    id=code, code=code, currency=self.currency, basis="CONSUMPTION", name=file.name,
                    customer_class=file.customer_class,
                )  # fmt: skip
                _check_follows(tariff, known, file, today)
        row = TariffVersion(id=new_id("trv"), tariff_id=code, effective_from=since,
                            document=file.model_dump(mode="json", by_alias=True))  # fmt: skip
        known.append(row)
        known.sort(key=lambda one: one.effective_from)
        self.versions.setdefault(code, []).append(
            TariffInForce(code, row.id, "T", self.currency, since, to_terms(file))
        )
        self.versions[code].sort(key=lambda one: one.effective_from)
        self.tariff_ids[code] = code
        self.books.tariffs.setdefault(code, []).append(histories.plain(written))
        self.books.tariffs[code].sort(key=lambda one: one["effective-from"])

    async def _supply(self, terms: SlowSupply) -> None:
        self.supplies.append(Supply(terms.from_day, terms.tariff, terms.households, terms.groups, terms.household))
        self.supplies.sort(key=lambda one: one.from_day)
        self.books.supplies.append(terms)
        self.books.supplies.sort(key=lambda one: one.from_day)
        self.rate(reprice_from=terms.from_day)
        self.books.rate(self.now)

    def rate(self, readings: tuple[RegisterReading, ...] = (), reprice_from: date | None = None) -> None:
        """Load, decide, save, in memory."""
        reports = (RawReadings("m", self.now, readings),) if readings else ()
        register = Register(self.start, 0, None, self.zone)
        state = MeterState(
            meter_id="m",
            utility_id=self.utility_id,
            currency=self.currency,
            wallet_kind=WalletKind.MONEY,
            register=register,
            closed_at=None,
            reports=reports,
            around=Surroundings(
                tuple(self.readings[key] for key in sorted(self.readings)), self._suspects(register, reports), self.days
            ),
            contract=Contract(tuple(self.supplies), self.versions),
            usage=self.usage,
            standing=self.standing,
            accrued_through=self.accrued_through,
            statements=Closed(self.last_statement, 3),
            bought_ml={},
            guaranteed_ml=self.books.guaranteed_ml,
            guaranteed_minor=self.guaranteed_minor,
            policy=POLICY,
            policy_terms=(PolicyTerms(self.books.first_day, "domestic", None),),
            at_zero=AtZero(self.at_zero, CutOff.DISCONNECT, (), is_shut=False),
            reprice_from=reprice_from,
        )
        changes = decide(state, self.now)
        for one in changes.judged.readings:
            assert (one.read_at, one.arrival) not in self.readings
            self.readings[one.read_at, one.arrival] = one
        self.days |= changes.judged.days
        self.usage |= changes.usage
        self.standing |= changes.standing
        self.postings += changes.postings
        self.accrued_through, self.guaranteed_minor = changes.accrued_through, changes.guaranteed_minor
        if changes.zero_credit is not None:
            self.at_zero = changes.zero_credit.at_zero
        assert changes.due_next_at is not None
        assert changes.due_next_at > self.now

    def _suspects(self, register: Register, reports: tuple[RawReadings, ...]) -> tuple[tuple[datetime, int], ...]:
        """What ``surroundings.SUSPECTS`` finds: jumps held between each span and the accepted reading below it."""
        found = []
        for first, _ in told_spans(register, reports):
            below = [at for (at, _), one in self.readings.items() if at < first and one.accepted is not None]
            low = max(below, default=month_start(date(2000, 1, 1)))
            held = [
                one for (at, _), one in self.readings.items()
                if low < at < first and one.quality == "HELD" and one.reason == "IMPLAUSIBLE_FLOW"
            ]  # fmt: skip
            if held:
                found.append((max(one.read_at for one in held), min(one.register_ml for one in held)))
        return tuple(found)

    async def report(self) -> None:
        chance = self.chance
        due = {at: ml for at, ml in self.unsent.items() if at <= self.now and chance.random() < 0.8}
        for at in due:
            del self.unsent[at]
        again = [at for at in self.books.readings if chance.random() < 0.1]
        batch = [*due.items(), *((at, self.books.readings[at]) for at in again)]
        absurd = [at + timedelta(minutes=7) for at in due if chance.random() < 0.05]
        batch += [(at, 10**11) for at in absurd if at <= self.now]
        chance.shuffle(batch)
        self.rate(tuple(RegisterReading(at, ml) for at, ml in batch))
        self.books.take(self.now, due)

    def balance(self, kind: AccountKind) -> int:
        return sum(
            line.amount_minor
            for posting in self.postings
            for line in posting.lines
            if line.account == AccountRef(kind, "m", self.currency)
        )

    async def pay(self) -> None:
        paid = self.chance.choice([1, 99, 1_000, 5_000, 77_777])
        payment = new_payment(meter_id="m", rail="sandbox", rail_ref=None, origin="CUSTOMER", asked_minor=paid,
                              currency=self.currency, now=self.now)  # fmt: skip
        truth = PaymentTruth(new_id("sch"), payment.id, PaymentStatus.SUCCEEDED, self.currency, paid, paid, 0)
        lately = [
            line.amount_minor
            for posting in self.postings
            if posting.kind == "TOP_UP" and posting.occurred_at > self.now - WEEK
            for line in posting.lines
            if line.account.kind == AccountKind.RECEIVABLE and line.amount_minor > 0
        ]
        meter = MeterMoney(
            id="m",
            utility_id=self.utility_id,
            currency=self.currency,
            time_zone=str(self.zone),
            guaranteed_minor=self.guaranteed_minor,
            debt_share_percent=self.books.debt_share,
            debt_weekly_cap_minor=self.books.weekly_cap,
            wallet_minor=self.balance(AccountKind.WALLET),
            receivable_minor=self.balance(AccountKind.RECEIVABLE),
            standing_due_minor=self.balance(AccountKind.STANDING_DUE),
            emergency_minor=self.balance(AccountKind.EMERGENCY),
            repaid_minor=sum(lately),
            credit=Credit("m", self.currency, 0, 0, 0),
        )
        change = payments.decide(payment, meter, Around(), truth, self.now, (1,))
        again = payments.decide(change.payment, change.meter, Around(), truth, self.now, (1,))
        assert again.postings == ()
        assert change.meter.wallet_minor == meter.wallet_minor + change.meter.credit.total
        self.postings += change.postings
        self.books.top_up(self.now, paid)

    def post(self, kind: str, *lines: tuple[AccountKind, str, int]) -> None:
        refs = [Line(AccountRef(account, owner, self.currency), amount) for account, owner, amount in lines]
        self.postings.append(Posting(new_id("key"), kind, refs, self.now))

    async def owe(self) -> None:
        amount = self.chance.choice([500, 5_000, 400_000])
        self.post("ARREARS", (AccountKind.RECEIVABLE, "m", -amount), (AccountKind.OPENING, self.utility_id, amount))
        self.books.arrears(self.now, amount)

    async def accrue(self) -> None:
        self.rate()
        self.books.rate(self.now)

    async def correct(self) -> None:
        """A correction re-reads the rows around it; test_model.py plays it, with them."""

    async def announce(self) -> None:
        since = self.chance.choice([self.today, self.today + timedelta(days=9), month_of(self.today)[1]])
        code = self.chance.choice(sorted(self.tariff_ids))
        try:
            await self._publish(code, since, self.today)
        except InvalidInputError:
            self.told.append(f"  refused for {since}")
        else:
            self.rate(reprice_from=since)
            self.books.rate(self.now)

    async def close_month(self) -> None:
        month = month_of(self.books.first_day)[0] if self.last_statement is None else month_of(self.last_statement)[1]
        if self.now < midnight(month_of(month)[1], self.zone):
            return
        self.rate()
        self.books.issue(month, self.now)
        self.last_statement = month

    async def help(self) -> None:
        if not self.books.may_have_emergency():
            return
        amount = self.books.emergency
        self.post("EMERGENCY", (AccountKind.EMERGENCY, "m", -amount), (AccountKind.WALLET, "m", amount))
        self.books.give_emergency(self.now)

    async def compare_balances(self) -> None:
        found: dict[tuple[str, str], int] = {}
        for posting in self.postings:
            assert sum(line.amount_minor for line in posting.lines) == 0
            for line in posting.lines:
                key = (str(line.account.kind), line.account.owner_id)
                found[key] = found.get(key, 0) + line.amount_minor
        expected: dict[tuple[str, str], int] = {}
        for one in self.books.postings:
            for account, amount in one.amounts.items():
                if (key := self.ledger_key(account)) is not None:
                    expected[key] = expected.get(key, 0) + amount
        known = {key: total for key, total in found.items() if key[0] != "CLEARING" and total}
        assert known == {key: total for key, total in expected.items() if total}
        assert self.guaranteed_minor == self.books.guaranteed
        # When each change took its place: in the oldest month from its period on that is open.
        placed: dict[tuple[datetime, str], int] = {}
        for posting in self.postings:
            for line in posting.lines:
                if line.account.owner_id == "m":
                    at = (posting.occurred_at, str(line.account.kind))
                    placed[at] = placed.get(at, 0) + line.amount_minor
        wanted: dict[tuple[datetime, str], int] = {}
        for one in self.books.postings:
            for account in set(one.amounts) & set(ACCOUNTS):
                wanted[one.at, account] = wanted.get((one.at, account), 0) + one.amounts[account]
        assert {at: total for at, total in placed.items() if total} == {at: sum_ for at, sum_ in wanted.items() if sum_}

    def ledger_key(self, account: Any) -> tuple[str, str] | None:
        key = super().ledger_key(account) if not isinstance(account, str) or account == "OPENING" else None
        return (
            (account, "m") if key is None and account in ("WALLET", "STANDING_DUE", "RECEIVABLE", "EMERGENCY") else key
        )

    async def end(self) -> None:
        """Each period's charge, as the reference bills it."""
        self.rate()
        self.books.rate(self.now)
        for period, charged in self.usage.items():
            bill = self.books.bill_of("WALLET", period)
            assert (charged.total_minor, charged.volume_ml) == (bill.total, bill.volume_ml)
            assert {code: amount for code, amount in charged.accounts.items() if amount} == bill.accounts
        for period, charged in self.standing.items():
            assert charged.total_minor == self.books.bill_of("STANDING_DUE", period).total
        assert {day: use.volume_ml for day, use in self.days.items() if use.volume_ml} == {
            day: ml for day, ml in self.books.days().items() if ml
        }


async def test_t4_t6_any_life_on_the_pure_rules_comes_to_the_references_ledger() -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + LIVES):
        life = PureLife(seed)
        try:
            await life.begin()
            for _ in range(STEPS):
                await life.step()
            await life.end()
        except Exception as error:
            steps = "\n".join(life.told)
            pytest.fail(f"MODEL_SEED={seed} in {life.zone}: {type(error).__name__}: {error}\n{steps}", pytrace=True)
