"""State that a payment's rules look at, and changes that they make: frozen, whole, read in one go. Pure.

``PaymentState`` is a payment as we have it, ``MeterMoney`` what its meter holds and owes. ``Changes`` is what a
decision makes of both, for ``standpipe.payments.rows`` to store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Posting
from standpipe.meters.credit import Credit
from standpipe.outbox.facts import Fact
from standpipe.payments.rails.port import PaymentTruth, SavedCard
from standpipe.payments.split import Owing
from standpipe.platform.ids import new_id
from standpipe.platform.tracing import current_traceparent
from standpipe.tariffs.catalogue import Contract
from standpipe.tariffs.periods import Priced


@dataclass(frozen=True, slots=True)
class PaymentState:
    """A payment as we have it: its order, the rail's names for it, and the running totals that are booked."""

    id: str
    top_up_id: str
    meter_id: str
    customer_id: str | None
    rail: str
    rail_ref: str | None
    alias_ref: str | None
    receipt_ref: str | None
    account_reference: str | None
    origin: str
    funder_id: str | None
    method_id: str | None
    asked_minor: int
    currency: str
    fee_agreed_minor: int
    agreed: Mapping[str, int] | None
    status: str
    failure_code: str | None
    failure_message: str | None
    next_action: dict[str, Any] | None
    captured_minor: int
    refunded_minor: int
    suspense_minor: int
    disputed_minor: int
    dispute_fee_minor: int
    dispute: str | None
    held_minor: int
    taken_back_minor: int
    owed_minor: int
    fee_minor: int
    emergency_minor: int
    standing_minor: int
    debt_minor: int
    version: int
    attempts: int
    created_at: datetime
    updated_at: datetime

    @property
    def names(self) -> frozenset[str]:
        """All names that the rail has for it."""
        return frozenset(name for name in (self.rail_ref, self.alias_ref, self.receipt_ref) if name is not None)


def new_payment(
    *,
    meter_id: str,
    rail: str,
    rail_ref: str | None,
    origin: str,
    asked_minor: int,
    currency: str,
    now: datetime,
    customer_id: str | None = None,
    receipt_ref: str | None = None,
    method_id: str | None = None,
    funder_id: str | None = None,
    fee_agreed_minor: int = 0,
) -> PaymentState:
    """A top-up and its payment that have no rows yet: nothing of it is booked."""
    top_up_id = new_id("top")
    return PaymentState(
        id=top_up_id,
        top_up_id=top_up_id,
        meter_id=meter_id,
        customer_id=customer_id,
        rail=rail,
        rail_ref=rail_ref,
        alias_ref=None,
        receipt_ref=receipt_ref,
        account_reference=None,
        origin=origin,
        funder_id=funder_id,
        method_id=method_id,
        asked_minor=asked_minor,
        currency=currency,
        fee_agreed_minor=fee_agreed_minor,
        agreed=None,
        status="CREATED",
        failure_code=None,
        failure_message=None,
        next_action=None,
        captured_minor=0,
        refunded_minor=0,
        suspense_minor=0,
        disputed_minor=0,
        dispute_fee_minor=0,
        dispute=None,
        held_minor=0,
        taken_back_minor=0,
        owed_minor=0,
        fee_minor=0,
        emergency_minor=0,
        standing_minor=0,
        debt_minor=0,
        version=0,
        attempts=0,
        created_at=now,
        updated_at=now,
    )


@dataclass(frozen=True, slots=True)
class RefundRow:
    """A refund's row."""

    id: str
    rail_ref: str | None
    amount_minor: int
    status: str
    failure_code: str | None


@dataclass(frozen=True, slots=True)
class HeldMoney:
    """An open suspense item."""

    id: str
    rail: str
    rail_ref: str
    currency: str
    amount_minor: int
    payment_id: str | None
    status: str = "OPEN"
    resolved_by: str | None = None


@dataclass(frozen=True, slots=True)
class Purchase:
    """Water that a wallet bought: a row of ``volume_purchases``. Below zero it is a reversal."""

    key: str
    meter_id: str
    source_id: str
    day: date
    version_id: str
    volume_ml: int
    priced: Priced
    period_volume_ml: int
    period_charged_minor: int
    bought_at: datetime
    reverses_key: str | None = None


