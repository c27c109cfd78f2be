"""A billing period, priced: cut into segments in which the terms stay the same, each with its table. Pure.

A segment ends where a tariff version, a season, the supply's own terms (tariff, households, groups) or the tenancy
changes. The period's cost is the exact sum over its segments, rounded once, half up; each line of the explanation is
the step that the rounded running total makes there, so the lines sum to the cost, always.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from enum import StrEnum
from fractions import Fraction

from standpipe.platform.errors import NotFoundError
from standpipe.platform.units import ML_PER_KILOLITRE, period_of
from standpipe.tariffs.pricing import PRECISION, WATER, Place, PriceTable, exact_minor, rounded, water_price
from standpipe.tariffs.terms import Per, Proration, Season, Terms, meter_table, standing_parts

UTILITY = "utility"
"""The account code of what is the utility's own: water, standing charges, less discounts."""
_DAY = timedelta(days=1)
_NOTHING = Fraction(0)


@dataclass(frozen=True, slots=True)
class TariffInForce:
    """A tariff's version, from its first day on."""

    tariff_id: str
    version_id: str
    name: str
    currency: str
    effective_from: date
    terms: Terms
    basis: str = "CONSUMPTION"


@dataclass(frozen=True, slots=True)
class Supply:
    """Supply of a meter from a day on; ``household_id`` tells one tenancy from the next.

    ``came_at``: the instant of a handover between two households on that day; None where it is known by the day alone.
    """

    from_day: date
    tariff_id: str
    households: int = 1
    groups: frozenset[str] = frozenset()
    household_id: str | None = None
    came_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Days ``[start, end)`` of a period under the same terms. ``share``: of the period, where the tariff prorates."""

    start: date
    end: date
    version: TariffInForce
    season: Season
    supply: Supply
    table: PriceTable
    share: Fraction
    new_tenancy: bool

    @property
    def terms(self) -> Terms:
        """The version's terms."""
        return self.version.terms


class LineKind(StrEnum):
    """Kinds of line on a bill."""

    WATER = "WATER"
    ALLOWANCE = "ALLOWANCE"
    STANDING = "STANDING"
    LEVY = "LEVY"
    DISCOUNT = "DISCOUNT"


@dataclass(frozen=True, slots=True)
class BillLine:
    """One line: ``rate`` in minor units per kilolitre for water, per day or month for a standing charge.

    ``quantity``: millilitres, or days; ``tier`` is the block's place in the published tariff.
    """

    kind: LineKind
    code: str
    name: str
    since: date
    until: date
    tier: int | None
    quantity: int
    rate: Decimal | None
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Priced:
    """Price of a period so far, with its lines.

    ``accounts``: who gets it, the utility (``UTILITY``) or a levy by its code; sums to ``total_minor``, holds no zero.
    """

    total_minor: int
    lines: tuple[BillLine, ...]
    accounts: Mapping[str, int]


def version_on(versions: Sequence[TariffInForce], day: date) -> TariffInForce:
    """The version by which a day is priced: the newest that is in force, else the tariff's first.

    Raises NotFoundError where there is none at all.
    """
    if not versions:
        raise NotFoundError("This tariff has no prices.")
    due = [version for version in versions if version.effective_from <= day]
    return due[-1] if due else versions[0]


def supply_on(supplies: Sequence[Supply], day: date) -> Supply:
    """The supply terms of a day; before the first, the first hold."""
    due = [supply for supply in supplies if supply.from_day <= day]
    return due[-1] if due else supplies[0]


