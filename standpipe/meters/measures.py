"""The columns in which each kind of wallet counts. All else about delivery is the same for both (decision 13)."""

from dataclasses import dataclass

from sqlalchemy.orm import InstrumentedAttribute

from standpipe.meters.models import CreditGrant, Meter, MeterState, WalletKind


@dataclass(frozen=True, slots=True)
class Measure:
    """Columns in which one kind of wallet keeps its totals: on the meter, its state, and each step of the total."""

    granted: InstrumentedAttribute[int]
    accepted: InstrumentedAttribute[int]
    amount: InstrumentedAttribute[int]
    total_after: InstrumentedAttribute[int]
    revoked: InstrumentedAttribute[int]

    def granted_to(self, meter: Meter) -> int:
        """The total that we state to a meter, in its own unit."""
        return int(getattr(meter, self.granted.key))

    def add_granted(self, meter: Meter, amount: int) -> int:
        """Raise (or lower) that total; returns it."""
        total = self.granted_to(meter) + amount
        setattr(meter, self.granted.key, total)
        return total

    def above(self, step: CreditGrant, total: int) -> int:
        """The part of a step that lies above a total."""
        after = int(getattr(step, self.total_after.key))
        before = after - (int(getattr(step, self.amount.key)) - int(getattr(step, self.revoked.key)))
        return max(after - max(total, before), 0)


MONEY = Measure(
    granted=Meter.credit_granted_minor,
    accepted=MeterState.credit_accepted_minor,
    amount=CreditGrant.amount_minor,
    total_after=CreditGrant.total_after_minor,
    revoked=CreditGrant.revoked_minor,
)
VOLUME = Measure(
    granted=Meter.volume_granted_ml,
    accepted=MeterState.volume_accepted_ml,
    amount=CreditGrant.volume_ml,
    total_after=CreditGrant.total_after_ml,
    revoked=CreditGrant.revoked_ml,
)


def measure_of(meter: Meter) -> Measure:
    """Return the columns of a meter's kind of wallet."""
    return VOLUME if meter.wallet_kind == WalletKind.VOLUME else MONEY
