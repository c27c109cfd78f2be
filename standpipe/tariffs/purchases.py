"""Volume bought ahead (VOLUME wallets): whole units through the blocks, priced at the purchase. Pure and exact.

The blocks count what was bought in the period. A purchase costs what the period's rounded total rises by, so splitting
payments in any way ends at the same volume and the same money: what does not make a whole unit stays in the wallet,
and the next purchase spends it. The free allowance lies at the bottom of the period's purchases, so the period's first
purchase brings it along, whatever is paid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from standpipe.tariffs.periods import Priced, Segment, places, price_more, split_days
from standpipe.tariffs.pricing import MAX_VOLUME_ML, Place, PriceTable, charge_minor, volume_for_ml


@dataclass(frozen=True, slots=True)
class Bought:
    """Purchase for an amount: ``priced`` says what it costs and why, ``residue_minor`` buys no whole unit more."""

    volume_ml: int
    priced: Priced
    residue_minor: int


def buy(segment: Segment, place: Place, amount_minor: int) -> Bought:
    """The most whole units that an amount buys from a place on; nothing for an amount below zero."""
    volume_ml = 0 if amount_minor < 0 else units_for_ml(place, amount_minor, segment.terms.unit_ml)
    priced = price_more(segment, place, volume_ml)
    return Bought(volume_ml, priced, amount_minor - priced.total_minor)


def units_for_ml(place: Place, amount_minor: int, unit_ml: int) -> int:
    """The most volume in whole units: one unit more would cost more than ``amount_minor``.

    Water that costs nothing is given as far as the blocks go, never without end: a last block at no price sells none.
    """
    most_ml = volume_for_ml(place.table, place.used_ml, amount_minor, place.carried_minor)
    return min(most_ml, max(_end_of_sale(place.table) - place.used_ml, 0)) // unit_ml * unit_ml


def cost_of_units_minor(place: Place, volume_ml: int, unit_ml: int) -> int:
    """Price a volume in whole units, rounded up to them."""
    return charge_minor(place.table, place.used_ml, whole_units_ml(volume_ml, unit_ml), place.carried_minor)


def whole_units_ml(volume_ml: int, unit_ml: int) -> int:
    """A volume, rounded up to whole units."""
    return -(-volume_ml // unit_ml) * unit_ml


def place_after(segments: Sequence[Segment], bought_ml: Mapping[date, int], day: date) -> tuple[Segment, Place]:
    """A day's terms, and where the period's purchases (by day) have brought the meter in them.

    Purchases of a later day of the period count with it: they were priced before.
    """
    begun = [segment for segment in segments if segment.start <= day] or list(segments[:1])
    *_, place = places(begun, split_days(begun, bought_ml))
    return begun[-1], place


def _end_of_sale(table: PriceTable) -> int:
    if table.blocks[-1].price_minor_per_kl:
        return MAX_VOLUME_ML
    return next((block.up_to_ml for block in reversed(table.blocks[:-1]) if block.up_to_ml is not None), 0)
