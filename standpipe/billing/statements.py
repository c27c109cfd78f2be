"""Monthly statements: opening, top-ups, charges by block, adjustments, closing; to the cent what the ledger says.

A month's statement is made some days after its end, when late readings have come; until then anybody may look at it
as it stands. Once made it never changes: what comes later for its month stands in a later one, as an adjustment.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.charges import contract_for, period_use
from standpipe.billing.closing_rule import ACCOUNTS
from standpipe.billing.models import StandingCharged, Statement, StatementCounter
from standpipe.billing.rounds import rate_now
from standpipe.billing.statement_body import (
    EMPTY,
    AccountSpan,
    Adjustment,
    Bill,
    Movement,
    StatementBody,
    StatementLine,
    bill_of,
    is_balanced,
    of_household,
)
from standpipe.billing.use import priced_use
from standpipe.ledger.models import Account, AccountKind, Entry, LedgerTransaction
from standpipe.meters.commands import lock_meter
from standpipe.meters.due import MeterDue
from standpipe.meters.models import Meter, WalletKind
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.platform.units import local_midnight, period_of
from standpipe.readings.models import DailyUsage
from standpipe.tariffs.bought import bill_between
from standpipe.tariffs.catalogue import Contract, contracts
from standpipe.tariffs.periods import price_standing
from standpipe.utilities.models import Utility

_CHARGES = frozenset({"USAGE", "STANDING"})
"""Postings whose key names the period that they charge; a PURCHASE charges the month in which it is made."""
_OUTSIDE = frozenset(
    {
        *(AccountKind.CLEARING, AccountKind.FLOAT, AccountKind.VOUCHERS, AccountKind.SUSPENSE),
        *(AccountKind.REFUND_DUE, AccountKind.LOSSES),
    }
)
_log = structlog.get_logger(__name__)


async def tenancy_since(session: AsyncSession, meter_id: str, now: datetime) -> date | None:
    """The first day of those who live at a meter now, or of its standing empty; None where it never changed hands."""
    meter = await session.get(Meter, meter_id)
    if meter is None:
        return None
    zone = ZoneInfo(meter.time_zone)
    known = await contracts(session, {meter.id: (meter.tariff_id, meter.installed_at.astimezone(zone).date())})
    return known[meter.id].tenancy_start(now.astimezone(zone).date())


async def statement_by_month(
    session: AsyncSession, meter_id: str, month: date, now: datetime, *, since: date | None = None
) -> tuple[StatementBody, int | None] | None:
    """A month's statement and its number: as it was made, else as it stands now, with none. None: no such meter.

    ``since``: for a household that moved in that day, which sees nothing of before. Raises InvalidInputError for a
    month to come, for one before the meter's first, and for the month of a move that was noted after its statement.
    """
    meter = await session.get(Meter, meter_id)
    if meter is None:
        return None
    zone = ZoneInfo(meter.time_zone)
    # Before anything is reckoned from it: the last month of the calendar has no next one.
    if month.replace(day=1) > now.astimezone(zone).date():
        raise InvalidInputError(phrase("This month has not begun."), ("month",))
    start = period_of(month)[0]
    _check_supplied(meter, start)
    body, number = await _made(session, meter.id, start) or (await build(session, meter, start), None)
    if since is None:
        return body, number
    uncut = body.standing.lines
    if meter.wallet_kind == WalletKind.VOLUME and since > start:
        # What they bought; a purchase may stand at the blocks of a day before they came.
        bought = await bill_between(
            session, meter.id, local_midnight(since, zone), local_midnight(body.period_end, zone)
        )
        body = body.model_copy(update={"use": bill_of(bought, body.use.volume_ml).from_day(since)})
    else:
        uncut += body.use.lines
    if any(line.since < since < line.until for line in uncut):
        raise InvalidInputError(phrase("This month's statement was made before your move was noted."), ("month",))
    return of_household(body, since), number


def _check_supplied(meter: Meter, start: date) -> None:
    if period_of(start)[1] <= meter.installed_at.astimezone(ZoneInfo(meter.time_zone)).date():
        raise InvalidInputError(phrase("The meter was not there yet."), ("month",))


def number_text(number: int | None) -> str | None:
    """A statement's number as it is shown."""
    return None if number is None else f"{number:06}"


async def build(session: AsyncSession, meter: Meter, start: date) -> StatementBody:
    """A month's statement out of the ledger and the engine, as both stand now."""
    zone, end = ZoneInfo(meter.time_zone), period_of(start)[1]
    since, until = local_midnight(start, zone), local_midnight(end, zone)
    utility = await session.get_one(Utility, meter.utility_id)
    contract = await contract_for(session, meter)
    opening = await _balances(session, meter, start, since)
    movements, charged = await _walk(session, meter, start, since, until)
    closing = dict(opening)
    for movement in movements:
        for kind, amount in movement.amounts.items():
            closing[kind] += amount
    for (kind, _), amount in charged.items():
        closing[kind] -= amount
    use = await _use(session, meter, contract, start)
    if meter.wallet_kind == WalletKind.VOLUME:
        use = bill_of(await bill_between(session, meter.id, since, until), use.volume_ml)
    standing = await _standing(session, meter, contract, start)
    return StatementBody(
        currency=meter.currency,
        utility_name=utility.name,
        serial=meter.serial,
        label=meter.label,
        time_zone=meter.time_zone,
        period_start=start,
        period_end=end,
        accounts={kind: AccountSpan(opening_minor=opening[kind], closing_minor=closing[kind]) for kind in ACCOUNTS},
        movements=tuple(movements),
        use=_as_posted(use, charged.get((AccountKind.WALLET, start), 0)),
        standing=_as_posted(standing, charged.get((AccountKind.STANDING_DUE, start), 0)),
        adjustments=tuple([item async for item in _adjustments(session, meter, contract, start, charged)]),
        daily_ml=await _days(session, meter.id, start, end),
    )


