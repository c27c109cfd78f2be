"""The split of a payment: fee, emergency credit repaid, standing charges, debt share, credit. Pure and exact.

paid = credit + debt + standing + emergency + fee, always.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from standpipe.platform.units import MAX_MINOR

FULL_PERCENT = 100
FULL_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class FeeRule:
    """Price of a way to pay: hundredths of a percent of the payment, and a fixed part."""

    basis_points: int = 0
    fixed_minor: int = 0


NO_FEE = FeeRule()


@dataclass(frozen=True, slots=True)
class Owing:
    """Dues of a meter when it is topped up, and how much of a payment may go to them.

    Emergency credit is repaid first and whole: it was water. ``guaranteed_minor`` of what is left then buys water
    before standing charges and debt take anything; debt takes at most ``share_percent`` of it, and no more than
    ``weekly_left_minor`` (None: no weekly cap).
    """

    emergency_minor: int = 0
    standing_minor: int = 0
    debt_minor: int = 0
    share_percent: int = 0
    weekly_left_minor: int | None = None
    guaranteed_minor: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of a payment; they sum to ``paid_minor``."""

    paid_minor: int
    fee_minor: int
    emergency_minor: int
    standing_minor: int
    debt_minor: int
    credit_minor: int

    def kept_back(self) -> dict[str, int]:
        """Return what does not become credit, by its code, in the order in which it is taken."""
        parts = {
            "FEE": self.fee_minor,
            "EMERGENCY": self.emergency_minor,
            "STANDING": self.standing_minor,
            "DEBT": self.debt_minor,
        }
        return {code: amount for code, amount in parts.items() if amount}


def fee_for(rule: FeeRule, pay_minor: int) -> int:
    """The fee on a payment, rounded half up once, and never more than the payment."""
    share = (pay_minor * rule.basis_points * 2 + FULL_POINTS) // (2 * FULL_POINTS)
    return min(share + rule.fixed_minor, pay_minor)


def split(paid_minor: int, *, fee_minor: int, owing: Owing) -> Split:
    """Part a payment (or the newest step of one). The debt's share is rounded down, in the customer's favour."""
    fee_minor = min(fee_minor, paid_minor)
    emergency_minor = min(owing.emergency_minor, paid_minor - fee_minor)
    rest_minor = paid_minor - fee_minor - emergency_minor
    room_minor = max(rest_minor - owing.guaranteed_minor, 0)
    standing_minor = min(owing.standing_minor, room_minor)
    caps = [owing.debt_minor, rest_minor * owing.share_percent // FULL_PERCENT, room_minor - standing_minor]
    if owing.weekly_left_minor is not None:
        caps.append(max(owing.weekly_left_minor, 0))
    debt_minor = min(caps)
    credit_minor = rest_minor - standing_minor - debt_minor
    return Split(paid_minor, fee_minor, emergency_minor, standing_minor, debt_minor, credit_minor)


def as_agreed(paid_minor: int, agreed: Mapping[str, int], owing: Owing) -> Split:
    """The parts that a customer was quoted; less is kept back where less is owed by now, never more."""
    fee_minor = min(agreed.get("FEE", 0), paid_minor)
    emergency_minor = min(agreed.get("EMERGENCY", 0), owing.emergency_minor)
    standing_minor = min(agreed.get("STANDING", 0), owing.standing_minor)
    debt_minor = min(agreed.get("DEBT", 0), owing.debt_minor)
    if owing.weekly_left_minor is not None:
        debt_minor = min(debt_minor, max(owing.weekly_left_minor, 0))
    credit_minor = paid_minor - fee_minor - emergency_minor - standing_minor - debt_minor
    return Split(paid_minor, fee_minor, emergency_minor, standing_minor, debt_minor, credit_minor)


def pay_for(credit_minor: int, rule: FeeRule, owing: Owing) -> int | None:
    """The least payment whose credit reaches ``credit_minor``; None where what is kept back leaves none of it.

    Credit never falls as the payment grows, so it is found by halving.
    """

    def credit_of(pay_minor: int) -> int:
        return split(pay_minor, fee_minor=fee_for(rule, pay_minor), owing=owing).credit_minor

    low_minor, high_minor = 0, MAX_MINOR
    if credit_of(high_minor) < credit_minor:
        return None
    while low_minor < high_minor:
        middle_minor = (low_minor + high_minor) // 2
        if credit_of(middle_minor) >= credit_minor:
            high_minor = middle_minor
        else:
            low_minor = middle_minor + 1
    return low_minor


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Shares of those who bear money that the provider gave back to the payer.

    ``moved_minor`` left the provider's clearing; of it ``held_minor`` was set aside for a refund, ``revoked_minor``
    is taken out of the wallet with credit that never reached the meter, ``owed_minor`` the meter now owes, and
    ``lost_minor`` was taken twice, by a refund and a dispute: ours to win back. Below zero it all runs backwards:
    ``returned_minor`` goes to the wallet again as new credit.
    """

    moved_minor: int
    held_minor: int = 0
    revoked_minor: int = 0
    owed_minor: int = 0
    lost_minor: int = 0
    returned_minor: int = 0


@dataclass(frozen=True, slots=True)
class PaymentPosition:
    """State of a payment and its meter before money is taken back. ``debt_minor`` is what the meter owes in all."""

    captured_minor: int
    refunded_minor: int
    disputed_minor: int
    taken_back_minor: int
    held_minor: int
    owed_minor: int
    revocable_minor: int
    debt_minor: int


def take_back(position: PaymentPosition, refunded_minor: int, disputed_minor: int) -> TakeBack:
    """The difference between what was given back now and what was booked; P35 to P40 of the payment's life.

    Never more than was captured is taken back from the customer, whatever the provider took (P39).
    """
    moved = refunded_minor - position.refunded_minor + disputed_minor - position.disputed_minor
    target = min(position.captured_minor, refunded_minor + disputed_minor)
    theirs = target - position.taken_back_minor
    lost = moved - theirs
    if theirs < 0:
        settled = min(-theirs, position.owed_minor)
        to_debt = min(settled, max(position.debt_minor, 0))
        return TakeBack(moved, owed_minor=-to_debt, lost_minor=lost, returned_minor=-theirs - to_debt)
    held = min(theirs, position.held_minor)
    revoked = min(theirs - held, max(position.revocable_minor, 0))
    return TakeBack(moved, held, revoked, theirs - held - revoked, lost)
