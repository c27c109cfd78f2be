"""Quotes as the app sees them: what a payment becomes, line by line; and the check of one that is ordered by."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import strawberry

from standpipe.billing.overview import MeterView
from standpipe.billing.quotes import Quote as QuoteView
from standpipe.billing.quotes import quote_credit, quote_volume
from standpipe.graphql.base import Money, MoneyInput, Volume, money, volume
from standpipe.graphql.context import Context
from standpipe.graphql.errors import USER_ERRORS, UserError, UserErrorCode, user_error
from standpipe.graphql.tariffs import TierLine, tier_lines
from standpipe.meters.models import WalletKind
from standpipe.payments.owing import owing
from standpipe.payments.quoted import place_quoted
from standpipe.payments.rails.port import PaymentMethod, Rail
from standpipe.payments.rails.registry import check_amount, fee_rule, find_method
from standpipe.payments.split import NO_FEE, FeeRule, Owing, Split, fee_for, pay_for, split
from standpipe.platform.errors import AmountOutOfRangeError, InvalidInputError, QuoteOutdatedError, StandpipeError
from standpipe.platform.language import phrase, to_translate, translate
from standpipe.platform.units import MAX_MINOR, ML_PER_LITRE, to_minor
from standpipe.tariffs.periods import LineKind


@strawberry.input(one_of=True, description="Quote for an amount of money, or for a volume.")
class QuoteBy:
    """Exactly one."""

    money: MoneyInput | None = strawberry.field(
        default=strawberry.UNSET, description="What to pay, in the meter's currency; the fee is within it."
    )
    litres: Decimal | None = strawberry.field(
        default=strawberry.UNSET, description="A meter that holds volume takes whole units; this is rounded up to them."
    )


@strawberry.type(description="A part of a payment or a bill, with its name in the reader's language.")
class Charge:
    """``code`` is stable: FEE, EMERGENCY, STANDING, DEBT, CREDIT, OVERDRAWN, RESIDUE, REFUND, DISPUTED, TAX, or a
    charge's own.
    """

    code: str = strawberry.field(
        description="Stable, for programs. Of payments: FEE, EMERGENCY, STANDING, DEBT, CREDIT, TAX, DISCOUNT, "
        "OVERDRAWN, RESIDUE, REFUND, DISPUTED, OTHER. Of bills: WATER, ALLOWANCE, or the tariff's own code of "
        "a charge, levy or discount."
    )
    label: str = strawberry.field(
        description="For people, in the language that the request asks for; the tariff's names as they are."
    )
    amount: Money = strawberry.field(description="Below zero where it lowers the sum.")


@strawberry.type(description="What a payment would give at this period's use so far. Nothing is stored.")
class Quote:
    """A trial vend: pay = deductions + credit."""

    id: strawberry.ID = strawberry.field(
        description="Give it to topUpStart: the top-up then gives exactly this, or says QUOTE_CHANGED."
    )
    pay: Money = strawberry.field(description="What the customer would pay in all.")
    deductions: list[Charge] = strawberry.field(description="What is kept back, and why, in the order it is taken.")
    credit: Money = strawberry.field(
        description="What would be added to the meter's credit: `pay` less the deductions."
    )
    overdrawn: Money = strawberry.field(description="Of the credit, what makes up for water that has run unpaid.")
    volume: Volume = strawberry.field(description="The water that it buys, at this period's use so far.")
    lines: list[TierLine] = strawberry.field(description="The volume through the tiers; costs hold taxes and levies.")
    taxes: list[Charge] = strawberry.field(description="Taxes, levies and discounts within the costs of the lines.")
    rounding: Money = strawberry.field(
        description="Credit that buys no whole unit more; it stays credit. Of a meter that holds volume it is all that "
        "is left in the wallet afterwards, with what was left there before."
    )
    valid_until: datetime = strawberry.field(
        description="15 minutes from now; a change of prices, use or dues may end it sooner."
    )


@strawberry.type(description="A quote, or why there is none.")
class QuotePayload:
    """Errors as data."""

    quote: Quote | None = strawberry.field(description="Null where userErrors says why.")
    user_errors: list[UserError] = strawberry.field(description=USER_ERRORS)


@strawberry.type(description="The quote that was ordered by does not hold any more; here is what holds now.")
class QuoteChanged(UserError):
    """With the new quote, where one can be given."""

    quote: Quote | None = strawberry.field(
        description="What the same payment gives now, to order by; null where none can be given."
    )


@dataclass
class QuoteChangedError(StandpipeError):
    """The world moved on since the quote was given."""

    quote: Quote | None

    def __str__(self) -> str:
        return phrase("The price has changed since you looked. Please check the new one.")


_LABELS = {
    "DEBT": to_translate("Repayment of what is owed"),
    "FEE": to_translate("Service fee"),
    "STANDING": to_translate("Standing charges due"),
    "EMERGENCY": to_translate("Repayment of emergency credit"),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A quote in numbers: the parts of the payment, and what the credit buys."""

    parts: Split
    quoted: QuoteView


