"""What a quote promises where a meter holds volume: litres, which hang on what else is bought in the period.

The promise is kept by the place it was given for: the day, what was bought before it, what the wallet had left.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter, WalletKind
from standpipe.payments.models import TopUp
from standpipe.payments.purchases import place_of_purchases
from standpipe.payments.rails.port import PaymentStatus
from standpipe.payments.views import GUEST
from standpipe.platform.errors import QuoteOutdatedError
from standpipe.tariffs.pricing import Place

DAY, USED_ML, LEFT_MINOR = "DAY", "USED_ML", "LEFT_MINOR"
UNDER_WAY_FOR = timedelta(hours=1)
"""An order that nobody has paid for this long stands in no other one's way."""
QUOTED_FOR = timedelta(days=7)
"""An order that is paid later than this buys as if it had been made that day."""


def place_quoted(place: Place, *, left_minor: int, today: date) -> dict[str, int]:
    """Where a quote for a VOLUME meter was given, as it is kept with the order."""
    return {DAY: today.toordinal(), USED_ML: place.used_ml, LEFT_MINOR: left_minor}


def day_quoted(top_up: TopUp, now: datetime) -> date | None:
    """The day whose prices and blocks an order by a quote buys at; None: today's."""
    if top_up.agreed is None or now > top_up.created_at + QUOTED_FOR:
        return None
    return _day(top_up.agreed)


def _day(agreed: Mapping[str, int]) -> date | None:
    return date.fromordinal(agreed[DAY]) if DAY in agreed else None


async def require_quote_lock(session: AsyncSession, meter: Meter, agreed: Mapping[str, int], now: datetime) -> None:
    """Lock a VOLUME meter and see that an order by a quote can give what the quote said.

    Raises QuoteOutdatedError where another order is under way, which would buy at the same place in the blocks, or
    where something was bought since the quote was given.
    """
    day = _day(agreed)
    if meter.wallet_kind != WalletKind.VOLUME or day is None:
        return
    meter = await lock_meter(session, meter.id)
    if await _order_under_way(session, meter.id, now):
        raise QuoteOutdatedError(
            "Another payment for this meter is under way. Finish or cancel it first, or pay without a quote."
        )
    _, place = await place_of_purchases(session, meter, day)
    left_minor = await wallet_balance_minor(session, meter.id, meter.currency)
    if (place.used_ml, left_minor) != (agreed[USED_ML], agreed[LEFT_MINOR]):
        raise QuoteOutdatedError("The price has changed since you looked. Please check the new one.")


async def _order_under_way(session: AsyncSession, meter_id: str, now: datetime) -> bool:
    found = await session.scalar(
        select(TopUp.id)
        .where(
            TopUp.meter_id == meter_id,
            TopUp.status.in_(["CREATED", PaymentStatus.PENDING]),
            TopUp.created_at > now - UNDER_WAY_FOR,
            # A stranger's order must not keep the household from ordering: like paybill money, it comes unannounced.
            TopUp.origin != GUEST,
        )
        .limit(1)
    )
    return found is not None
