"""A month's bill for a volume that nobody has used: what a tariff comes to, before anybody is charged by it. Pure."""

from collections.abc import Sequence
from datetime import date, timedelta

from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import period_of
from standpipe.tariffs.periods import Priced, Supply, TariffInForce, price_standing, price_use, segments_of
from standpipe.tariffs.pricing import MAX_VOLUME_ML

MAX_HOUSEHOLDS = 10_000


def sample_bill(
    versions: Sequence[TariffInForce],
    month: date,
    volume_ml: int,
    *,
    households: int = 1,
    groups: frozenset[str] = frozenset(),
) -> tuple[Priced, Priced]:
    """The use and the standing charges of a whole month under one tariff, as its versions follow each other.

    Where the terms change within the month the volume is spread evenly over its days. Raises InvalidInputError, and
    NotFoundError for a tariff without versions.
    """
    if not 1 <= households <= MAX_HOUSEHOLDS:
        raise InvalidInputError(f"Households: 1 to {MAX_HOUSEHOLDS}.", ("households",))
    if not 0 <= volume_ml <= MAX_VOLUME_ML:
        raise InvalidInputError("The volume must not be below zero, and within reason.", ("volume",))
    start, end = period_of(month)
    tariff_id = versions[0].tariff_id if versions else ""
    segments = segments_of(start, [Supply(start, tariff_id, households, groups)], {tariff_id: versions})
    edges = [(item.end - start).days * volume_ml // (end - start).days for item in segments]
    volumes_ml = [after - before for before, after in zip([0, *edges], edges, strict=False)]
    return price_use(segments, volumes_ml), price_standing(segments, end - timedelta(days=1))
