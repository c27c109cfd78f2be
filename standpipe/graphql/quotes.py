"""Quotes as the app sees them: what a payment becomes, line by line."""

from datetime import datetime
from decimal import Decimal

import strawberry

from standpipe.errors import InvalidInputError, StandpipeError
from standpipe.graphql.base import Money, MoneyInput, Volume, money, volume
from standpipe.graphql.context import Context
from standpipe.graphql.errors import UserError, user_error
from standpipe.graphql.tariffs import TierLine, tier_lines
from standpipe.payments.rails import fee_rule, find_method
from standpipe.payments.split import NO_FEE, FeeRule, Split, fee_for, pay_for, split
from standpipe.units import MAX_MINOR, ML_PER_LITRE, to_minor
from standpipe.usage.overview import MeterView
from standpipe.usage.quotes import Quote as QuoteView
from standpipe.usage.quotes import quote_money, quote_volume


@strawberry.input(one_of=True, description="Quote for an amount of money, or for a volume.")
class QuoteBy:
    """Exactly one."""

    money: MoneyInput | None = strawberry.UNSET
    litres: Decimal | None = strawberry.UNSET


@strawberry.type(description="A part of a payment, with its name in the reader's language.")
class Charge:
    """``code`` is stable: DEBT, FEE, CREDIT, RESIDUE, REFUND, DISPUTED."""

    code: str
    label: str
    amount: Money


@strawberry.type(description="What a payment would give at this period's use so far. Nothing is stored.")
class Quote:
    """A trial vend: pay = deductions + credit."""

    pay: Money
    deductions: list[Charge] = strawberry.field(description="What is kept back, and why.")
    credit: Money
    volume: Volume
    lines: list[TierLine]
    valid_until: datetime


@strawberry.type(description="A quote, or why there is none.")
class QuotePayload:
    """Errors as data."""

    quote: Quote | None
    user_errors: list[UserError]


_LABELS = {
    "DEBT": {"en": "Repayment of what is owed", "sw": "Malipo ya deni", "fr": "Remboursement de la dette"},
    "FEE": {"en": "Service fee", "sw": "Ada ya huduma", "fr": "Frais de service"},
}


def quote_of(context: Context, view: MeterView, by: QuoteBy, method_id: str | None) -> QuotePayload:
    """A quote for its reader."""
    try:
        parts, quoted = _quote(context, view, by, method_id)
    except StandpipeError as error:
        return QuotePayload(quote=None, user_errors=[user_error(error, context.language)])
    language, currency = context.language, view.currency
    deductions = [
        Charge(code=code, label=label_of(code, language), amount=money(amount_minor, currency, language))
        for code, amount_minor in (("FEE", parts.fee_minor), ("DEBT", parts.debt_minor))
        if amount_minor
    ]
    quote = Quote(
        pay=money(parts.paid_minor, currency, language),
        deductions=deductions,
        credit=money(parts.credit_minor, currency, language),
        volume=volume(quoted.volume_ml, language),
        lines=tier_lines(quoted.lines, currency, language),
        valid_until=quoted.valid_until,
    )
    return QuotePayload(quote=quote, user_errors=[])


def label_of(code: str, language: str) -> str:
    """A deduction's name; English where a language is not spoken yet."""
    words = _LABELS[code]
    return words.get(language.partition("-")[0].lower(), words["en"])


def _quote(context: Context, view: MeterView, by: QuoteBy, method_id: str | None) -> tuple[Split, QuoteView]:
    rule, now = _rule(context, view, method_id), context.tools.clock.now()
    if by.money:
        if by.money.currency != view.currency:
            raise InvalidInputError(f"This meter takes {view.currency}.", ("by", "money", "currency"))
        parts = _split(view, rule, to_minor(by.money.amount, view.currency))
        return parts, quote_money(view, parts.credit_minor, now)
    wanted_ml = (by.litres or Decimal(0)) * ML_PER_LITRE
    if wanted_ml != wanted_ml.to_integral_value():
        raise InvalidInputError("A volume has at most three digits after the point.", ("by", "litres"))
    quoted = quote_volume(view, int(wanted_ml), now)
    pay_minor = pay_for(quoted.credit_minor, rule, owed_minor=view.arrears_minor, share_percent=view.debt_share_percent)
    if pay_minor is None:
        raise InvalidInputError("No payment would give that much: fee and debt take it all.", ("by", "litres"))
    return _split(view, rule, pay_minor), quoted


def _split(view: MeterView, rule: FeeRule, pay_minor: int) -> Split:
    if not 0 < pay_minor <= MAX_MINOR:
        raise InvalidInputError("The amount must be above zero and within reason.", ("by", "money", "amount"))
    return split(
        pay_minor,
        fee_minor=fee_for(rule, pay_minor),
        owed_minor=view.arrears_minor,
        share_percent=view.debt_share_percent,
    )


def _rule(context: Context, view: MeterView, method_id: str | None) -> FeeRule:
    if method_id is None:
        return NO_FEE
    if find_method(context.tools.providers, view.currency, method_id) is None:
        raise InvalidInputError("This way to pay is not offered for this meter.", ("methodId",))
    return fee_rule(context.tools.providers, method_id)
