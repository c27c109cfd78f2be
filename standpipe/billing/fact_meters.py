"""Meters as reactions to a batch of facts need to know them, read once for all of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.overview import MeterView, meter_views


@dataclass(frozen=True, slots=True)
class Meters:
    """The meters of a batch of facts as they stand at ``now``. No reaction changes what is seen here."""

    now: datetime
    offline_after: timedelta
    views: Mapping[str, MeterView]
    looked_at: set[str] = field(default_factory=set)
    """Meters whose credit has been looked at: at one instant, a second look tells nothing new."""

    def get(self, meter_id: str) -> MeterView | None:
        """None for a meter without a household."""
        return self.views.get(meter_id)

    def is_fresh(self, view: MeterView) -> bool:
        """Tell whether a meter's last word is young enough to go by.

        Its word, not its last sign of life: one that only registers says nothing about its water.
        """
        return view.on_meter_as_of is not None and self.now - view.on_meter_as_of < self.offline_after


async def load_meters(
    session: AsyncSession, meter_ids: Collection[str], now: datetime, offline_after: timedelta
) -> Meters:
    """These meters; five statements, whatever their number."""
    views = await meter_views(session, sorted(set(meter_ids)), now, offline_after=offline_after) if meter_ids else {}
    return Meters(now, offline_after, views)
