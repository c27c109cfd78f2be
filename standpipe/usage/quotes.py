"""Quotes (trial vends): what money buys, or what litres cost, after the period's use so far. Stores nothing.

Credit that the meter still holds is left aside: it is priced when its water is used, and so is this.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from standpipe.errors import InvalidInputError
from standpipe.tariffs.pricing import MAX_VOLUME_ML, TierUse, charge_minor, tiers, volume_for_ml
from standpipe.units import MAX_MINOR
from standpipe.usage.overview import MeterView

VALID_FOR = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Quote:
    """A price check: paying ``pay_minor`` gives ``credit_minor``, which buys ``volume_ml`` through ``lines``."""

    pay_minor: int
    credit_minor: int
    volume_ml: int
    lines: tuple[TierUse, ...]
    currency: str
    valid_until: datetime


def quote_money(view: MeterView, pay_minor: int, now: datetime) -> Quote:
    """The litres that an amount of credit buys: one more would cost more than it. Raises InvalidInputError."""
    if not 0 <= pay_minor <= MAX_MINOR:
        raise InvalidInputError("The amount must be above zero and within reason.", ("by", "money", "amount"))
    start_ml = view.used_this_period_ml
    volume_ml = volume_for_ml(view.tariff.table, start_ml, pay_minor)
    return _quote(view, pay_minor, start_ml, volume_ml, now)


def quote_volume(view: MeterView, volume_ml: int, now: datetime) -> Quote:
    """What a volume costs. Raises InvalidInputError."""
    if not 0 < volume_ml <= MAX_VOLUME_ML // 2:
        raise InvalidInputError("The volume must be above zero and within reason.", ("by", "litres"))
    start_ml = view.used_this_period_ml
    return _quote(view, charge_minor(view.tariff.table, start_ml, volume_ml), start_ml, volume_ml, now)


def _quote(view: MeterView, pay_minor: int, start_ml: int, volume_ml: int, now: datetime) -> Quote:
    return Quote(
        pay_minor=pay_minor,
        credit_minor=pay_minor,
        volume_ml=volume_ml,
        lines=tuple(tiers(view.tariff.table, start_ml, volume_ml)),
        currency=view.currency,
        valid_until=now + VALID_FOR,
    )
