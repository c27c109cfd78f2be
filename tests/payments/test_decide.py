"""Thousands of lives of payments by the pure rules alone: whatever a rail tells, in any order, the books come out.

``DECIDE_LIVES`` makes it longer: ``make chaos`` plays ten thousand. A failing life names its seed.
"""

import os
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, Posting
from standpipe.meters.credit import Credit
from standpipe.payments.decide import decide, hold_for_refund, release_hold
from standpipe.payments.rails.port import DisputeState, PaymentStatus, PaymentTruth
from standpipe.payments.state import Around, Changes, MeterMoney, PaymentState, new_payment
from standpipe.platform.errors import InsufficientFundsError, InvalidInputError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LIVES = int(os.environ.get("DECIDE_LIVES", "300"))
POLLS_S = (10, 20)


class Life:
    """One meter, some payments, and a rail that tells what it likes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = NOW
        self.meter = MeterMoney(
            id="mtr", utility_id="utl", currency="KES", time_zone="UTC",
            guaranteed_minor=self.chance.choice([0, 200]), debt_share_percent=self.chance.choice([0, 30, 100]),
            debt_weekly_cap_minor=self.chance.choice([None, 500]), wallet_minor=0,
            receivable_minor=-self.chance.choice([0, 700]), standing_due_minor=-self.chance.choice([0, 90]),
            emergency_minor=-self.chance.choice([0, 300]), repaid_minor=0, credit=Credit("mtr", False, 0, 0, 0),
        )  # fmt: skip
        self.before = self.meter
        self.payments = [self.order(number) for number in range(self.chance.randint(1, 3))]
        self.truths = {one.id: self.untold(one) for one in self.payments}
        self.holds: list[tuple[str, int, str]] = []
        self.sums: Counter[tuple[str, str]] = Counter()
        self.keys: set[str] = set()
        self.used = 0

    def order(self, number: int) -> PaymentState:
        payment = new_payment(
            meter_id="mtr", rail="told", rail_ref=f"ref{number}", origin="CUSTOMER",
            asked_minor=self.chance.randint(1, 3000), currency="KES", now=NOW,
            fee_agreed_minor=self.chance.choice([0, 15]),
        )  # fmt: skip
        return replace(payment, id=f"top{number}")

    def untold(self, payment: PaymentState) -> PaymentTruth:
        pay = payment.asked_minor
        return PaymentTruth(payment.rail_ref or "", payment.id, PaymentStatus.PENDING, "KES", pay, 0, 0)

    def step(self) -> None:
        self.now += timedelta(minutes=self.chance.randint(0, 2000))
        act = self.chance.choice([self.pay, self.refund, self.dispute, self.tell, self.tell, self.hold, self.release,
                                  self.hear, self.pour, self.send])  # fmt: skip
        act()
        self.check()

    def pick(self) -> int:
        return self.chance.randrange(len(self.payments))

    def move(self, number: int, **values: object) -> None:
        top_up_id = self.payments[number].id
        self.truths[top_up_id] = replace(self.truths[top_up_id], **values)  # type: ignore[arg-type]

    def pay(self) -> None:
        number = self.pick()
        truth = self.truths[self.payments[number].id]
        captured = max(truth.captured_minor, self.chance.randint(1, truth.requested_minor))
        self.move(number, captured_minor=captured, status=PaymentStatus.SUCCEEDED)

    def refund(self) -> None:
        number = self.pick()
        truth = self.truths[self.payments[number].id]
        self.move(number, refunded_minor=self.chance.randint(0, truth.captured_minor))

    def dispute(self) -> None:
        number = self.pick()
        truth, state = self.truths[self.payments[number].id], self.chance.choice(list(DisputeState))
        took = truth.captured_minor if state in {DisputeState.OPEN, DisputeState.LOST} else 0
        self.move(
            number, disputed_minor=took, dispute=state, dispute_fee_minor=max(truth.dispute_fee_minor, took and 5)
        )

    def tell(self) -> None:
        number = self.pick()
        payment = self.payments[number]
        change = decide(payment, self.meter, Around(), self.truths[payment.id], self.now, POLLS_S)
        self.take(number, change)
        again = decide(change.payment, change.meter, Around(), self.truths[payment.id], self.now, POLLS_S)
        assert (again.postings, again.facts, again.payment) == ((), (), change.payment), "the second difference is zero"

    def hold(self) -> None:
        number = self.pick()
        payment = self.payments[number]
        left = payment.captured_minor - payment.taken_back_minor - payment.held_minor
        if left <= 0:
            return
        amount, refund_id = self.chance.randint(1, left), f"ref_{len(self.keys)}"
        try:
            change = hold_for_refund(payment, self.meter, amount, refund_id, self.now)
        except (InvalidInputError, InsufficientFundsError):
            return
        self.take(number, change)
        self.holds.append((payment.id, amount, refund_id))

    def release(self) -> None:
        if not self.holds:
            return
        top_up_id, amount, refund_id = self.holds.pop()
        number = [one.id for one in self.payments].index(top_up_id)
        self.take(number, release_hold(self.payments[number], self.meter, amount, refund_id, self.now))

    def pour(self) -> None:
        amount = self.chance.randint(1, 900)
        lines = [Line(self.meter.wallet, -amount), Line(AccountRef(AccountKind.REVENUE, "utl", "KES"), amount)]
        self.post(Posting(f"use{len(self.keys)}", "USAGE", lines, self.now, states_fact=True))
        self.meter = self.meter.after(Posting("", "USAGE", lines, self.now))
        self.used += amount

    def send(self) -> None:
        """A command with the total goes out, and nobody knows whether it arrives."""
        credit = self.meter.credit
        self.meter = replace(self.meter, credit=replace(credit, highest=max(credit.highest, credit.total)))

    def hear(self) -> None:
        """The meter states what it has taken: something that was sent."""
        credit = self.meter.credit
        if credit.highest > credit.accepted:
            accepted = self.chance.choice([credit.highest, credit.accepted])
            self.meter = replace(self.meter, credit=replace(credit, accepted=accepted, highest=accepted))

    def take(self, number: int, change: Changes) -> None:
        for posting in change.postings:
            self.post(posting)
        self.payments[number], self.meter = change.payment, change.meter

    def post(self, posting: Posting) -> None:
        assert posting.key not in self.keys, f"{posting.key} twice"
        assert sum(line.amount_minor for line in posting.lines) == 0
        self.keys.add(posting.key)
        for line in posting.lines:
            self.sums[line.account.kind, line.account.owner_id] += line.amount_minor

    def check(self) -> None:
        meter, sums = self.meter, self.sums
        assert meter.wallet_minor == sums[AccountKind.WALLET, "mtr"] == meter.credit.total - self.used
        assert meter.receivable_minor - self.before.receivable_minor == sums[AccountKind.RECEIVABLE, "mtr"]
        assert meter.credit.total == sum(step.amount - step.revoked for step in meter.credit.steps)
        assert meter.credit.total >= 0
        for one in self.payments:
            assert 0 <= one.taken_back_minor + one.held_minor <= one.captured_minor, one
            assert min(one.owed_minor, one.held_minor, one.taken_back_minor) >= 0, one

    def end(self) -> None:
        """Everything is told once more: the books are where the rail's truth is, whatever was between."""
        for number, payment in enumerate(self.payments):
            self.take(number, decide(payment, self.meter, Around(), self.truths[payment.id], self.now, POLLS_S))
        self.check()
        truths = self.truths.values()
        held = sum(one.captured_minor - one.refunded_minor - one.disputed_minor for one in truths)
        fees = sum(one.dispute_fee_minor for one in self.payments)
        assert -self.sums[AccountKind.CLEARING, "told"] + fees == held
        for payment in self.payments:
            truth = self.truths[payment.id]
            assert payment.captured_minor == truth.captured_minor
            assert payment.taken_back_minor == min(truth.captured_minor, truth.refunded_minor + truth.disputed_minor)


def play(seed: int) -> None:
    life = Life(seed)
    for _ in range(40):
        life.step()
    life.end()


@pytest.mark.parametrize("lot", range(3))
def test_p49_any_life_of_payments_ends_where_the_rails_truth_is(lot: int) -> None:
    for seed in range(lot, LIVES, 3):
        try:
            play(seed)
        except AssertionError as error:
            raise AssertionError(f"life {seed}: {error}") from error
