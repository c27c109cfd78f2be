"""Tariff files: YAML that a utility can read and write, checked whole, with messages that name the line.

docs/tariffs.md explains each field to who writes one. Every number is taken as the text that stands there, so no price
ever passes through a float, and has so few digits that nothing made of it is ever rounded before a period's total.
"""

import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from babel.numbers import is_currency
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from standpipe.platform.units import ML_PER_KILOLITRE, ML_PER_LITRE, currency_exponent
from standpipe.tariffs.file_text import Path, TariffFileError, line_of, load, words
from standpipe.tariffs.periods import UTILITY
from standpipe.tariffs.pricing import WATER, Block, Part, PriceTable
from standpipe.tariffs.terms import (
    Allowance,
    Levy,
    Per,
    Proration,
    Season,
    StandingCharge,
    Terms,
    stacked,
    standing_parts,
)

__all__ = ["TariffFile", "TariffFileError", "read_tariff", "terms_of", "to_terms"]

_MAX_GROUPS = 8
_NO_YEAR = "2200"
_MAX_DECIMALS = 24
"""Of a price with all its levies, in minor units: what pricing.PRECISION leaves beside the largest volume and price."""
_MAX_PRICE = Decimal(10**15)


def _code(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", value):
        raise ValueError("a code is small letters, digits and dashes, such as meter-rent (40 at most)")
    return value


def _number(value: Any) -> Any:
    # No more digits than this: a stored Decimal is then written back without an exponent, and read again by this rule.
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,13}(\.[0-9]{1,6})?", value):
        raise ValueError("a number is written with digits and a point, such as 1250.50 (six digits after it at most)")
    return value


def _day(value: Any) -> Any:
    # Without this, pydantic takes a bare number for seconds since 1970.
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("a day is written as year-month-day, such as 2027-01-31")
    if isinstance(value, str) and not _is_day(value):
        raise ValueError("the calendar has no such day")
    # The calendar's last month has no next one, and every meter's prices are reckoned over whole months.
    if isinstance(value, str) and value[:4] >= _NO_YEAR:
        raise ValueError(f"a day lies before the year {_NO_YEAR}")
    return value


def _is_day(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _printable(value: str) -> str:
    # A name stands on bills; marks that turn the direction of writing would make other lines of it read backwards.
    if not value.isprintable():
        raise ValueError("a name is one line of visible letters")
    return value


def _currency(value: str) -> str:
    if not is_currency(value):
        raise ValueError("this is no currency's ISO 4217 code, such as KES")
    return value


def _month_and_day(value: str) -> str:
    if not re.fullmatch(r"[0-9]{2}-[0-9]{2}", value):
        raise ValueError("a season begins on a day of the year, written as month-day, such as 06-01")
    if not _is_day(f"2027-{value}"):  # A year without a 29th of February: a season begins every year.
        raise ValueError("a season begins on a day that every year has")
    return value


_Code = Annotated[str, AfterValidator(_code)]
_Name = Annotated[str, Field(min_length=1, max_length=80), AfterValidator(_printable)]
_Number = Annotated[Decimal, BeforeValidator(_number)]
_Groups = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=40)], ...], Field(max_length=20)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))


class BlockEntry(_Part):
    """A block: up to so many kilolitres (exclusive; the last has none), at a price per kilolitre."""

    up_to_kl: _Number | None = Field(None, gt=0, le=1_000_000)
    price: _Number = Field(ge=0, le=10**12)


class SeasonEntry(_Part):
    """Blocks from a day of the year on (``MM-DD``)."""

    name: _Name
    from_: Annotated[str, AfterValidator(_month_and_day)] = Field(alias="from")
    blocks: tuple[BlockEntry, ...] = Field(max_length=50)


class AllowanceEntry(_Part):
    """Free kilolitres at the bottom of the blocks; ``for``: groups that have it."""

    kl: _Number = Field(gt=0, le=1_000_000)
    per_household: bool = False
    for_: _Groups = Field((), alias="for")


