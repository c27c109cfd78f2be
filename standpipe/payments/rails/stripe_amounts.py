"""Amounts as Stripe writes them. Pure. Source: Stripe's documentation, "Supported currencies"."""

from decimal import Decimal

from standpipe.payments.rails.port import RailRefusedError
from standpipe.platform.language import to_translate
from standpipe.platform.units import currency_exponent, to_minor

NAME = "stripe"
# Which exponent Stripe uses, where it is not ISO 4217's own. UGX and ISK are sent with two decimals that must be
# zero, as is the last digit of the three-decimal currencies.
_EXPONENTS = {"UGX": 2, "ISK": 2, "MGA": 0}
_STEP = {"UGX": 100, "ISK": 100, "BHD": 10, "JOD": 10, "KWD": 10, "OMR": 10, "TND": 10}
# The least that Stripe charges, in its own units; elsewhere we ask for at least one major unit.
_MINIMUM = {"USD": 50, "EUR": 50, "GBP": 30, "INR": 50, "BRL": 50, "AED": 200, "JPY": 50, "ZAR": 100, "MXN": 1000}
MAXIMUM_UNITS = 500_000
"""Our own ceiling of one top-up in major units; Stripe's is 999,999.99 in two-decimal currencies."""


def to_stripe(amount_minor: int, currency: str) -> int:
    """Our minor units in Stripe's. Raises RailRefusedError for an amount that Stripe cannot express."""
    factor = Decimal(10) ** (stripe_exponent(currency) - currency_exponent(currency))
    amount = Decimal(amount_minor) * factor
    if amount != amount.to_integral_value() or int(amount) % _STEP.get(currency, 1):
        raise RailRefusedError(NAME, "amount_step", to_translate("Stripe cannot charge this amount exactly."))
    return int(amount)


def from_stripe(amount: int, currency: str) -> int:
    """Stripe's units in ours, exact. Raises InvalidInputError for a fraction of our minor unit."""
    return to_minor(Decimal(amount).scaleb(-stripe_exponent(currency)), currency)


def stripe_exponent(currency: str) -> int:
    """Digits after the point in Stripe's amounts of this currency."""
    return _EXPONENTS.get(currency, currency_exponent(currency))


def limits_minor(currency: str) -> tuple[int, int]:
    """The least and the most of one card top-up."""
    unit = 10 ** currency_exponent(currency)
    least = from_stripe(_MINIMUM[currency], currency) if currency in _MINIMUM else unit
    return least, MAXIMUM_UNITS * unit


def step_minor(currency: str) -> int:
    """Amounts must be a multiple of this, in our minor units."""
    digits = max(stripe_exponent(currency) - currency_exponent(currency), 0)
    return max(_STEP.get(currency, 1) // int(10**digits), 1)
