"""The rules of a payment's life: what the difference between the rail's running totals and ours becomes. Pure.

``decide`` is the only place where a payment becomes credit. Twice, late, or in another order, the second difference is
zero. The others are the office's and the counter's decisions on one payment: a hold for a refund, its release, cash.
What a decision cannot do it says by raising; then nothing has changed.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

import structlog

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line, Posting
from standpipe.meters.credit import granted, retracted
from standpipe.outbox.facts import Fact, MoneyInSuspense, MoneyTakenBack, TopUpFailed, TopUpPaid
from standpipe.payments.quoted import day_quoted
from standpipe.payments.rails.port import PaymentStatus, PaymentTruth, RefundStatus, RefundTruth
from standpipe.payments.refund_states import RefundState
from standpipe.payments.split import PaymentPosition, Split, TakeBack, as_agreed, split, take_back
from standpipe.payments.state import (
    Around,
    Changes,
    HeldMoney,
    MeterMoney,
    NewSuspense,
    PaymentState,
    Poll,
    RefundRow,
)
from standpipe.payments.volume import buy_with_wallet, unbuy, unsent_minor
from standpipe.platform.errors import InsufficientFundsError
from standpipe.platform.ids import new_id

_ENDS = {RefundStatus.SUCCEEDED: RefundState.DONE, RefundStatus.FAILED: RefundState.FAILED}
_log = structlog.get_logger(__name__)


class Funded(Protocol):
    """Fields of a payment's facts that say who pays it, and for which meter."""

    @property
    def rail(self) -> str: ...
    @property
    def origin(self) -> str: ...
    @property
    def funder_id(self) -> str | None: ...
    @property
    def currency(self) -> str: ...
    @property
    def meter_id(self) -> str: ...


@dataclass
class _Draft:
    """A decision while it is made."""

    payment: PaymentState
    meter: MeterMoney
    around: Around
    now: datetime
    postings: list[Posting] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    refunds: dict[str, RefundRow] = field(default_factory=dict)
    resolved: dict[str, HeldMoney] = field(default_factory=dict)
    suspense: list[NewSuspense] = field(default_factory=list)
    captured_rose: bool = False

    def set(self, **values: Any) -> None:
        """Change the payment."""
        self.payment = replace(self.payment, **values)

    def post(self, key: str, kind: str, lines: list[Line], *, states_fact: bool = False) -> None:
        """Post, where there is anything to post; lines of zero are left out."""
        lines = [line for line in lines if line.amount_minor]
        if lines:
            posting = Posting(key, kind, lines, self.now, states_fact=states_fact)
            self.postings.append(posting)
            self.meter = self.meter.after(posting)

    def grant(self, credit_key: str, amount_minor: int) -> None:
        """Raise a MONEY meter's total; a VOLUME meter is given what its wallet buys."""
        if self.meter.volume is None and amount_minor:
            credit = granted(
                self.meter.credit,
                credit_key=credit_key,
                source_id=self.payment.top_up_id,
                amount=amount_minor,
                now=self.now,
            )
            self.meter = replace(self.meter, credit=credit)

    def revoke(self, amount_minor: int) -> bool:
        """Make this much of the payment's credit free to leave the wallet; whether a purchase was reversed for it.

        Raises InvalidInputError where the meter holds it (or, volume, may hold it).
        """
        if self.meter.volume is not None:
            self.meter, postings = unbuy(
                self.meter, source_id=self.payment.top_up_id, amount_minor=amount_minor, now=self.now
            )
            self.postings += postings
            return bool(postings)
        credit = retracted(self.meter.credit, source_id=self.payment.top_up_id, amount=amount_minor)
        self.meter = replace(self.meter, credit=credit)
        return False

    def buy(self, posting_key: str, *, at_quote: bool) -> None:
        """Let a VOLUME meter's wallet buy, at the prices of the quote where there was one."""
        if self.meter.wallet_minor <= 0:
            return
        quoted_on = day_quoted(self.payment.agreed, self.payment.created_at, self.now) if at_quote else None
        self.meter, postings = buy_with_wallet(
            self.meter, source_id=self.payment.top_up_id, posting_key=posting_key, now=self.now, quoted_on=quoted_on
        )
        self.postings += postings

    def changes(self, **others: Any) -> Changes:
        """Return the changes that came of it."""
        return Changes(
            payment=self.payment,
            meter=self.meter,
            postings=tuple(self.postings),
            statuses=tuple(self.statuses),
            facts=tuple(self.facts),
            refunds=tuple(self.refunds.values()),
            resolved=tuple(self.resolved.values()),
            suspense=tuple(self.suspense),
            captured_rose=self.captured_rose,
            **others,
        )