class StandingEntry(_Part):
    """A fixed charge per day or month."""

    code: _Code
    name: _Name
    amount: _Number = Field(gt=0, le=10**12)
    per: Literal["day", "month"]
    per_household: bool = False
    for_: _Groups = Field((), alias="for")


class LevyEntry(_Part):
    """A tax or levy (or discount): ``percent`` of codes, or an amount ``per-kl``; ``blocks`` count from 1."""

    code: _Code
    name: _Name
    percent: _Number | None = Field(None, gt=0, le=1000)
    per_kl: _Number | None = Field(None, gt=0, le=10**12)
    of: Annotated[tuple[str, ...], Field(max_length=60)] = (WATER,)
    blocks: Annotated[tuple[int, ...], Field(max_length=50)] = ()
    for_: _Groups = Field((), alias="for")

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.percent is None) == (self.per_kl is None):
            raise ValueError("give either percent or per-kl")
        return self


class TariffFile(_Part):
    """A tariff version as its file has it. Prices are in major units of the currency, per kilolitre."""

    tariff: _Code
    name: Annotated[str, Field(min_length=1, max_length=120), AfterValidator(_printable)]
    customer_class: _Code = Field("domestic", alias="class")
    currency: Annotated[str, AfterValidator(_currency)]
    basis: Literal["consumption", "purchase"] = "consumption"
    effective_from: Annotated[date, BeforeValidator(_day)]
    source: str = Field("", max_length=1000)
    proration: Literal["days", "none"] = "days"
    blocks_per_household: bool = False
    unit_litres: _Number = Field(Decimal("0.001"), gt=0, le=1000)
    blocks: tuple[BlockEntry, ...] = Field((), max_length=50)
    seasons: tuple[SeasonEntry, ...] = Field((), max_length=12)
    allowance: AllowanceEntry | None = None
    standing_charges: tuple[StandingEntry, ...] = Field((), max_length=20)
    levies: tuple[LevyEntry, ...] = Field((), max_length=20)
    discounts: tuple[LevyEntry, ...] = Field((), max_length=20)


def read_tariff(text: str, name: str = "tariff") -> TariffFile:
    """A tariff file's content, checked whole. Raises TariffFileError with all that is wrong, each with its line."""
    tree, places = load(text, name)
    try:
        found = TariffFile.model_validate(tree)
    except ValidationError as error:
        lines = (f"{name}:{line_of(item['loc'], places)}: {words(item)}" for item in error.errors())
        raise TariffFileError("The tariff file has mistakes.", lines=tuple(lines)) from None
    wrong = [f"{name}:{line_of(path, places)}: {what}" for path, what in _mistakes(found)]
    if wrong:
        raise TariffFileError("The tariff file has mistakes.", lines=tuple(wrong))
    return found


def terms_of(document: dict[str, Any]) -> Terms:
    """The terms of a stored version. Raises ValidationError for a document that ``read_tariff`` did not pass."""
    return to_terms(TariffFile.model_validate(document))


def to_terms(file: TariffFile) -> Terms:
    """Convert the file to the engine's own units: millilitres, and minor units of the currency."""
    scale = Decimal(10) ** currency_exponent(file.currency)
    seasons = file.seasons or (
        SeasonEntry.model_validate({"name": "all year", "from": "01-01", "blocks": file.blocks}),
    )
    allowance = file.allowance
    return Terms(
        seasons=tuple(
            sorted(
                (
                    Season(item.name, int(item.from_[:2]), int(item.from_[3:]), _table(item.blocks, scale))
                    for item in seasons
                ),
                key=lambda season: (season.month, season.day),
            )
        ),
        blocks_per_household=file.blocks_per_household,
        allowance=None
        if allowance is None
        else Allowance(int(allowance.kl * ML_PER_KILOLITRE), allowance.per_household, frozenset(allowance.for_)),
        standing=tuple(
            StandingCharge(
                *(item.code, item.name, item.amount * scale, Per(item.per.upper())),
                per_household=item.per_household,
                groups=frozenset(item.for_),
            )
            for item in file.standing_charges
        ),
        # Discounts come first: taxes are due on what is paid.
        levies=tuple(_levy(item, scale, discount=True) for item in file.discounts)
        + tuple(_levy(item, scale, discount=False) for item in file.levies),
        proration=Proration(file.proration.upper()),
        unit_ml=int(file.unit_litres * ML_PER_LITRE),
    )


