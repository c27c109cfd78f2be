"""Dues of a meter, under its utility's rules. Pure."""

from standpipe.ledger.dues import Dues
from standpipe.payments.split import Owing


def owing(dues: Dues, *, share_percent: int, weekly_cap_minor: int | None, guaranteed_minor: int) -> Owing:
    """The ledger's dues (minor units) under a utility's rules."""
    return Owing(
        emergency_minor=dues.emergency_minor,
        standing_minor=dues.standing_minor,
        debt_minor=dues.debt_minor,
        share_percent=share_percent,
        weekly_left_minor=None if weekly_cap_minor is None else max(weekly_cap_minor - dues.repaid_minor, 0),
        guaranteed_minor=guaranteed_minor,
    )