def segments_of(
    period_start: date, supplies: Sequence[Supply], versions: Mapping[str, Sequence[TariffInForce]]
) -> tuple[Segment, ...]:
    """A period's segments, oldest first. ``supplies`` and each tariff's ``versions`` are in order of their days.

    The period in which the supply begins starts with it, and is prorated like any other part of one.
    """
    start, end = period_of(period_start)
    days = (end - start).days
    if start < supplies[0].from_day < end:
        start = supplies[0].from_day
    found: list[Segment] = []
    for first, last in _stretches(start, end, supplies, versions):
        supply = supply_on(supplies, first)
        version = version_on(versions.get(supply.tariff_id, ()), first)
        season = version.terms.season_on(first)
        prorated = version.terms.proration is Proration.DAYS
        share = Fraction((last - first).days, days) if prorated else Fraction(1)
        table = meter_table(version.terms, season, supply.households, supply.groups, share)
        moved = not found or found[-1].supply.household_id != supply.household_id
        found.append(Segment(first, last, version, season, supply, table, share, moved))
    return tuple(found)


def _stretches(
    start: date, end: date, supplies: Sequence[Supply], versions: Mapping[str, Sequence[TariffInForce]]
) -> Iterator[tuple[date, date]]:
    """Cuts a period wherever the terms may change, and joins again what stayed the same."""
    cuts = {supply.from_day for supply in supplies}
    for tariff in versions.values():
        for version in tariff:
            cuts.add(version.effective_from)
            cuts.update(date(start.year, season.month, season.day) for season in version.terms.seasons)
    first = start
    for cut in sorted(day for day in cuts if start < day < end):
        if _terms_of(cut, supplies, versions) != _terms_of(first, supplies, versions):
            yield first, cut
            first = cut
    yield first, end


def _terms_of(
    day: date, supplies: Sequence[Supply], versions: Mapping[str, Sequence[TariffInForce]]
) -> tuple[object, ...]:
    supply = supply_on(supplies, day)
    version = version_on(versions.get(supply.tariff_id, ()), day)
    season = version.terms.season_on(day)
    return version.version_id, (season.month, season.day), supply.households, supply.groups, supply.household_id


def places(segments: Sequence[Segment], volumes_ml: Sequence[int]) -> Iterator[Place]:
    """Return where the meter stands at the end of each segment, given the volume of each."""
    spent = Decimal(0)
    used_ml = 0
    with localcontext() as context:
        context.prec = PRECISION
        for segment, volume_ml in zip(segments, volumes_ml, strict=True):
            anew = segment.terms.proration is Proration.DAYS or segment.new_tenancy
            start_ml = 0 if anew else used_ml
            carried = spent - exact_minor(segment.table, start_ml)
            used_ml = start_ml + volume_ml
            spent = carried + exact_minor(segment.table, used_ml)
            yield Place(segment.table, used_ml, carried)


def split_days(segments: Sequence[Segment], daily: Mapping[date, int]) -> tuple[int, ...]:
    """The volume of each segment; what ran on a day outside all of them counts with the nearest."""
    starts = [date.min, *(item.start for item in segments[1:])]
    ends = [*(item.end for item in segments[:-1]), date.max]
    return tuple(
        sum(ml for day, ml in daily.items() if start <= day < end) for start, end in zip(starts, ends, strict=True)
    )


def price_use(segments: Sequence[Segment], volumes_ml: Sequence[int]) -> Priced:
    """The cost of a period's water, levies and discounts included, block by block."""
    steps: list[tuple[BillLine, Fraction]] = []
    for segment, place, volume_ml in zip(segments, places(segments, volumes_ml), volumes_ml, strict=True):
        steps.extend(_water_lines(segment, place.used_ml - volume_ml, place.used_ml))
    return _summed(steps)


def cost_of_use_minor(segments: Sequence[Segment], volumes_ml: Sequence[int]) -> int:
    """``price_use``'s total, without its lines."""
    *_, last = places(segments, volumes_ml)
    with localcontext() as context:
        context.prec = PRECISION
        return rounded(last.carried_minor + exact_minor(last.table, last.used_ml))


def price_more(segment: Segment, place: Place, volume_ml: int) -> Priced:
    """The cost of ``volume_ml`` more from a place on; its total is ``charge_minor``'s."""
    steps = list(_water_lines(segment, place.used_ml, place.used_ml + volume_ml))
    with localcontext() as context:
        context.prec = PRECISION
        spent = place.carried_minor + exact_minor(place.table, place.used_ml)
    return _summed(steps, Fraction(spent))


