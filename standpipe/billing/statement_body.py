"""The body of a monthly statement. Pure data, kept as JSON when the statement is made."""

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from standpipe.platform.units import local_midnight
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

    def from_day(self, day: date) -> "Bill":
        """Return this line, told to begin on the given day at the earliest."""
        lines = tuple(line.model_copy(update={"since": max(line.since, day)}) for line in self.lines)
        return self.model_copy(update={"lines": lines})


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
    """Turn the engine's priced period into the lines that a statement keeps."""
    return Bill(volume_ml=volume_ml, total_minor=priced.total_minor, lines=tuple(_line(item) for item in priced.lines))


EMPTY = Bill(volume_ml=0, total_minor=0, lines=())


def is_balanced(body: StatementBody) -> bool:
    """Tell whether every account's lines explain its change, to the minor unit."""
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


def of_household(body: StatementBody, since: date) -> StatementBody:
    """Cut a month down to what those may see who have lived there since a day; it still adds up to the same closing.

    The month begins for them with that day. An adjustment of before it is what it comes to, and nothing is told of it.
    """
    adjustments = tuple(item if item.period_start >= since else _untold(item) for item in body.adjustments)
    if since <= body.period_start:
        return body.model_copy(update={"adjustments": adjustments})
    at = local_midnight(since, ZoneInfo(body.time_zone))
    movements = tuple(item for item in body.movements if item.at >= at)
    daily_ml = {day: volume_ml for day, volume_ml in body.daily_ml.items() if day >= since}
    use, standing = _since(body.use, since, sum(daily_ml.values())), _since(body.standing, since, 0)
    accounts: dict[str, AccountSpan] = {}
    for kind, span in body.accounts.items():
        change = sum(item.amounts.get(kind, 0) for item in movements)
        change -= sum(item.difference_minor for item in adjustments if item.account == kind)
        change -= {"WALLET": use.total_minor, "STANDING_DUE": standing.total_minor}.get(kind, 0)
        accounts[kind] = AccountSpan(opening_minor=span.closing_minor - change, closing_minor=span.closing_minor)
    update = {
        "period_start": since,
        "accounts": accounts,
        "movements": movements,
        "use": use,
        "standing": standing,
        "adjustments": adjustments,
        "daily_ml": daily_ml,
    }
    return body.model_copy(update=update)


def _since(bill: Bill, since: date, volume_ml: int) -> Bill:
    """The lines from a day on: a move cuts every line."""
    return _bill(volume_ml, (line for line in bill.lines if line.since >= since))


def _bill(volume_ml: int, lines: Iterable[StatementLine]) -> Bill:
    kept = tuple(lines)
    return Bill(volume_ml=volume_ml, total_minor=sum(line.amount_minor for line in kept), lines=kept)


def _untold(item: Adjustment) -> Adjustment:
    line = StatementLine(
        kind="ELSEWHERE",
        code="elsewhere",
        name="",
        since=item.period_start,
        until=item.period_start,
        tier=None,
        quantity=0,
        rate=None,
        amount_minor=item.difference_minor,
    )
    return item.model_copy(update={"was": EMPTY, "now": _bill(0, (line,))})


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
