"""Money, water and time zones: exact arithmetic and how a person reads it. Pure; no float near money."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from babel.core import Locale, UnknownLocaleError
from babel.numbers import format_currency, format_decimal

from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase

ML_PER_LITRE = 1_000
ML_PER_KILOLITRE = 1_000_000
MAX_MINOR = 10**15
"""No single amount or total may pass this; it leaves head-room below PostgreSQL's bigint."""

REMEMBERED_TEXTS = 20_000
"""Amounts as they are written, kept: a screen has the same ones many times, and again at the next look."""

# ISO 4217 list one: only currencies whose exponent is not 2.
_EXPONENTS = (
    dict.fromkeys(
        [
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ],
        0,
    )
    | dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3)
    | dict.fromkeys(["CLF", "UYW"], 4)
)


def currency_exponent(currency: str) -> int:
    """Digits after the point of an ISO 4217 currency."""
    return _EXPONENTS.get(currency, 2)


def to_minor(amount: Decimal, currency: str) -> int:
    """An exact decimal amount in minor units.

    Raises InvalidInputError where the amount is not finite or has more digits than the currency.
    """
    if not amount.is_finite() or abs(amount.adjusted()) > 15:  # noqa: PLR2004 - MAX_MINOR has 16 digits.
        raise InvalidInputError(phrase("The amount is not a usable number."), ("amount",))
    scaled = amount.scaleb(currency_exponent(currency))
    if scaled != scaled.to_integral_value():
        digits = currency_exponent(currency)
        raise InvalidInputError(
            phrase("{currency} has {digits} digits after the point.", currency=currency, digits=digits), ("amount",)
        )
    if abs(scaled) > MAX_MINOR:
        raise InvalidInputError(phrase("The amount is too large."), ("amount",))
    return int(scaled)


def to_major(amount_minor: int, currency: str) -> Decimal:
    """Minor units as an exact decimal with the currency's own number of digits."""
    return Decimal(amount_minor).scaleb(-currency_exponent(currency))


@lru_cache(maxsize=REMEMBERED_TEXTS)
def money_text(amount_minor: int, currency: str, language: str = "en") -> str:
    """An amount as its reader writes it, e.g. ``KSh 1,250.00``."""
    return format_currency(to_major(amount_minor, currency), currency, locale=_locale(language))


@lru_cache(maxsize=REMEMBERED_TEXTS)
def volume_text(volume_ml: int, language: str = "en") -> str:
    """A volume as its reader writes it: litres below a kilolitre, cubic metres from there."""
    locale = _locale(language)
    if abs(volume_ml) >= ML_PER_KILOLITRE:
        return f"{format_decimal(Decimal(volume_ml) / ML_PER_KILOLITRE, '#,##0.0##', locale=locale)} m³"
    return f"{format_decimal(Decimal(volume_ml) / ML_PER_LITRE, '#,##0.#', locale=locale)} L"


def is_storable(text: str) -> bool:
    """Tell whether PostgreSQL can hold a text from outside: JSON can spell a NUL and half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


@lru_cache(maxsize=256)
def _locale(language: str) -> Locale:
    try:
        return Locale.parse(language, sep="-")
    except (UnknownLocaleError, ValueError):
        return Locale("en")


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open stretch of time, ``[start, end)``, both instants in UTC."""

    start: datetime
    end: datetime


def local_midnight(day: date, zone: ZoneInfo) -> datetime:
    """The instant at which a service day begins there, in UTC.

    Where DST skips midnight, zoneinfo's fold=0 rule lands on the first instant that exists that day.
    """
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)


def day_span(day: date, zone: ZoneInfo) -> Span:
    """A service day; 23 or 25 hours long where the clocks change."""
    return Span(local_midnight(day, zone), local_midnight(day + timedelta(days=1), zone))


def period_of(day: date) -> tuple[date, date]:
    """The billing period (calendar month) that holds ``day``: first day, and first day of the next."""
    start = day.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def service_day(read_at: datetime, zone: ZoneInfo) -> date:
    """The day that a register reading closes: a reading at midnight sharp belongs to the day that ends there."""
    return (read_at - timedelta(microseconds=1)).astimezone(zone).date()