def _table(blocks: tuple[BlockEntry, ...], scale: Decimal) -> PriceTable:
    return PriceTable(
        tuple(
            Block(
                None if block.up_to_kl is None else int(block.up_to_kl * ML_PER_KILOLITRE),
                block.price * scale,
                tier=index,
            )
            for index, block in enumerate(blocks)
        )
    )


def _levy(item: LevyEntry, scale: Decimal, *, discount: bool) -> Levy:
    return Levy(
        code=item.code,
        name=item.name,
        percent=item.percent,
        per_kl_minor=None if item.per_kl is None else item.per_kl * scale,
        of=frozenset(item.of),
        tiers=frozenset(number - 1 for number in item.blocks),
        groups=frozenset(item.for_),
        discount=discount,
    )


def _mistakes(file: TariffFile) -> list[tuple[Path, str]]:
    """Rules that span several fields."""
    wrong: list[tuple[Path, str]] = []
    if bool(file.blocks) == bool(file.seasons):
        wrong.append((("blocks",), "give either blocks or seasons"))
    wrong.extend(_block_mistakes(("blocks",), file.blocks) if file.blocks else [])
    for number, season in enumerate(file.seasons):
        wrong.extend(_block_mistakes(("seasons", number, "blocks"), season.blocks))
        if any(other.from_ == season.from_ for other in file.seasons[:number]):
            wrong.append((("seasons", number, "from"), "another season begins on this day"))
    if len({len(season.blocks) for season in file.seasons}) > 1 and any(
        item.blocks for item in (*file.discounts, *file.levies)
    ):
        wrong.append((("seasons",), "levies that name blocks need seasons with the same number of blocks"))
    wrong.extend(_code_mistakes(file))
    if file.basis == "purchase":
        tables = [
            (("blocks",), file.blocks),
            *((("seasons", n, "blocks"), s.blocks) for n, s in enumerate(file.seasons)),
        ]
        wrong.extend(
            ((*path, len(blocks) - 1), "water that is bought ahead has a price in its last block")
            for path, blocks in tables
            if blocks and not blocks[-1].price
        )
    for path, volume in (
        (("allowance", "kl"), file.allowance.kl * ML_PER_KILOLITRE if file.allowance else Decimal(0)),
        (("unit-litres",), file.unit_litres * ML_PER_LITRE),
    ):
        if volume != volume.to_integral_value():
            wrong.append((path, "a volume has at most millilitres"))
    wrong.extend(_said_in_vain(file))
    if not wrong:
        wrong.extend(_price_mistakes(to_terms(file)))
    return wrong


def _block_mistakes(path: Path, blocks: tuple[BlockEntry, ...]) -> list[tuple[Path, str]]:
    wrong: list[tuple[Path, str]] = []
    if not blocks:
        return [(path, "there must be a block")]
    lower = Decimal(0)
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        here = (*path, number)
        if last and block.up_to_kl is not None:
            wrong.append((here, "the last block is open-ended: it has no up-to-kl"))
        elif not last and block.up_to_kl is None:
            wrong.append((here, "only the last block is open-ended: up-to-kl is missing"))
        elif block.up_to_kl is not None:
            if block.up_to_kl <= lower:
                wrong.append(((*here, "up-to-kl"), "blocks must rise"))
            if (block.up_to_kl * ML_PER_KILOLITRE) % 1:
                wrong.append(((*here, "up-to-kl"), "a volume has at most millilitres"))
            lower = block.up_to_kl
    return wrong


