"""The position of a VOLUME meter in its blocks, for quotes and orders. What its wallet buys: ``volume``."""

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.wallets import wallet_of
from standpipe.meters.models import Meter, WalletKind
from standpipe.tariffs.bought import bought_in_period
from standpipe.tariffs.catalogue import contract_of
from standpipe.tariffs.periods import Segment
from standpipe.tariffs.pricing import Place
from standpipe.tariffs.purchases import place_after


@dataclass(frozen=True, slots=True)
class OrderedMeter:
    """State of a meter that an order needs."""

    id: str
    tariff_id: str
    installed_at: datetime
    time_zone: str
    wallet_kind: WalletKind
    currency: str
    closed_at: datetime | None


async def fits_tariff(session: AsyncSession, meter: Meter | OrderedMeter, now: datetime) -> bool:
    """Tell whether a meter's tariff prices what its wallet holds: what is bought for volume, what is used for money."""
    contract = await contract_of(session, meter.id, meter.tariff_id, _today(meter, meter.installed_at))
    segment = contract.segment_on(_today(meter, now))
    return segment.version.basis == wallet_of(meter.wallet_kind).basis


async def place_of_purchases(session: AsyncSession, meter: Meter, day: date) -> tuple[Segment, Place]:
    """A day's terms and the place of its period's purchases in them. Raises NotFoundError."""
    contract = await contract_of(session, meter.id, meter.tariff_id, _today(meter, meter.installed_at))
    return place_after(contract.segments(day), await bought_in_period(session, meter.id, day), day)


def _today(meter: Meter | OrderedMeter, now: datetime) -> date:
    return now.astimezone(ZoneInfo(meter.time_zone)).date()