def quote_of(context: Context, view: MeterView, by: QuoteBy, method_id: str | None) -> QuotePayload:
    """A quote for its reader."""
    now = context.services.clock.now()
    try:
        offer = make_offer(context.services.rails, view, by, method_id, now)
    except StandpipeError as error:
        return QuotePayload(quote=None, user_errors=[user_error(error, context.language)])
    return QuotePayload(quote=_shown(view, offer, method_id, context.language), user_errors=[])


def agreed_of(
    context: Context, view: MeterView, pay_minor: int, method_id: str, quote_id: str | None
) -> Mapping[str, int] | None:
    """Return what a top-up ordered by a quote keeps back; None without a quote.

    Raises QuoteChangedError where the quote has run out, or paying now would give anything else than it said.
    """
    if quote_id is None:
        return None
    now = context.services.clock.now()
    try:
        offer = _by_money(context.services.rails, view, pay_minor, method_id, now)
    except AmountOutOfRangeError:
        raise
    except StandpipeError:
        raise QuoteChangedError(None) from None
    until, _, digest = quote_id.removeprefix("qt_").partition("_")
    fresh = until.isascii() and until.isdecimal() and len(until) < 12 and now.timestamp() <= int(until)  # noqa: PLR2004 - Unix seconds.
    if not fresh or digest != _digest(view, offer, method_id):
        raise QuoteChangedError(_shown(view, offer, method_id, context.language))
    parts = offer.parts.kept_back() | {"FEE": offer.parts.fee_minor}
    if view.wallet_kind is WalletKind.VOLUME:
        parts |= place_quoted(view.place, left_minor=view.ledger_minor, today=view.today)
    return parts


def quote_error(error: StandpipeError, language: str) -> UserError:
    """``user_error``, and the one error that carries a quote."""
    if isinstance(error, QuoteChangedError | QuoteOutdatedError):
        quote = error.quote if isinstance(error, QuoteChangedError) else None
        return QuoteChanged(
            code=UserErrorCode.QUOTE_CHANGED,
            message=error.text_in(language),
            field=["quoteId"],
            retryable=True,
            quote=quote,
        )
    return user_error(error, language)


def make_offer(rails: Mapping[str, Rail], view: MeterView, by: QuoteBy, method_id: str | None, now: datetime) -> Offer:
    """Offer what an amount of money gives, or what a volume takes. Raises InvalidInputError."""
    if by.money:
        if by.money.currency != view.currency:
            raise InvalidInputError(
                phrase("This meter takes {currency}.", currency=view.currency), ("by", "money", "currency")
            )
        return _by_money(rails, view, to_minor(by.money.amount, view.currency), method_id, now)
    wanted_ml = (by.litres or Decimal(0)) * ML_PER_LITRE
    if wanted_ml != wanted_ml.to_integral_value():
        raise InvalidInputError(phrase("A volume has at most three digits after the point."), ("by", "litres"))
    quoted = quote_volume(view, int(wanted_ml), now)
    rule = _rule(rails, view, method_id)
    of_volume = view.wallet_kind is WalletKind.VOLUME
    # A payment is never nothing, also where the wallet's rest could buy this by itself.
    needed_minor = max(quoted.credit_minor, 1) if of_volume else quoted.credit_minor
    pay_minor = pay_for(needed_minor, rule, owing_by(view))
    if pay_minor is None:
        raise InvalidInputError(
            phrase("No payment would give that much: what is kept back takes it all."), ("by", "litres")
        )
    if not pay_minor:
        raise InvalidInputError(
            phrase("This much costs nothing as things stand: there is nothing to pay."), ("by", "litres")
        )
    step_minor = _step(rails, view, method_id)
    pay_minor += -pay_minor % step_minor
    if step_minor > 1 or of_volume:
        # Whole units only: what is paid beyond the volume that was asked for buys more of it.
        return _by_money(rails, view, pay_minor, method_id, now)
    _check(rails, view, method_id, pay_minor, ("by", "litres"))
    return Offer(_split(view, rule, pay_minor), quoted)