def decide(
    payment: PaymentState,
    meter: MeterMoney,
    around: Around,
    truth: PaymentTruth,
    now: datetime,
    polls_s: tuple[int, ...],
) -> Changes:
    """Decide what the rail's truth makes of a payment and of its meter.

    ``polls_s``: the rail's schedule of questions. Where the truth is another payment's, nothing of it is booked here:
    it is a second payment for the same order (``Changes.second``), or somebody's mistake, and waits for a person.
    """
    draft = _Draft(payment, meter, around, now)
    if not is_same_payment(payment, truth):
        return draft.changes(poll=next_poll(payment, polls_s), problem="this payment is not the top-up's")
    if payment.rail_ref not in (None, truth.rail_ref) and truth.rail_ref != payment.alias_ref:
        if around.known_as is not None:
            return draft.changes(poll=next_poll(payment, polls_s), wake=around.known_as)
        return draft.changes(poll=next_poll(payment, polls_s), second=truth)
    if truth.captured_is_request:
        truth = replace(truth, captured_minor=payment.asked_minor, requested_minor=payment.asked_minor)
    if around.elsewhere is not None and not payment.captured_minor and truth.captured_minor:
        # Not credited and not dropped: it stands in the report until a person has looked.
        error = "the provider names the same receipt for this and for another payment"
        return draft.changes(poll=Poll(None, dead=True, error=error), problem=f"this money is {around.elsewhere}'s")
    draft.set(**_names_of(payment, truth))
    if truth.currency == payment.currency:
        source = _out_of_suspense(draft, truth)
        _capture(draft, truth.captured_minor, source)
        _book_reversals(draft, truth)
        _book_dispute_fee(draft, truth.dispute_fee_minor)
        for refund in truth.refunds:
            _apply_refund(draft, refund)
    else:
        _hold_foreign(draft, truth)
    _move_status(draft, truth)
    if truth.next_action is not None:
        # Merged, for what came with the creation alone (a key to the customer's cards) is not told again.
        draft.set(next_action=(draft.payment.next_action or {}) | truth.next_action)
    if _version_fields(draft.payment) != _version_fields(payment):
        draft.set(version=payment.version + 1, updated_at=now)
    card = truth.saved_card if payment.customer_id is not None else None
    return draft.changes(poll=next_poll(draft.payment, polls_s), card=card)


def first_answer(
    payment: PaymentState, truth: PaymentTruth, now: datetime, polls_s: tuple[int, ...]
) -> tuple[PaymentState, Poll] | None:
    """Apply the answer to a create that moves no money and ends nothing; None for another, which ``decide`` takes."""
    moves = truth.captured_minor or truth.refunded_minor or truth.disputed_minor or truth.captured_is_request
    simple = truth.status is PaymentStatus.PENDING and truth.reference == payment.id
    if moves or truth.saved_card is not None or not simple or truth.currency != payment.currency:
        return None
    values: dict[str, Any] = {**_names_of(payment, truth), "status": truth.status, "updated_at": now}
    payment = replace(payment, **values, next_action=truth.next_action, version=payment.version + 1)
    return payment, next_poll(payment, polls_s)


