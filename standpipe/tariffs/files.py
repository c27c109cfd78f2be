"""Tariff files: YAML that a utility can read and write, checked whole, with messages that name the line.

Every number is taken as the text that stands there, so no price ever passes through a float. Aliases and duplicate
keys are refused: a price list must say each thing once.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import combinations
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from standpipe.errors import InvalidInputError
from standpipe.tariffs.pricing import WATER, Block, PriceTable
from standpipe.tariffs.terms import (
    Allowance,
    Levy,
    Per,
    Proration,
    Season,
    StandingCharge,
    Terms,
    meter_table,
    standing_parts,
)
from standpipe.units import ML_PER_KILOLITRE, ML_PER_LITRE, currency_exponent

MAX_BYTES = 256_000
_MAX_GROUPS_TRIED = 6
_CODE = r"^[a-z][a-z0-9-]{0,39}$"
_Path = tuple[Hashable, ...]


@dataclass
class TariffFileError(InvalidInputError):
    """What is wrong with a tariff file; one line each, as ``file:line: what``."""

    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.lines)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))


class BlockEntry(_Part):
    """A block: up to so many kilolitres (exclusive; the last has none), at a price per kilolitre."""

    up_to_kl: Decimal | None = Field(None, gt=0, le=1_000_000)
    price: Decimal = Field(ge=0, le=10**12)


class SeasonEntry(_Part):
    """Blocks from a day of the year on (``MM-DD``)."""

    name: str = Field(min_length=1, max_length=80)
    from_: str = Field(alias="from", pattern=r"^(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")
    blocks: tuple[BlockEntry, ...]

    @model_validator(mode="after")
    def _a_day_of_every_year(self) -> Self:
        date.fromisoformat(f"2027-{self.from_}")  # A year without a 29th of February.
        return self


class AllowanceEntry(_Part):
    """Free kilolitres at the bottom of the blocks; ``for``: groups that have it."""

    kl: Decimal = Field(gt=0, le=1_000_000)
    per_household: bool = False
    for_: tuple[str, ...] = Field((), alias="for")


class StandingEntry(_Part):
    """A fixed charge per day or month."""

    code: str = Field(pattern=_CODE)
    name: str = Field(min_length=1, max_length=80)
    amount: Decimal = Field(gt=0, le=10**12)
    per: Literal["day", "month"]
    per_household: bool = False
    for_: tuple[str, ...] = Field((), alias="for")


class LevyEntry(_Part):
    """A tax or levy (or discount): ``percent`` of codes, or an amount ``per-kl``; ``blocks`` count from 1."""

    code: str = Field(pattern=_CODE)
    name: str = Field(min_length=1, max_length=80)
    percent: Decimal | None = Field(None, gt=0, le=1000)
    per_kl: Decimal | None = Field(None, gt=0, le=10**12)
    of: tuple[str, ...] = (WATER,)
    blocks: tuple[int, ...] = ()
    for_: tuple[str, ...] = Field((), alias="for")

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.percent is None) == (self.per_kl is None):
            raise ValueError("give either percent or per-kl")
        return self


class TariffFile(_Part):
    """A tariff version as its file has it. Prices are in major units of the currency, per kilolitre."""

    tariff: str = Field(pattern=_CODE)
    name: str = Field(min_length=1, max_length=120)
    customer_class: str = Field("domestic", alias="class", pattern=_CODE)
    currency: str = Field(pattern="^[A-Z]{3}$")
    basis: Literal["consumption", "purchase"] = "consumption"
    effective_from: date
    source: str = Field("", max_length=500)
    proration: Literal["days", "none"] = "days"
    blocks_per_household: bool = False
    unit_litres: Decimal = Field(Decimal("0.001"), gt=0, le=1000)
    blocks: tuple[BlockEntry, ...] = ()
    seasons: tuple[SeasonEntry, ...] = ()
    allowance: AllowanceEntry | None = None
    standing_charges: tuple[StandingEntry, ...] = ()
    levies: tuple[LevyEntry, ...] = ()
    discounts: tuple[LevyEntry, ...] = ()


def read_tariff(text: str, name: str = "tariff") -> TariffFile:
    """A tariff file's content, checked whole. Raises TariffFileError with all that is wrong, each with its line."""
    tree, places = _load(text, name)
    try:
        found = TariffFile.model_validate(tree)
    except ValidationError as error:
        lines = (f"{name}:{_line_of(item['loc'], places)}: {_words(item)}" for item in error.errors())
        raise TariffFileError("The tariff file has mistakes.", lines=tuple(lines)) from None
    wrong = [f"{name}:{_line_of(path, places)}: {what}" for path, what in _mistakes(found)]
    if wrong:
        raise TariffFileError("The tariff file has mistakes.", lines=tuple(wrong))
    return found