def _code_mistakes(file: TariffFile) -> list[tuple[Path, str]]:
    wrong: list[tuple[Path, str]] = []
    known = {WATER}
    for number, charge in enumerate(file.standing_charges):
        if charge.code in known:
            wrong.append((("standing-charges", number, "code"), "this code is taken"))
        known.add(charge.code)
    count = max([len(file.blocks), *(len(season.blocks) for season in file.seasons)])
    for group in ("discounts", "levies"):
        entries: tuple[LevyEntry, ...] = getattr(file, group)
        for number, levy in enumerate(entries):
            wrong.extend(
                ((group, number, "of"), f"{code}: no such code before this line")
                for code in levy.of
                if code not in known
            )
            # The utility's own account goes by that code: a levy of that name would be booked as its revenue.
            if levy.code in {*known, UTILITY}:
                wrong.append(((group, number, "code"), "this code is taken"))
            known.add(levy.code)
            if any(not 1 <= block <= count for block in levy.blocks):
                wrong.append(((group, number, "blocks"), f"blocks are numbered from 1 to {count}"))
    return wrong


def _said_in_vain(file: TariffFile) -> list[tuple[Path, str]]:
    """Find what would be read otherwise than it is meant: a list of nobody is no list, an amount is of nothing."""
    entries: list[tuple[Path, BaseModel]] = [(("allowance",), file.allowance)] if file.allowance else []
    for group in ("standing_charges", "discounts", "levies"):
        here = group.replace("_", "-")
        entries.extend(((here, number), entry) for number, entry in enumerate(getattr(file, group)))
    wrong: list[tuple[Path, str]] = []
    for path, entry in entries:
        wrong.extend(
            ((*path, field.rstrip("_")), "an empty list says nothing; leave the field out")
            for field in ("for_", "of", "blocks")
            if field in entry.model_fields_set and not getattr(entry, field)
        )
        if isinstance(entry, LevyEntry) and entry.per_kl is not None and "of" in entry.model_fields_set:
            wrong.append(((*path, "of"), "of goes with percent; per-kl is an amount for each kilolitre"))
    return wrong


def _price_mistakes(terms: Terms) -> list[tuple[Path, str]]:
    """Find a mix of groups that would be paid for its water, or pays a price that cannot be reckoned exactly."""
    named = [item.groups for item in terms.levies] + [item.groups for item in terms.standing]
    groups = sorted(frozenset().union(*named))
    if len(groups) > _MAX_GROUPS:
        return [(("discounts",), f"a tariff names at most {_MAX_GROUPS} groups")]
    for size in range(len(groups) + 1):
        for mix in combinations(groups, size):
            for parts in _stacks(terms, frozenset(mix)):
                if _below_zero(terms, parts):
                    return [(("discounts",), "discounts come to more than the price, or than what a levy is of")]
                if any(abs(part.per_kl) > _MAX_PRICE or _decimals(part.per_kl) > _MAX_DECIMALS for part in parts):
                    return [(("levies",), "levies upon levies make a price too large, or of too many digits")]
    return []


def _stacks(terms: Terms, groups: frozenset[str]) -> list[tuple[Part, ...]]:
    """Every block's price, and every standing charge, with all that comes upon them."""
    return [
        stacked(terms.levies, (Part(WATER, block.price_minor_per_kl),), groups, block.tier)
        for season in terms.seasons
        for block in season.table.blocks
    ] + [standing_parts(terms, charge, 1, groups) for charge in terms.standing]


def _below_zero(terms: Terms, parts: Sequence[Part]) -> bool:
    """Tell whether the utility, or who a levy is for, would have to pay the customer."""
    collected = {levy.code for levy in terms.levies if not levy.discount}
    own = sum((part.per_kl for part in parts if part.code not in collected), Decimal(0))
    return own < 0 or any(part.per_kl < 0 for part in parts if part.code in collected)


def _decimals(price: Decimal) -> int:
    exponent = price.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0