def capture(
    payment: PaymentState, meter: MeterMoney, amount_minor: int, now: datetime, source: AccountRef | None = None
) -> Changes:
    """Cash, a voucher or an item out of suspense: all of it is paid, and nobody needs to be asked."""
    draft = _Draft(payment, meter, Around(), now)
    _capture(draft, amount_minor, source)
    if payment.status != PaymentStatus.SUCCEEDED:
        draft.statuses.append(PaymentStatus.SUCCEEDED)
    draft.set(status=PaymentStatus.SUCCEEDED, version=payment.version + 1, updated_at=now)
    return draft.changes(poll=Poll(None))


def hold_for_refund(
    payment: PaymentState, meter: MeterMoney, amount_minor: int, refund_id: str, now: datetime
) -> Changes:
    """Take undelivered credit off the meter's total and out of the wallet, for a refund.

    Raises InvalidInputError where the meter holds it (or, volume, may hold it), InsufficientFundsError where its water
    has run already.
    """
    draft = _Draft(payment, meter, Around(), now)
    unbought = draft.revoke(amount_minor)
    if draft.meter.wallet_minor < amount_minor:
        raise InsufficientFundsError(meter.id, draft.meter.wallet_minor, amount_minor, 0)
    key = f"refund:{refund_id}:held"
    lines = [
        Line(meter.wallet, -amount_minor),
        Line(AccountRef(AccountKind.REFUND_DUE, payment.rail, payment.currency), amount_minor),
    ]
    draft.post(key, "REFUND_HELD", lines)
    if unbought:
        draft.buy(key, at_quote=True)
    draft.set(held_minor=payment.held_minor + amount_minor, version=payment.version + 1)
    return draft.changes()


def release_hold(payment: PaymentState, meter: MeterMoney, amount_minor: int, refund_id: str, now: datetime) -> Changes:
    """A refund came to nothing: what was held is credit again. Less, where a dispute has eaten of it meanwhile."""
    draft = _Draft(payment, meter, Around(), now)
    _release_hold(draft, amount_minor, refund_id)
    return draft.changes()


def book_dispute_fee(payment: PaymentState, meter: MeterMoney, fee_minor: int, now: datetime) -> Changes:
    """Book the cost of this payment's disputes, once, whether the dispute or the settlement file says it first."""
    draft = _Draft(payment, meter, Around(), now)
    _book_dispute_fee(draft, fee_minor)
    return draft.changes()


def is_same_payment(payment: PaymentState, truth: PaymentTruth) -> bool:
    """Tell whether the rail's payment is this order's, or the very payment that we asked about."""
    if truth.reference is None:
        # Money that nobody ordered, or a rail that does not carry our words: the provider's own id must be ours.
        return payment.rail_ref == truth.rail_ref
    return truth.reference in {payment.id, payment.top_up_id, payment.account_reference}


def takes_back(payment: PaymentState, truth: PaymentTruth) -> bool:
    """Tell whether the rail tells of a refund or a dispute that is not booked as it stands."""
    return (truth.refunded_minor, truth.disputed_minor) != (payment.refunded_minor, payment.disputed_minor)


def next_poll(payment: PaymentState, polls_s: tuple[int, ...]) -> Poll:
    """Schedule the next question; ``attempts`` counts those so far. After the last step a person must look.

    A success is not polled: refunds and disputes come as notices. A failure is, because it can still succeed.
    """
    if payment.status == PaymentStatus.SUCCEEDED:
        return Poll(None)
    if payment.attempts >= len(polls_s):
        return Poll(None, dead=True)
    return Poll(polls_s[payment.attempts])


def funding(payment: Funded) -> AccountRef:
    """The account that a payment is paid from."""
    if payment.origin == "AGENT":
        return AccountRef(AccountKind.FLOAT, payment.funder_id or "", payment.currency)
    if payment.origin == "VOUCHER":
        return AccountRef(AccountKind.VOUCHERS, payment.funder_id or "", payment.currency)
    return AccountRef(AccountKind.CLEARING, payment.rail, payment.currency)


