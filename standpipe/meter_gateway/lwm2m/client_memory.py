"""Memory of a meter's client for as long as its registration lasts. Pure.

A client that registers anew, as it does after new firmware, is asked everything again. What is forgotten costs an
exchange; it is never wrong.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from standpipe.meter_gateway.lwm2m.water import Observations
from standpipe.meters.reports import ConditionKind, MeasureKind

TELL_AGAIN = timedelta(hours=20)
"""Time after which unchanged values are written down again at the next contact, so that they are seen to be fresh."""


@dataclass(slots=True)
class ClientMemory:
    """Findings about a client: what it understands, so that it is not asked again (M23), and what it told last.

    ``tlv_first``: it knows no SenML, or came before it. ``refused``: paths that it said for good not to have.
    """

    location: str
    tlv_first: bool = False
    refused: set[str] = field(default_factory=set)
    is_observable: bool = True
    _told_at: datetime | None = None
    _conditions: dict[ConditionKind, bool] = field(default_factory=dict)
    _measures: dict[MeasureKind, int] = field(default_factory=dict)
    _battery_percent: int | None = None

    def new_in(self, found: Observations, now: datetime) -> Observations:
        """Observations without what the meter told last time too; remembers them."""
        if self._told_at is None or now - self._told_at > TELL_AGAIN or now < self._told_at:
            self.forget_told()
            self._told_at = now
        raised: dict[ConditionKind, bool] = {}
        for one in found.conditions:
            # Two sources of one kind (a leak by two objects): raised where any of them is.
            raised[one.kind] = raised.get(one.kind, False) or one.is_raised
        news = {kind for kind, is_raised in raised.items() if self._conditions.get(kind) is not is_raised}
        conditions = tuple(one for one in found.conditions if one.kind in news)
        measures = tuple(one for one in found.measures if self._measures.get(one.kind) != one.value)
        battery = None if found.battery_percent == self._battery_percent else found.battery_percent
        self._conditions |= raised
        self._measures |= {one.kind: one.value for one in measures}
        self._battery_percent = self._battery_percent if battery is None else battery
        return replace(found, conditions=conditions, measures=measures, battery_percent=battery)

    def forget_told(self) -> None:
        """Forget what was told: it may not have been written down, or something newer was."""
        self._told_at, self._battery_percent = None, None
        self._conditions, self._measures = {}, {}