async def issue(session: AsyncSession, meter_id: str, month: date, now: datetime) -> Statement | None:
    """Make a month's statement for good; None where it is made, or does not follow the last one that was.

    Raises InvalidInputError for a month that has not ended, for one before the meter's first, and for a statement
    that would not add up.
    """
    meter = await lock_meter(session, meter_id)
    if now < local_midnight(month, ZoneInfo(meter.time_zone)):
        raise InvalidInputError(phrase("This month has not ended."), ("month",))
    start, end = period_of(month)
    if now < local_midnight(end, ZoneInfo(meter.time_zone)):
        raise InvalidInputError(phrase("This month has not ended."), ("month",))
    _check_supplied(meter, start)
    newest = await session.scalar(select(func.max(Statement.period_start)).where(Statement.meter_id == meter.id))
    # Without a gap: a charge that comes late is booked in the month after the last statement (``charges``).
    if newest is not None and start != period_of(newest)[1]:
        return None
    # What is not rated yet belongs into it.
    await session.flush()
    await rate_now(await session.connection(), meter.id, now)
    await session.refresh(meter)
    body = await build(session, meter, start)
    if not is_balanced(body):
        _log.error("statement does not balance", meter_id=meter.id, month=start.isoformat())
        raise InvalidInputError(
            phrase("The statement of {month} does not add up; it is not made.", month=f"{start:%Y-%m}"), ("month",)
        )
    await session.execute(insert(StatementCounter).values(utility_id=meter.utility_id).on_conflict_do_nothing())
    counter = await session.get_one(StatementCounter, meter.utility_id, with_for_update=True, populate_existing=True)
    counter.last_number += 1
    statement = Statement(
        id=new_id("stm"),
        utility_id=meter.utility_id,
        meter_id=meter.id,
        period_start=start,
        number=counter.last_number,
        body=body.model_dump(mode="json"),
        issued_at=now,
    )
    session.add(statement)
    await session.flush()
    return statement


async def _made(session: AsyncSession, meter_id: str, start: date) -> tuple[StatementBody, int] | None:
    row = (
        await session.execute(
            select(Statement.body, Statement.number).where(
                Statement.meter_id == meter_id, Statement.period_start == start
            )
        )
    ).one_or_none()
    return None if row is None else (StatementBody.model_validate(row.body), row.number)


async def _balances(session: AsyncSession, meter: Meter, start: date, since: datetime) -> dict[str, int]:
    """Each account at the beginning of a month: the last statement's closing, and what was posted after it."""
    row = (
        await session.execute(
            select(Statement.period_start, Statement.body)
            .where(Statement.meter_id == meter.id, Statement.period_start < start)
            .order_by(Statement.period_start.desc())
            .limit(1)
        )
    ).one_or_none()
    balances: dict[str, int] = dict.fromkeys(ACCOUNTS, 0)
    after = None
    if row is not None:
        last = StatementBody.model_validate(row.body)
        balances |= {kind: span.closing_minor for kind, span in last.accounts.items()}
        after = local_midnight(last.period_end, ZoneInfo(meter.time_zone))
    posted = (
        select(Account.kind, func.sum(Entry.amount_minor))
        .join(Entry, Entry.account_id == Account.id)
        .join(LedgerTransaction, LedgerTransaction.id == Entry.transaction_id)
        .where(_own(meter), LedgerTransaction.occurred_at < since)
        .group_by(Account.kind)
    )
    if after is not None:
        posted = posted.where(LedgerTransaction.occurred_at >= after)
    for kind, amount in await session.execute(posted):
        balances[kind] += int(amount)
    return balances


