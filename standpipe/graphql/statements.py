"""Statements and comparisons as the app sees them."""

import time
from datetime import date, datetime

import strawberry

from standpipe.billing.comparison import Comparison as ComparisonFacts
from standpipe.billing.comparison import compare
from standpipe.billing.overview import MeterView
from standpipe.billing.statement_body import Adjustment, Bill, StatementBody
from standpipe.billing.statement_text import line_text, movement_text
from standpipe.billing.statements import number_text, statement_by_month
from standpipe.graphql.base import Money, Url, Volume, money, volume
from standpipe.graphql.context import Context
from standpipe.graphql.errors import USER_ERRORS, UserError, user_error
from standpipe.graphql.quotes import Charge
from standpipe.payments.receipt_links import sign_link
from standpipe.platform.errors import InvalidInputError, NotFoundError, StandpipeError
from standpipe.platform.language import phrase


@strawberry.type(description="Money that moved for another reason than use.")
class StatementMovement:
    """A top-up, a refund, emergency credit."""

    at: datetime = strawberry.field(description="When it was booked.")
    code: str = strawberry.field(
        description="What it was: TOP_UP, TAKEN_BACK, REFUND_HELD, REFUND_RELEASED, EMERGENCY, ARREARS; treat others "
        "by the label."
    )
    label: str = strawberry.field(description="For people, in the language that the request asks for.")
    paid: Money = strawberry.field(description="What came from outside; below zero went back.")
    credit: Money = strawberry.field(description="What it did to the credit.")


@strawberry.type(description="An earlier month that came to cost something else: late or corrected readings.")
class StatementAdjustment:
    """The difference is booked in this month."""

    month: date = strawberry.field(description="The first day of the earlier month.")
    was: Money = strawberry.field(description="What that month cost before.")
    now: Money = strawberry.field(description="What that month costs now.")
    difference: Money = strawberry.field(
        description="What this month bears of it; above zero, that month came to cost more."
    )
    lines: list[Charge] = strawberry.field(description="That month's bill as it is now.")


@strawberry.type(description="An account over the month.")
class StatementAccount:
    """WALLET is what may be used; STANDING_DUE, RECEIVABLE and EMERGENCY are below zero by what is owed."""

    code: str = strawberry.field(
        description="WALLET (credit), STANDING_DUE (standing charges due), RECEIVABLE (arrears) or EMERGENCY "
        "(emergency credit)."
    )
    opening: Money = strawberry.field(description="At the beginning; below zero is owed.")
    closing: Money = strawberry.field(description="At the end; below zero is owed.")


@strawberry.type(description="A month, explained: opening + movements − charges − adjustments = closing.")
class Statement:
    """A month's statement, closed or so far."""

    month: date = strawberry.field(description="The first day of the month.")
    number: str | None = strawberry.field(description="Null while the month is open: late readings still change it.")
    opening: Money = strawberry.field(
        description="Credit at the beginning of the month, or of the day on which the household moved in."
    )
    closing: Money = strawberry.field(description="Credit at the end of the month; of an open month, now.")
    accounts: list[StatementAccount] = strawberry.field(description="Credit and each kind of dues over the month.")
    movements: list[StatementMovement] = strawberry.field(description="Top-ups, refunds and the like, oldest first.")
    volume: Volume = strawberry.field(description="Water used in the month.")
    charges: list[Charge] = strawberry.field(description="By block, with allowance, taxes and levies.")
    charges_total: Money = strawberry.field(description="The sum of `charges`.")
    standing_charges: list[Charge] = strawberry.field(
        description="What fell due for the supply itself, with its levies."
    )
    adjustments: list[StatementAdjustment] = strawberry.field(
        description="Earlier months whose cost changed, booked in this one."
    )
    pdf: Url = strawberry.field(description="A page to keep or print; the link works for a week, for whoever has it.")


@strawberry.type(description="A statement, or why there is none.")
class StatementPayload:
    """Errors as data."""

    statement: Statement | None = strawberry.field(description="Null where userErrors says why.")
    user_errors: list[UserError] = strawberry.field(description=USER_ERRORS)