def terms_of(document: dict[str, Any]) -> Terms:
    """The terms of a stored version. Raises ValidationError for a document that ``read_tariff`` did not pass."""
    return to_terms(TariffFile.model_validate(document))


def to_terms(file: TariffFile) -> Terms:
    """The same in the engine's own units: millilitres, and minor units of the currency."""
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


def _mistakes(file: TariffFile) -> list[tuple[_Path, str]]:
    """Rules that span several fields."""
    wrong: list[tuple[_Path, str]] = []
    if bool(file.blocks) == bool(file.seasons):
        wrong.append((("blocks",), "give either blocks or seasons"))
    wrong.extend(_block_mistakes(("blocks",), file.blocks) if file.blocks else [])
    for number, season in enumerate(file.seasons):
        wrong.extend(_block_mistakes(("seasons", number, "blocks"), season.blocks))
        if any(other.from_ == season.from_ for other in file.seasons[:number]):
            wrong.append((("seasons", number, "from"), "another season begins on this day"))
    if len({len(season.blocks) for season in file.seasons}) > 1 and any(item.blocks for item in file.levies):
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
    if not wrong:
        wrong.extend(_below_zero(to_terms(file)))
    return wrong


def _block_mistakes(path: _Path, blocks: tuple[BlockEntry, ...]) -> list[tuple[_Path, str]]:
    wrong: list[tuple[_Path, str]] = []
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


def _code_mistakes(file: TariffFile) -> list[tuple[_Path, str]]:
    wrong: list[tuple[_Path, str]] = []
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
            if levy.code in known:
                wrong.append(((group, number, "code"), "this code is taken"))
            known.add(levy.code)
            if any(not 1 <= block <= count for block in levy.blocks):
                wrong.append(((group, number, "blocks"), f"blocks are numbered from 1 to {count}"))
    return wrong


def _below_zero(terms: Terms) -> list[tuple[_Path, str]]:
    """Whether any mix of groups would be paid for using water. Tried for every mix, as far as that is feasible."""
    groups = sorted({group for item in terms.levies for group in item.groups})[:_MAX_GROUPS_TRIED]
    for size in range(len(groups) + 1):
        for mix in combinations(groups, size):
            chosen = frozenset(mix)
            try:
                for season in terms.seasons:
                    meter_table(terms, season, 1, chosen, Fraction(1))
                owed = [sum(part.per_kl for part in standing_parts(terms, item, 1, chosen)) for item in terms.standing]
            except InvalidInputError:
                owed = [Decimal(-1)]
            if any(amount < 0 for amount in owed):
                return [(("discounts",), "together these discounts are more than the price")]
    return []


def _load(text: str, name: str) -> tuple[Any, dict[_Path, int]]:
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise TariffFileError("The file is too large.", lines=(f"{name}:1: a tariff file has at most 256 kB",))
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error) or "not YAML"
        line = mark.line + 1 if mark else 1
        raise TariffFileError("The file is not YAML.", lines=(f"{name}:{line}: {what}",)) from None
    places: dict[_Path, int] = {}
    if not isinstance(root, yaml.MappingNode):
        raise TariffFileError("The file is empty.", lines=(f"{name}:1: a tariff is a list of `name: value` lines",))
    return _plain(root, (), places, set(), name), places


def _plain(node: yaml.Node, path: _Path, places: dict[_Path, int], seen: set[int], name: str) -> Any:
    line = node.start_mark.line + 1
    places[path] = line
    if id(node) in seen:
        raise TariffFileError("Aliases.", lines=(f"{name}:{line}: write it out; aliases are not taken",))
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value in node.value:
            key, key_line = str(key_node.value), key_node.start_mark.line + 1
            if key in found:
                raise TariffFileError("Twice.", lines=(f"{name}:{key_line}: {key} stands here twice",))
            found[key] = _plain(value, (*path, key), places, seen, name)
            places[*path, key] = key_line
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, number), places, seen, name) for number, item in enumerate(node.value)]
    return None if node.tag == "tag:yaml.org,2002:null" else node.value


def _line_of(path: _Path, places: dict[_Path, int]) -> int:
    """The line of the nearest thing that stands in the file."""
    while path and path not in places:
        path = path[:-1]
    return places.get(path, 1)


def _words(item: Any) -> str:
    where = ".".join(str(step) for step in item["loc"])
    message = re.sub(r"^Value error, ", "", item["msg"])
    return f"{where}: {message}" if where else message
