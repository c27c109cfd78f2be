"""Where a VOLUME meter stands in its blocks, for whoever quotes or orders. What its wallet buys: ``volume``."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.charges import charge_lines
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, post, wallet_balance_minor
from standpipe.meters.credit import free_to_retract_ml, grant_volume, retract_volume
from standpipe.meters.models import Meter, WalletKind
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.tariffs.bought import (
    add_purchase,
    bought_in_period,
    purchase_by_key,
    reversed_price,
    standing_purchases,
)
from standpipe.tariffs.catalogue import contract_of
from standpipe.tariffs.models import VolumePurchase
from standpipe.tariffs.periods import UTILITY, Segment
from standpipe.tariffs.pricing import Place
from standpipe.tariffs.purchases import buy, place_after
from standpipe.tariffs.terms import Basis

async def fits_tariff(session: AsyncSession, meter: Meter, now: datetime) -> bool:
    """Whether a meter's tariff prices what its wallet holds: what is bought for volume, what is used for money."""
    segment, _ = await place_of_purchases(session, meter, _today(meter, now))
    return (segment.version.basis == Basis.PURCHASE) is (meter.wallet_kind == WalletKind.VOLUME)


async def place_of_purchases(session: AsyncSession, meter: Meter, day: date) -> tuple[Segment, Place]:
    """A day's terms and the place of its period's purchases in them. Raises NotFoundError."""
    contract = await contract_of(session, meter.id, meter.tariff_id, _today(meter, meter.installed_at))
    return place_after(contract.segments(day), await bought_in_period(session, meter.id, day), day)


def _today(meter: Meter, now: datetime) -> date:
    return now.astimezone(ZoneInfo(meter.time_zone)).date()