async def _walk(
    session: AsyncSession, meter: Meter, start: date, since: datetime, until: datetime
) -> tuple[list[Movement], dict[tuple[str, date], int]]:
    """Read what was posted in a month: movements, and charges by account and by the period that they charge."""
    own = (
        select(LedgerTransaction.id)
        .join(Entry, Entry.transaction_id == LedgerTransaction.id)
        .join(Account, Account.id == Entry.account_id)
        .where(_own(meter), LedgerTransaction.occurred_at >= since, LedgerTransaction.occurred_at < until)
        .distinct()
    )
    rows = await session.execute(
        select(LedgerTransaction, Account.kind, Account.owner_id, Entry.amount_minor)
        .join(Entry, Entry.transaction_id == LedgerTransaction.id)
        .join(Account, Account.id == Entry.account_id)
        .where(LedgerTransaction.id.in_(own))
        .order_by(LedgerTransaction.occurred_at, LedgerTransaction.id, Entry.id)
    )
    charged: dict[tuple[str, date], int] = {}
    moved: dict[str, Movement] = {}
    for transaction, kind, owner_id, amount in rows:
        mine = owner_id == meter.id and kind in ACCOUNTS
        if transaction.kind in _CHARGES or transaction.kind == "PURCHASE":
            if mine:
                named = transaction.kind in _CHARGES
                key = (kind, date.fromisoformat(transaction.key.split(":")[2]) if named else start)
                charged[key] = charged.get(key, 0) - amount
            continue
        known = moved.get(transaction.id) or Movement(
            at=transaction.occurred_at, kind=transaction.kind, amounts={}, paid_minor=0, fee_minor=0
        )
        moved[transaction.id] = _with(known, kind, amount, mine=mine)
    return list(moved.values()), charged


def _with(movement: Movement, kind: str, amount: int, *, mine: bool) -> Movement:
    if mine:
        amounts = movement.amounts | {kind: movement.amounts.get(kind, 0) + amount}
        return movement.model_copy(update={"amounts": amounts})
    if kind in _OUTSIDE:
        return movement.model_copy(update={"paid_minor": movement.paid_minor - amount})
    if kind == AccountKind.SERVICE_FEES:
        return movement.model_copy(update={"fee_minor": movement.fee_minor + amount})
    return movement


async def _use(session: AsyncSession, meter: Meter, contract: Contract, start: date) -> Bill:
    use = await period_use(session, meter.id, contract, start)
    return bill_of(priced_use(use), use.volume_ml)


async def _standing(session: AsyncSession, meter: Meter, contract: Contract, start: date) -> Bill:
    # A month that was never accrued (the past of a meter that was taken over) has no charges, not some of nought.
    rating = await session.get_one(MeterDue, meter.id, populate_existing=True)
    if rating.accrued_through is None or await session.get(StandingCharged, (meter.id, start)) is None:
        return EMPTY
    return bill_of(price_standing(contract.segments(start), rating.accrued_through), 0)


def _as_posted(bill: Bill, posted_minor: int) -> Bill:
    """The engine's bill, made to say what the ledger holds.

    They differ only for months of before there were statements, whose last hours were booked in the next one, and for
    a meter taken over in mid-month; a line of its own says so.
    """
    rest_minor = posted_minor - bill.total_minor
    if not rest_minor:
        return bill
    if not posted_minor:
        return Bill(volume_ml=bill.volume_ml, total_minor=0, lines=())
    day = bill.lines[-1].until if bill.lines else date.min
    line = StatementLine(
        kind="ELSEWHERE",
        code="elsewhere",
        name="",
        since=day,
        until=day,
        tier=None,
        quantity=0,
        rate=None,
        amount_minor=rest_minor,
    )
    return Bill(volume_ml=bill.volume_ml, total_minor=posted_minor, lines=(*bill.lines, line))


async def _adjustments(
    session: AsyncSession,
    meter: Meter,
    contract: Contract,
    start: date,
    charged: dict[tuple[str, date], int],
) -> AsyncIterator[Adjustment]:
    """Earlier periods that were charged anew in this month, with what they came to before and after."""
    others = sorted((period, account) for account, period in charged if period != start)
    if not others:
        return
    rows = await session.scalars(
        select(Statement.body)
        .where(Statement.meter_id == meter.id, Statement.period_start < start)
        .order_by(Statement.period_start.desc())
    )
    earlier = [StatementBody.model_validate(body) for body in rows]
    for period, account in others:
        was = _last_told(earlier, account, period)
        if account == AccountKind.WALLET:
            bill = await _use(session, meter, contract, period)
        else:
            bill = await _standing(session, meter, contract, period)
        difference_minor = charged[account, period]
        yield Adjustment(
            period_start=period,
            account=account,
            was=was,
            now=_as_posted(bill, was.total_minor + difference_minor),
            difference_minor=difference_minor,
        )


def _last_told(earlier: Sequence[StatementBody], account: str, period: date) -> Bill:
    """Return what the newest statement that names a period said of it."""
    for body in earlier:
        for item in body.adjustments:
            if (item.period_start, item.account) == (period, account):
                return item.now
        if body.period_start == period:
            return body.use if account == AccountKind.WALLET else body.standing
    return EMPTY


async def _days(session: AsyncSession, meter_id: str, start: date, end: date) -> dict[date, int]:
    rows = await session.execute(
        select(DailyUsage.day, DailyUsage.volume_ml)
        .where(DailyUsage.meter_id == meter_id, DailyUsage.day >= start, DailyUsage.day < end)
        .order_by(DailyUsage.day)
    )
    return {day: volume_ml for day, volume_ml in rows}  # noqa: C416 - dict() does not take rows.


def _own(meter: Meter) -> ColumnElement[bool]:
    """The meter's accounts that a statement is about."""
    return and_(Account.owner_id == meter.id, Account.kind.in_(ACCOUNTS), Account.currency == meter.currency)
