"""A billing period's use, and what it costs. Pure."""

from dataclasses import dataclass

from standpipe.tariffs.periods import Priced, Segment, price_use
from standpipe.tariffs.terms import Basis


@dataclass(frozen=True, slots=True)
class PeriodUse:
    """A period's segments and the volume of each, in millilitres."""

    segments: tuple[Segment, ...]
    volumes_ml: tuple[int, ...]

    @property
    def volume_ml(self) -> int:
        """The whole period's volume."""
        return sum(self.volumes_ml)


def priced_use(use: PeriodUse) -> Priced:
    """Price a period's use by the tariff's own basis."""
    if use.segments[0].version.basis == Basis.PURCHASE:
        # Paid for when it was bought: water that runs from such a meter costs no more.
        return Priced(0, (), {})
    return price_use(use.segments, use.volumes_ml)
