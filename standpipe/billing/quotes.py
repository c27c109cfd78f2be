"""Quotes (trial vends): what credit buys, or what litres cost, after the period's use so far. Stores nothing.

Credit that the meter still holds is left aside: it is priced when its water is used, and so is this. A wallet below
zero is made up for first: that water has run. For a VOLUME meter a quote is a purchase in whole units, and what its
wallet has left from before helps to pay.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from standpipe.billing.overview import MeterView
from standpipe.billing.wallets import wallet_of
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase
from standpipe.platform.units import MAX_MINOR
from standpipe.tariffs.periods import BillLine, price_more
from standpipe.tariffs.pricing import MAX_VOLUME_ML, TierUse, tiers

VALID_FOR = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Quote:
    """A price check: ``credit_minor`` buys ``volume_ml`` through ``lines``, levies included; ``bill`` says how.

    ``overdrawn_minor`` of the credit makes up for water that has run unpaid; ``left_minor`` was in a VOLUME meter's
    wallet before, and is spent with the credit.
    """

    credit_minor: int
    overdrawn_minor: int
    left_minor: int
    volume_ml: int
    lines: tuple[TierUse, ...]
    bill: tuple[BillLine, ...]
    currency: str
    valid_until: datetime


def quote_credit(view: MeterView, credit_minor: int, now: datetime) -> Quote:
    """The litres that an amount of credit buys: one more would cost more than it. Raises InvalidInputError."""
    if not 0 <= credit_minor <= MAX_MINOR:
        raise InvalidInputError(phrase("The amount must be above zero and within reason."), ("by", "money", "amount"))
    overdrawn_minor = min(max(-view.ledger_minor, 0), credit_minor)
    place, spent_minor = view.place, credit_minor - overdrawn_minor
    wallet = wallet_of(view.wallet_kind)
    spent_minor += wallet.left_minor(view.ledger_minor)
    volume_ml = wallet.bought_for_ml(place, spent_minor, view.segment.terms.unit_ml)
    return _quote(view, credit_minor, overdrawn_minor, volume_ml, now)


def quote_volume(view: MeterView, volume_ml: int, now: datetime) -> Quote:
    """Price a volume; a VOLUME meter's is rounded up to whole units. Raises InvalidInputError."""
    if not 0 < volume_ml <= MAX_VOLUME_ML // 2:
        raise InvalidInputError(phrase("The volume must be above zero and within reason."), ("by", "litres"))
    overdrawn_minor = max(-view.ledger_minor, 0)
    wallet = wallet_of(view.wallet_kind)
    cost_minor, volume_ml = wallet.price_of(view.place, volume_ml, view.segment.terms.unit_ml)
    credit_minor = max(cost_minor - wallet.left_minor(view.ledger_minor), 0) + overdrawn_minor
    return _quote(view, credit_minor, overdrawn_minor, volume_ml, now)


def _quote(view: MeterView, credit_minor: int, overdrawn_minor: int, volume_ml: int, now: datetime) -> Quote:
    place = view.place
    return Quote(
        credit_minor=credit_minor,
        overdrawn_minor=overdrawn_minor,
        left_minor=wallet_of(view.wallet_kind).left_minor(view.ledger_minor),
        volume_ml=volume_ml,
        lines=tuple(tiers(place.table, place.used_ml, volume_ml, place.carried_minor)),
        bill=price_more(view.segment, place, volume_ml).lines,
        currency=view.currency,
        valid_until=now + VALID_FOR,
    )
