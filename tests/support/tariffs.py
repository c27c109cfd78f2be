"""Tariffs for tests, made without a database."""

from datetime import date

from standpipe.tariffs.periods import Segment, Supply, TariffInForce, segments_of
from standpipe.tariffs.pricing import PriceTable
from standpipe.tariffs.terms import Terms, plain_terms


def version(terms: Terms, since: date = date(2020, 1, 1), name: str = "v") -> TariffInForce:
    """A version of the tariff ``trf``."""
    return TariffInForce("trf", f"{name}-{since}", "Tariff", "KES", since, terms)


def segments(terms: Terms, month: date, **supply: object) -> tuple[Segment, ...]:
    """A month under one version for one meter."""
    return segments_of(month, [Supply(date(2020, 1, 1), "trf", **supply)], {"trf": [version(terms)]})  # type: ignore[arg-type]


def plain_segment(table: PriceTable, month: date) -> Segment:
    """A month under blocks and nothing else."""
    return segments(plain_terms(table), month)[0]