def captured_lines(payment: Funded, parts: Split, source: AccountRef, utility_id: str) -> list[Line]:
    """Split a captured payment's posting into its lines; none is zero."""
    currency, meter_id = payment.currency, payment.meter_id
    lines = [
        Line(source, -parts.paid_minor),
        Line(AccountRef(AccountKind.WALLET, meter_id, currency), parts.credit_minor),
        Line(AccountRef(AccountKind.EMERGENCY, meter_id, currency), parts.emergency_minor),
        Line(AccountRef(AccountKind.STANDING_DUE, meter_id, currency), parts.standing_minor),
        Line(AccountRef(AccountKind.RECEIVABLE, meter_id, currency), parts.debt_minor),
        Line(AccountRef(AccountKind.SERVICE_FEES, utility_id, currency), parts.fee_minor),
    ]
    return [line for line in lines if line.amount_minor]


def _names_of(payment: PaymentState, truth: PaymentTruth) -> dict[str, str | None]:
    """The names that the rail has for this payment. Only the rail's own answer gives a payment a name (P52)."""
    rail_ref = payment.rail_ref if truth.rail_ref == payment.alias_ref else truth.rail_ref
    alias_ref = payment.alias_ref or (truth.aliases[0] if truth.aliases else None)
    receipt_ref = payment.receipt_ref or (truth.receipt_ref if truth.captured_minor else None)
    return {"rail_ref": rail_ref, "alias_ref": alias_ref, "receipt_ref": receipt_ref}


def _version_fields(payment: PaymentState) -> tuple[object, ...]:
    """Return what makes a settlement a change that everybody else must see before they apply theirs."""
    return (
        *(payment.status, payment.captured_minor, payment.refunded_minor, payment.disputed_minor),
        *(payment.suspense_minor, payment.next_action, payment.dispute, payment.dispute_fee_minor),
        payment.held_minor,
    )


def _capture(draft: _Draft, captured_minor: int, source: AccountRef | None) -> None:
    """Credit what has been captured beyond what is booked."""
    payment = draft.payment
    difference_minor = captured_minor - payment.captured_minor
    if difference_minor < 0:
        _log.error("captured total fell", payment_id=payment.id, by_minor=-difference_minor)
    if difference_minor <= 0:
        return
    owing, quoted = draft.meter.owing, False
    if payment.agreed is not None and difference_minor == captured_minor == payment.asked_minor:
        parts, quoted = as_agreed(captured_minor, payment.agreed, owing), True
    else:
        parts = split(difference_minor, fee_minor=payment.fee_agreed_minor - payment.fee_minor, owing=owing)
    draft.grant(f"{payment.id}:captured:{captured_minor}", parts.credit_minor)
    key = f"{payment.rail}:{payment.rail_ref}:captured:{captured_minor}"
    draft.post(key, "TOP_UP", captured_lines(payment, parts, source or funding(payment), draft.meter.utility_id))
    draft.buy(key, at_quote=quoted)
    draft.set(
        captured_minor=captured_minor,
        fee_minor=payment.fee_minor + parts.fee_minor,
        emergency_minor=payment.emergency_minor + parts.emergency_minor,
        standing_minor=payment.standing_minor + parts.standing_minor,
        debt_minor=payment.debt_minor + parts.debt_minor,
    )
    draft.facts.append(TopUpPaid(payment.top_up_id, payment.id, payment.meter_id, captured_minor, key))
    draft.captured_rose = True