def price_standing(segments: Sequence[Segment], through: date) -> Priced:
    """Standing charges that have fallen due by the end of ``through``: days one by one, a month's share on its first.

    Where the tariff does not prorate, the month's charge is that of its first segment.
    """
    steps: list[tuple[BillLine, Fraction]] = []
    billed_months: set[str] = set()
    for segment in segments:
        if segment.start > through:
            break
        steps.extend(_standing_lines(segment, min(segment.end, through + _DAY), billed_months))
    return _summed(steps)


def _water_lines(segment: Segment, from_ml: int, to_ml: int) -> Iterator[tuple[BillLine, Fraction]]:
    levied: dict[str, Fraction] = {}
    lower_ml = 0
    for block in segment.table.blocks:
        upper_ml = to_ml if block.up_to_ml is None else min(to_ml, block.up_to_ml)
        part_ml = upper_ml - max(lower_ml, from_ml)
        lower_ml = block.up_to_ml or upper_ml
        if part_ml <= 0:
            continue
        volume_kl = Fraction(part_ml, ML_PER_KILOLITRE)
        for part in block.parts:
            if part.code != WATER:
                levied[part.code] = levied.get(part.code, Fraction(0)) + volume_kl * Fraction(part.per_kl)
        price = water_price(block)
        kind = LineKind.ALLOWANCE if block.free else LineKind.WATER
        line = BillLine(kind, WATER, "", segment.start, segment.end, block.tier, part_ml, price, 0)
        yield line, volume_kl * Fraction(price)
    yield from _levy_lines(segment, levied, to_ml - from_ml)


def _standing_lines(segment: Segment, end: date, billed_months: set[str]) -> Iterator[tuple[BillLine, Fraction]]:
    terms, supply = segment.terms, segment.supply
    days = (end - segment.start).days
    levied: dict[str, Fraction] = {}
    for charge in terms.standing:
        parts = standing_parts(terms, charge, supply.households, supply.groups)
        monthly = charge.per is Per.MONTH
        if not parts or (monthly and terms.proration is Proration.NONE and charge.code in billed_months):
            continue
        if monthly:
            billed_months.add(charge.code)
        times = segment.share if monthly else Fraction(days)
        for part in parts[1:]:
            levied[part.code] = levied.get(part.code, Fraction(0)) + Fraction(part.per_kl) * times
        quantity = (segment.end - segment.start).days if monthly else days
        rate = parts[0].per_kl
        line = BillLine(LineKind.STANDING, charge.code, charge.name, segment.start, end, None, quantity, rate, 0)
        yield line, Fraction(rate) * times
    yield from _levy_lines(segment, levied, days)


def _levy_lines(segment: Segment, levied: Mapping[str, Fraction], quantity: int) -> Iterator[tuple[BillLine, Fraction]]:
    for levy in segment.terms.levies:
        if levy.code in levied:
            kind = LineKind.DISCOUNT if levy.discount else LineKind.LEVY
            line = BillLine(kind, levy.code, levy.name, segment.start, segment.end, None, quantity, None, 0)
            yield line, levied[levy.code]


def _summed(steps: Sequence[tuple[BillLine, Fraction]], spent: Fraction = _NOTHING) -> Priced:
    """Amounts that follow the rounded running total from ``spent`` on, so that they sum to its rise."""
    lines: list[BillLine] = []
    accounts: dict[str, int] = {}
    running, before = spent, round_half_up(spent)
    start = before
    for line, exact in steps:
        running += exact
        after = round_half_up(running)
        amount_minor, before = after - before, after
        lines.append(replace(line, amount_minor=amount_minor))
        code = line.code if line.kind is LineKind.LEVY else UTILITY
        accounts[code] = accounts.get(code, 0) + amount_minor
    return Priced(before - start, tuple(lines), {code: amount for code, amount in accounts.items() if amount})


def round_half_up(exact: Fraction) -> int:
    """Minor units, half up."""
    return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)
