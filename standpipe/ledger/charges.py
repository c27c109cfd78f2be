"""The lines of a charge: from whoever pays to the utility's own revenue and to each levy's account."""

from collections.abc import Mapping

from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, Line


def charge_lines(
    payer: AccountRef, utility_id: str, before: Mapping[str, int], after: Mapping[str, int], *, own_code: str
) -> list[Line]:
    """The difference between two totals by code; ``own_code`` is the utility's, others are levies'. None is zero."""
    moved: dict[AccountRef, int] = {}
    for code in sorted({*before, *after}):
        kind, owner_id = AccountKind.LEVIES, f"{utility_id}/{code}"
        if code == own_code:
            kind, owner_id = AccountKind.REVENUE, utility_id
        ref = AccountRef(kind, owner_id, payer.currency)
        moved[ref] = moved.get(ref, 0) + after.get(code, 0) - before.get(code, 0)
    moved[payer] = -sum(moved.values())
    return [Line(ref, amount_minor) for ref, amount_minor in moved.items() if amount_minor]