def _book_reversals(draft: _Draft, truth: PaymentTruth) -> None:
    """Book what refunds and disputes took, or gave back again, beyond what is booked (P35 to P40)."""
    payment, meter = draft.payment, draft.meter
    # Where more was captured since, more of what went back is the customer's, and less is lost.
    target_minor = min(payment.captured_minor, truth.refunded_minor + truth.disputed_minor)
    booked = (payment.refunded_minor, payment.disputed_minor, payment.taken_back_minor)
    if (truth.refunded_minor, truth.disputed_minor, target_minor) == booked:
        return
    position = PaymentPosition(
        captured_minor=payment.captured_minor,
        refunded_minor=payment.refunded_minor,
        disputed_minor=payment.disputed_minor,
        taken_back_minor=payment.taken_back_minor,
        held_minor=payment.held_minor,
        owed_minor=payment.owed_minor,
        revocable_minor=_revocable_minor(meter, payment.top_up_id),
        debt_minor=meter.owing.debt_minor,
    )
    plan = take_back(position, truth.refunded_minor, truth.disputed_minor)
    unbought = draft.revoke(plan.revoked_minor) if plan.revoked_minor else False
    # A total that falls again is no new fact to the key, so the version makes each step its own.
    key = f"{payment.rail}:{payment.rail_ref}:back:{truth.refunded_minor}:{truth.disputed_minor}:v{payment.version}"
    draft.grant(f"{payment.id}:again:{key}", plan.returned_minor)
    draft.post(key, "TAKEN_BACK", _reversal_lines(payment, plan), states_fact=True)
    if plan.returned_minor or unbought:
        draft.buy(key, at_quote=True)
    theirs_minor = plan.moved_minor - plan.lost_minor
    owed_minor = plan.owed_minor if theirs_minor >= 0 else -min(-theirs_minor, payment.owed_minor)
    draft.set(
        owed_minor=payment.owed_minor + owed_minor,
        taken_back_minor=payment.taken_back_minor + theirs_minor,
        held_minor=payment.held_minor - plan.held_minor,
        refunded_minor=truth.refunded_minor,
        disputed_minor=truth.disputed_minor,
    )
    draft.facts.append(MoneyTakenBack(payment.top_up_id, payment.id, payment.meter_id, key))


def _reversal_lines(payment: PaymentState, plan: TakeBack) -> list[Line]:
    currency, meter_id, rail = payment.currency, payment.meter_id, payment.rail
    return [
        Line(funding(payment), plan.moved_minor),
        Line(AccountRef(AccountKind.REFUND_DUE, rail, currency), -plan.held_minor),
        Line(AccountRef(AccountKind.WALLET, meter_id, currency), plan.returned_minor - plan.revoked_minor),
        Line(AccountRef(AccountKind.RECEIVABLE, meter_id, currency), -plan.owed_minor),
        Line(AccountRef(AccountKind.LOSSES, rail, currency), -plan.lost_minor),
    ]


def _revocable_minor(meter: MeterMoney, source_id: str) -> int:
    """Return the minor units of a top-up's credit that can still be had from its meter's wallet.

    Of a VOLUME meter: what made no whole unit, and what was paid for water that never left us. The rest is sold.
    """
    if meter.volume is not None:
        return meter.wallet_minor + unsent_minor(meter, source_id)
    return min(meter.credit.free_to_retract(source_id), meter.wallet_minor)


def _book_dispute_fee(draft: _Draft, fee_minor: int) -> None:
    payment = draft.payment
    difference_minor = fee_minor - payment.dispute_fee_minor
    if difference_minor <= 0:
        return
    lines = [
        Line(funding(payment), difference_minor),
        Line(AccountRef(AccountKind.PROVIDER_FEES, payment.rail, payment.currency), -difference_minor),
    ]
    draft.post(f"{payment.rail}:{payment.rail_ref}:dispute-fee:{fee_minor}", "PROVIDER_FEE", lines)
    draft.set(dispute_fee_minor=fee_minor)


def _apply_refund(draft: _Draft, truth: RefundTruth) -> None:
    """Move the row of one refund; one made in the provider's dashboard has none (P38).

    The money is booked before, from the payment's totals; here only what was held and not used is given back.
    """
    rows = {row.rail_ref: row for row in (*draft.around.refunds, *draft.refunds.values())}
    refund, state = rows.get(truth.rail_ref), _ENDS.get(truth.status)
    if refund is None or state is None or refund.status == state:
        return
    if state is RefundState.FAILED and refund.status != RefundState.DONE:
        _release_hold(draft, refund.amount_minor, refund.id)
    draft.refunds[refund.id] = replace(refund, status=state, failure_code=truth.failure_code)