@strawberry.type(description="Use compared with before, and with others.")
class Comparison:
    """``similar`` is null where the group is too small to tell on nobody."""

    days: int = strawberry.field(description="Whole days of this period so far; both periods are summed over them.")
    this_period: Volume = strawberry.field(
        description="Use of this billing period until yesterday, since the household moved in."
    )
    last_period: Volume = strawberry.field(
        description="Use in the first `days` days of the last billing period, since the household moved in."
    )
    month: date = strawberry.field(description="The last whole month, which is compared with similar households'.")
    own_month: Volume = strawberry.field(description="This meter's use in `month`, since the household moved in.")
    similar: Volume | None = strawberry.field(description="The median of similar households, rounded to 100 litres.")
    similar_households: int = strawberry.field(
        description="Meters in the group: same utility, tariff and number of households behind the meter. 0 where "
        "there are fewer than 11; then `similar` is null."
    )


async def load_statement(context: Context, view: MeterView, month: date) -> StatementPayload:
    """A month's statement for its reader. Raises InvalidInputError, NotFoundError."""
    services = context.services
    try:
        # Without reckoning from it: the last month of the calendar has no next one.
        if month.replace(day=1) < view.history_start.replace(day=1):
            raise InvalidInputError(phrase("The meter was not yours yet."), ("month",))
        async with services.sessions() as conn:
            since = None if view.history_since is None else view.history_start
            found = await statement_by_month(conn, view.id, month, services.clock.now(), since=since)
        if found is None:
            raise NotFoundError("No such meter.")
    except StandpipeError as error:
        return StatementPayload(statement=None, user_errors=[user_error(error, context.language)])
    body, number = found
    return StatementPayload(statement=_statement(context, view, body, number), user_errors=[])


async def load_comparison(context: Context, view: MeterView) -> Comparison:
    """The comparison for its reader."""
    async with context.services.sessions() as conn:
        facts: ComparisonFacts = await compare(conn, view)
    language = context.language
    return Comparison(
        days=facts.days,
        this_period=volume(facts.so_far_ml, language),
        last_period=volume(facts.before_ml, language),
        month=facts.month,
        own_month=volume(facts.own_month_ml, language),
        similar=None if facts.similar_ml is None else volume(facts.similar_ml, language),
        similar_households=facts.group_size,
    )


def _statement(context: Context, view: MeterView, body: StatementBody, number: int | None) -> Statement:
    language, currency, services = context.language, body.currency, context.services
    wallet = body.accounts["WALLET"]
    name = f"{view.id}/{body.period_start:%Y-%m}"
    if view.history_since is not None:
        name = f"{name}.{view.history_start}"
    return Statement(
        month=body.period_start.replace(day=1),
        number=number_text(number),
        opening=money(wallet.opening_minor, currency, language),
        closing=money(wallet.closing_minor, currency, language),
        accounts=[
            StatementAccount(
                code=code,
                opening=money(span.opening_minor, currency, language),
                closing=money(span.closing_minor, currency, language),
            )
            for code, span in body.accounts.items()
        ],
        movements=[
            StatementMovement(
                at=item.at,
                code=item.kind,
                label=movement_text(item, currency, language),
                paid=money(item.paid_minor, currency, language),
                credit=money(item.amounts.get("WALLET", 0), currency, language),
            )
            for item in body.movements
        ],
        volume=volume(body.use.volume_ml, language),
        charges=_charges(body.use, currency, language),
        charges_total=money(body.use.total_minor, currency, language),
        standing_charges=_charges(body.standing, currency, language),
        adjustments=[_adjustment(item, currency, language) for item in body.adjustments],
        pdf=Url(sign_link(services.signer.secret, services.public_url, name, time.time(), kind="statement")),
    )


def _charges(bill: Bill, currency: str, language: str) -> list[Charge]:
    return [
        Charge(
            code=line.kind if line.kind in {"WATER", "ALLOWANCE"} else line.code,
            label=line_text(line, currency, language),
            amount=money(line.amount_minor, currency, language),
        )
        for line in bill.lines
    ]


def _adjustment(item: Adjustment, currency: str, language: str) -> StatementAdjustment:
    return StatementAdjustment(
        month=item.period_start,
        was=money(item.was.total_minor, currency, language),
        now=money(item.now.total_minor, currency, language),
        difference=money(item.difference_minor, currency, language),
        lines=_charges(item.now, currency, language),
    )