@dataclass(frozen=True, slots=True)
class VolumeBook:
    """By what a VOLUME meter buys, and what it has bought.

    ``sums``: volume and price by the meter's own day, of the billing periods that may be bought in. ``purchases``:
    those of the sources in question, oldest first. ``fresh``: how many of them at the end are not stored yet.
    """

    contract: Contract
    sums: Mapping[date, tuple[int, int]]
    purchases: tuple[Purchase, ...]
    fresh: int = 0

    def with_purchase(self, purchase: Purchase) -> "VolumeBook":
        """One purchase more."""
        volume_ml, amount_minor = self.sums.get(purchase.day, (0, 0))
        after = (volume_ml + purchase.volume_ml, amount_minor + purchase.priced.total_minor)
        return replace(
            self,
            sums={**self.sums, purchase.day: after},
            purchases=(*self.purchases, purchase),
            fresh=self.fresh + 1,
        )

    def in_force(self, source_id: str) -> list[Purchase]:
        """A source's purchases that were not reversed, oldest first."""
        reversed_keys = {one.reverses_key for one in self.purchases}
        return [
            one
            for one in self.purchases
            if one.source_id == source_id and one.volume_ml > 0 and one.key not in reversed_keys
        ]


@dataclass(frozen=True, slots=True)
class MeterMoney:
    """Money of a locked meter. Balances as in the ledger: what is owed stands below zero.

    ``repaid_minor``: of its debt in the last seven days, by top-ups.
    """

    id: str
    utility_id: str
    currency: str
    time_zone: str
    guaranteed_minor: int
    debt_share_percent: int
    debt_weekly_cap_minor: int | None
    wallet_minor: int
    receivable_minor: int
    standing_due_minor: int
    emergency_minor: int
    repaid_minor: int
    credit: Credit
    volume: VolumeBook | None = None

    @property
    def wallet(self) -> AccountRef:
        """Its wallet's account."""
        return AccountRef(AccountKind.WALLET, self.id, self.currency)

    @property
    def owing(self) -> Owing:
        """Dues of the meter, by its utility's rules."""
        cap_minor = self.debt_weekly_cap_minor
        return Owing(
            emergency_minor=max(-self.emergency_minor, 0),
            standing_minor=max(-self.standing_due_minor, 0),
            debt_minor=max(-self.receivable_minor, 0),
            share_percent=self.debt_share_percent,
            weekly_left_minor=None if cap_minor is None else max(cap_minor - self.repaid_minor, 0),
            guaranteed_minor=self.guaranteed_minor,
        )

    def today(self, now: datetime) -> date:
        """Its own day."""
        return now.astimezone(ZoneInfo(self.time_zone)).date()

    def after(self, posting: Posting) -> "MeterMoney":
        """Return it with this posted."""
        moved = dict.fromkeys(_BALANCES, 0)
        for line in posting.lines:
            ref = line.account
            if (ref.owner_id, ref.currency) == (self.id, self.currency) and ref.kind in moved:
                moved[ref.kind] += line.amount_minor
        repaid = max(moved[AccountKind.RECEIVABLE], 0) if posting.kind == "TOP_UP" else 0
        return replace(
            self,
            wallet_minor=self.wallet_minor + moved[AccountKind.WALLET],
            receivable_minor=self.receivable_minor + moved[AccountKind.RECEIVABLE],
            standing_due_minor=self.standing_due_minor + moved[AccountKind.STANDING_DUE],
            emergency_minor=self.emergency_minor + moved[AccountKind.EMERGENCY],
            repaid_minor=self.repaid_minor + repaid,
        )


_BALANCES = (AccountKind.WALLET, AccountKind.RECEIVABLE, AccountKind.STANDING_DUE, AccountKind.EMERGENCY)


@dataclass(frozen=True, slots=True)
class Around:
    """State around a payment that its rules must know. ``elsewhere``: another payment that has this very money already.

    ``known_as``: the payment that has the rail's id already, where that is another. ``waiting``: open suspense items of
    this payment or of its money. ``purchases`` are on the meter.
    """

    refunds: tuple[RefundRow, ...] = ()
    elsewhere: str | None = None
    known_as: str | None = None
    waiting: tuple[HeldMoney, ...] = ()


@dataclass(frozen=True, slots=True)
class Poll:
    """The payment poller's next question, in real seconds from now. None: no more; ``dead``: a person must look."""

    after_s: float | None
    dead: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NewSuspense:
    """An item for a person; ``key`` is the posting that put the money there."""

    id: str
    key: str
    rail: str
    truth: PaymentTruth
    amount_minor: int
    reason: str
    account_reference: str | None
    payment_id: str | None
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of a decision. ``payment`` and ``meter`` are as they stand afterwards.

    ``second``: what the rail told is another payment for this order, to be opened and decided by itself (P31).
    """

    payment: PaymentState
    meter: MeterMoney
    poll: Poll | None = None
    postings: tuple[Posting, ...] = ()
    statuses: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    refunds: tuple[RefundRow, ...] = ()
    resolved: tuple[HeldMoney, ...] = ()
    suspense: tuple[NewSuspense, ...] = ()
    card: SavedCard | None = None
    second: PaymentTruth | None = None
    wake: str | None = None
    """A payment that the poller must ask about now."""
    problem: str | None = None
    captured_rose: bool = False
    traceparent: str | None = field(default_factory=current_traceparent)
    """Of the step that decided it: what a batch stores stays in the trace of its own payment."""