def _release_hold(draft: _Draft, amount_minor: int, refund_id: str) -> None:
    payment = draft.payment
    amount_minor = min(amount_minor, payment.held_minor)
    if not amount_minor:
        return
    draft.grant(f"{payment.id}:again:refund:{refund_id}", amount_minor)
    key = f"refund:{refund_id}:released"
    lines = [
        Line(AccountRef(AccountKind.REFUND_DUE, payment.rail, payment.currency), -amount_minor),
        Line(draft.meter.wallet, amount_minor),
    ]
    draft.post(key, "REFUND_RELEASED", lines)
    draft.buy(key, at_quote=True)
    draft.set(held_minor=payment.held_minor - amount_minor, version=payment.version + 1)


def _hold_foreign(draft: _Draft, truth: PaymentTruth) -> None:
    """Money in another currency than asked for is never converted by guess (P22): it waits in suspense.

    What the provider gave back of it leaves suspense again.
    """
    payment = draft.payment
    held_minor = truth.captured_minor - truth.refunded_minor - truth.disputed_minor
    difference_minor = held_minor - payment.suspense_minor
    if not difference_minor:
        return
    key = f"{payment.rail}:{truth.rail_ref}:foreign:{held_minor}:v{payment.version}"
    clearing = AccountRef(AccountKind.CLEARING, payment.rail, truth.currency)
    suspense = AccountRef(AccountKind.SUSPENSE, payment.rail, truth.currency)
    kind = "SUSPENSE" if difference_minor > 0 else "SUSPENSE_RETURNED"
    draft.post(key, kind, [Line(clearing, -difference_minor), Line(suspense, difference_minor)])
    if difference_minor > 0:
        reason = f"paid in {truth.currency}, asked for in {payment.currency}"
        item = NewSuspense(
            new_id("sus"), key, payment.rail, truth, difference_minor, reason, None, payment.id, draft.now
        )
        draft.suspense.append(item)
        draft.facts.append(MoneyInSuspense(payment.top_up_id, reason))
        _log.error("money in suspense", rail=payment.rail, rail_ref=truth.rail_ref, reason=reason)
    else:
        left_minor = -difference_minor
        for held in draft.around.waiting:
            if held.payment_id == payment.id and held.amount_minor <= left_minor:
                left_minor -= held.amount_minor
                draft.resolved[held.id] = replace(held, status="RETURNED", resolved_by="the provider")
    draft.set(suspense_minor=held_minor)


def _out_of_suspense(draft: _Draft, truth: PaymentTruth) -> AccountRef | None:
    """The suspense account, where this very money has been waiting: a statement told of it before the payment did.

    None where it has not. The item is resolved; what is posted comes out of the account, or it would count twice.
    """
    payment = draft.payment
    if payment.captured_minor or not truth.captured_minor:
        return None
    theirs = {truth.rail_ref, *truth.aliases, truth.receipt_ref}
    for item in draft.around.waiting:
        same = (item.rail, item.currency, item.amount_minor) == (payment.rail, truth.currency, truth.captured_minor)
        if same and item.rail_ref in theirs:
            draft.resolved[item.id] = replace(item, status="ASSIGNED", resolved_by="settle", payment_id=payment.id)
            return AccountRef(AccountKind.SUSPENSE, payment.rail, truth.currency)
    return None


def _move_status(draft: _Draft, truth: PaymentTruth) -> None:
    payment, status = draft.payment, truth.status
    if payment.captured_minor or payment.suspense_minor:
        status = PaymentStatus.SUCCEEDED
    failed = status is PaymentStatus.FAILED
    draft.set(
        dispute=truth.dispute,
        failure_code=truth.failure_code if failed else None,
        failure_message=truth.failure_message if failed else None,
        status=status,
    )
    if status != payment.status:
        draft.statuses.append(status)
        if failed:
            draft.facts.append(TopUpFailed(payment.top_up_id, payment.meter_id, truth.failure_code or "unknown"))
