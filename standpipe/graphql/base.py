"""Scalars and the small types that every other type is made of."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from enum import Enum
from typing import Any, NewType, TypeVar

import strawberry
from strawberry.types.enum import StrawberryEnumDefinition

from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import is_id
from standpipe.platform.units import ML_PER_LITRE, currency_exponent, money_text, to_major, volume_text

CurrencyCode = NewType("CurrencyCode", str)
LanguageTag = NewType("LanguageTag", str)
PhoneNumber = NewType("PhoneNumber", str)
Url = NewType("Url", str)

Described = TypeVar("Described", bound=Enum)

AFTER = "A cursor of the page before; the page begins behind it. Without it, at the beginning."
CURSOR = "Names this item; give it to `after` for what follows it."
EDGES = "The items of this page, each with its cursor."
FIRST = "How many at most, 1 to 100."
NODE = "The item itself."
NODES = "The items of this page alone, without cursors."
PAGE_INFO = "Whether more follows, and by which cursor."
_MAX_DIGITS = 30


def described_enum(enum: type[Described], values: Mapping[Described, str], *, name: str, description: str) -> None:
    """Take an enum of another room into the schema, with a description of each value. Raises KeyError without one."""
    strawberry.enum(enum, name=name, description=description)
    definition: StrawberryEnumDefinition = enum.__strawberry_definition__  # type: ignore[attr-defined]
    for value in definition.values:
        value.description = values[enum[value.name]]


def parse_decimal(value: object) -> Decimal:
    """An exact decimal from a string (or a whole number). Floats are refused: they have lost their digits already."""
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > _MAX_DIGITS:
        raise ValueError('Write a decimal as a string, such as "12.50".')
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError("This is not a decimal number.") from None
    if not number.is_finite():
        raise ValueError("This is not a finite number.")
    if abs(number.adjusted()) > _MAX_DIGITS:
        # "1E+999990" is short to write, and a million digits to reckon with.
        raise ValueError("This number has too many digits.")
    return number


def parse_datetime(value: object) -> datetime:
    """RFC 3339 with an offset; comes out in UTC."""
    if not isinstance(value, str):
        raise ValueError("Write a date and time as a string.")  # noqa: TRY004 - graphql-core wants ValueError.
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        raise ValueError("A date and time needs its offset from UTC.")
    return instant.astimezone(UTC)


def datetime_text(value: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("Write this as a string.")  # noqa: TRY004 - graphql-core wants ValueError.
    return value


def _string_scalar(name: str, description: str) -> Any:
    return strawberry.scalar(name=name, description=description, serialize=str, parse_value=_text)


SCALARS: dict[object, Any] = {
    Decimal: strawberry.scalar(
        name="Decimal",
        description="Exact decimal as a JSON string; never a float.",
        serialize=lambda value: f"{value:f}",
        parse_value=parse_decimal,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="RFC 3339, always UTC.",
        specified_by_url="https://scalars.graphql.org/andimarek/date-time",
        serialize=datetime_text,
        parse_value=parse_datetime,
    ),
    date: strawberry.scalar(
        name="Date",
        description="Calendar date in the meter's time zone.",
        serialize=date.isoformat,
        parse_value=lambda value: date.fromisoformat(_text(value)),
    ),
    CurrencyCode: _string_scalar("CurrencyCode", "ISO 4217."),
    LanguageTag: _string_scalar("LanguageTag", "BCP 47."),
    PhoneNumber: _string_scalar("PhoneNumber", "E.164."),
    Url: _string_scalar("URL", "An absolute address."),
}


@strawberry.interface(description="Anything with an id of its own.")
class Node:
    """One prefixed id everywhere: mtr_…, top_…."""

    id: strawberry.ID = strawberry.field(description="Opaque, prefixed by kind: mtr_…, top_….")


def known_id(id: str, prefix: str, missing: str) -> str:
    """An id of this kind. Raises NotFoundError, saying ``missing``, for any other text."""
    if not is_id(str(id), prefix):
        raise NotFoundError(missing)
    return str(id)


@strawberry.type(description="Where a page of a connection lies.")
class PageInfo:
    """Keyset pages: a cursor names an item, never an offset."""

    has_next_page: bool = strawberry.field(description="Whether more follows behind endCursor.")
    has_previous_page: bool = strawberry.field(description="Whether this page was asked for with `after`.")
    start_cursor: str | None = strawberry.field(description="Of the first item; null on an empty page.")
    end_cursor: str | None = strawberry.field(
        description="Of the last item; null on an empty page. Give it to `after` for the next page."
    )


def page_info(cursors: list[str], *, more: bool, after: str | None) -> PageInfo:
    """The page info of a page walked forwards."""
    return PageInfo(
        has_next_page=more,
        has_previous_page=after is not None,
        start_cursor=cursors[0] if cursors else None,
        end_cursor=cursors[-1] if cursors else None,
    )


@strawberry.type(description="An amount of money.")
class Money:
    """Exact amount and its display form."""

    amount: Decimal = strawberry.field(description="In the currency's major unit, with its own number of digits.")
    currency: CurrencyCode = strawberry.field(description="The currency of `amount`.")
    display: str = strawberry.field(description="As its reader writes it.")


def money(amount_minor: int, currency: str, language: str) -> Money:
    """Money from minor units."""
    return Money(
        amount=to_major(amount_minor, currency),
        currency=CurrencyCode(currency),
        display=money_text(amount_minor, currency, language),
    )


def price(price_minor: Decimal, currency: str, language: str) -> Money:
    """A unit price, which may have more digits than the currency: the amount is exact, the display rounded."""
    amount = price_minor.scaleb(-currency_exponent(currency))
    display = money_text(int(price_minor.to_integral_value(ROUND_HALF_UP)), currency, language)
    return Money(amount=amount, currency=CurrencyCode(currency), display=display)


@strawberry.type(description="An amount of water.")
class Volume:
    """Exact litres and their display form."""

    litres: Decimal = strawberry.field(description="Exact, to the millilitre.")
    display: str = strawberry.field(description="Litres, or cubic metres from a thousand litres on.")


def volume(volume_ml: int, language: str) -> Volume:
    """Volume from millilitres."""
    return Volume(litres=litres(volume_ml), display=volume_text(volume_ml, language))


def litres(volume_ml: int) -> Decimal:
    """Millilitres as exact litres."""
    return Decimal(volume_ml) / ML_PER_LITRE


@strawberry.input(description="An amount of money.")
class MoneyInput:
    """Exact amount, never converted."""

    amount: Decimal = strawberry.field(
        description='In the major unit, such as "12.50", with no more digits than the currency has.'
    )
    currency: CurrencyCode = strawberry.field(description="The meter's own; nothing is converted.")