def owing_by(view: MeterView) -> Owing:
    """Return what the meter owes, by its utility's rules."""
    return owing(
        view.dues,
        share_percent=view.rules.debt_share_percent,
        weekly_cap_minor=view.rules.debt_weekly_cap_minor,
        guaranteed_minor=view.rules.guaranteed_minor,
    )


def label_of(code: str, language: str) -> str:
    """Name a deduction in the reader's language."""
    return translate(_LABELS[code], language)


def _by_money(
    rails: Mapping[str, Rail], view: MeterView, pay_minor: int, method_id: str | None, now: datetime
) -> Offer:
    parts = _split(view, _rule(rails, view, method_id), pay_minor)
    _check(rails, view, method_id, pay_minor, ("by", "money", "amount"))
    return Offer(parts, quote_credit(view, parts.credit_minor, now))


def _split(view: MeterView, rule: FeeRule, pay_minor: int) -> Split:
    if not 0 < pay_minor <= MAX_MINOR:
        raise InvalidInputError(phrase("The amount must be above zero and within reason."), ("by", "money", "amount"))
    return split(pay_minor, fee_minor=fee_for(rule, pay_minor), owing=owing_by(view))


def _method(rails: Mapping[str, Rail], view: MeterView, method_id: str | None) -> PaymentMethod | None:
    found = None if method_id is None else find_method(rails, view.currency, method_id)
    return None if found is None else found[1]


def _check(
    rails: Mapping[str, Rail], view: MeterView, method_id: str | None, pay_minor: int, field: tuple[str, ...]
) -> None:
    """Raises AmountOutOfRangeError, InvalidInputError for a payment that the chosen way cannot take."""
    method = _method(rails, view, method_id)
    if method is not None:
        check_amount(method, pay_minor, view.currency, field)


def _rule(rails: Mapping[str, Rail], view: MeterView, method_id: str | None) -> FeeRule:
    if method_id is None:
        return NO_FEE
    if _method(rails, view, method_id) is None:
        raise InvalidInputError(phrase("This way to pay is not offered for this meter."), ("methodId",))
    return fee_rule(rails, method_id)


def _step(rails: Mapping[str, Rail], view: MeterView, method_id: str | None) -> int:
    method = _method(rails, view, method_id)
    return 1 if method is None else method.step_minor


def _shown(view: MeterView, offer: Offer, method_id: str | None, language: str) -> Quote:
    parts, quoted, currency = offer.parts, offer.quoted, view.currency
    until = int(quoted.valid_until.timestamp())
    bought_minor = sum(line.cost_minor for line in quoted.lines)
    return Quote(
        id=strawberry.ID(f"qt_{until}_{_digest(view, offer, method_id)}"),
        pay=money(parts.paid_minor, currency, language),
        deductions=[
            Charge(code=code, label=label_of(code, language), amount=money(amount_minor, currency, language))
            for code, amount_minor in parts.kept_back().items()
        ],
        credit=money(parts.credit_minor, currency, language),
        overdrawn=money(quoted.overdrawn_minor, currency, language),
        volume=volume(quoted.volume_ml, language),
        lines=tier_lines(quoted.lines, currency, language),
        taxes=[
            Charge(code=line.code, label=line.name, amount=money(line.amount_minor, currency, language))
            for line in quoted.bill
            if line.kind in {LineKind.LEVY, LineKind.DISCOUNT}
        ],
        rounding=money(
            parts.credit_minor + quoted.left_minor - quoted.overdrawn_minor - bought_minor, currency, language
        ),
        valid_until=datetime.fromtimestamp(until, UTC),
    )


def _digest(view: MeterView, offer: Offer, method_id: str | None) -> str:
    """Digest a quote's promise into few letters: equal promises have equal ones. Volume counts in whole litres."""
    parts, quoted = offer.parts, offer.quoted
    said = (view.id, method_id, parts.paid_minor, sorted(parts.kept_back().items()), parts.credit_minor)
    litres = quoted.volume_ml // ML_PER_LITRE
    return hashlib.sha256(repr((said, quoted.overdrawn_minor, litres)).encode()).hexdigest()[:32]
