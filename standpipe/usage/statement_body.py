"""What stands in a monthly statement. Pure data, kept as JSON when the statement is made."""

from datetime import date, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from standpipe.tariffs.periods import BillLine, Priced


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AccountSpan(_Part):
    """An account over the month; the wallet's balance is what may be used, the others' below zero what is owed."""

    opening_minor: int
    closing_minor: int


class Movement(_Part):
    """Money that moved for a reason other than use: a top-up, a refund, emergency credit. Amounts by account kind.

    ``paid_minor`` came from outside (below zero: went back), ``fee_minor`` of it was our service fee.
    """

    at: datetime
    kind: str
    amounts: dict[str, int]
    paid_minor: int
    fee_minor: int


class StatementLine(_Part):
    """A line of the bill; see ``tariffs.periods.BillLine``."""

    kind: str
    code: str
    name: str
    since: date
    until: date
    tier: int | None
    quantity: int
    rate: Decimal | None
    amount_minor: int


class Bill(_Part):
    """A period's charges; the lines sum to the total. ``volume_ml`` is 0 for standing charges."""

    volume_ml: int
    total_minor: int
    lines: tuple[StatementLine, ...]


class Adjustment(_Part):
    """An earlier period that came to cost something else, because readings came late or were corrected."""

    period_start: date
    account: str
    was: Bill
    now: Bill
    difference_minor: int


class StatementBody(_Part):
    """A month of one meter: opening + movements − charges − adjustments = closing, in each account."""

    currency: str
    utility_name: str
    serial: str
    label: str
    time_zone: str
    period_start: date
    period_end: date
    accounts: dict[str, AccountSpan]
    movements: tuple[Movement, ...]
    use: Bill
    standing: Bill
    adjustments: tuple[Adjustment, ...]
    daily_ml: dict[date, int]


def bill_of(priced: Priced, volume_ml: int) -> Bill:
    """What the engine says, as a statement keeps it."""
    return Bill(volume_ml=volume_ml, total_minor=priced.total_minor, lines=tuple(_line(item) for item in priced.lines))


EMPTY = Bill(volume_ml=0, total_minor=0, lines=())


def is_balanced(body: StatementBody) -> bool:
    """Whether every account's lines explain its change, to the minor unit."""
    for kind, span in body.accounts.items():
        moved = sum(item.amounts.get(kind, 0) for item in body.movements)
        charged = sum(item.difference_minor for item in body.adjustments if item.account == kind)
        if kind == "WALLET":
            charged += body.use.total_minor
        if kind == "STANDING_DUE":
            charged += body.standing.total_minor
        if span.opening_minor + moved - charged != span.closing_minor:
            return False
    bills = (body.use, body.standing)
    return all(sum(line.amount_minor for line in bill.lines) == bill.total_minor for bill in bills)


def _line(item: BillLine) -> StatementLine:
    return StatementLine(
        kind=item.kind,
        code=item.code,
        name=item.name,
        since=item.since,
        until=item.until,
        tier=item.tier,
        quantity=item.quantity,
        rate=item.rate,
        amount_minor=item.amount_minor,
    )
