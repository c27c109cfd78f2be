"""Orders by a quote for a VOLUME meter: what the quote said must still be to be had when the order is made."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.posting import wallet_balance_minor
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import WalletKind
from standpipe.payments.models import Payment, TopUp
from standpipe.payments.purchases import OrderedMeter, place_of_purchases
from standpipe.payments.quoted import LEFT_MINOR, UNDER_WAY_FOR, USED_ML, day_of
from standpipe.payments.rails.port import PaymentStatus
from standpipe.payments.views import GUEST
from standpipe.platform.errors import QuoteOutdatedError
from standpipe.platform.language import phrase


async def require_quote_lock(
    session: AsyncSession, ordered: OrderedMeter, agreed: Mapping[str, int], now: datetime, *, top_up_id: str
) -> None:
    """Lock a VOLUME meter and see that an order by a quote, stored as ``top_up_id``, can give what the quote said.

    Raises QuoteOutdatedError where another order is under way, which would buy at the same place in the blocks, or
    where something was bought since the quote was given.
    """
    day = day_of(agreed)
    if ordered.wallet_kind != WalletKind.VOLUME or day is None:
        return
    meter = await lock_meter(session, ordered.id)
    if await _order_under_way(session, meter.id, now, top_up_id):
        raise QuoteOutdatedError(
            phrase("Another payment for this meter is under way. Finish or cancel it first, or pay without a quote.")
        )
    _, place = await place_of_purchases(session, meter, day)
    left_minor = await wallet_balance_minor(session, meter.id, meter.currency)
    if (place.used_ml, left_minor) != (agreed[USED_ML], agreed[LEFT_MINOR]):
        raise QuoteOutdatedError(phrase("The price has changed since you looked. Please check the new one."))


async def _order_under_way(session: AsyncSession, meter_id: str, now: datetime, besides: str) -> bool:
    found = await session.scalar(
        select(TopUp.id)
        .join(Payment, Payment.top_up_id == TopUp.id)
        .where(
            TopUp.meter_id == meter_id,
            TopUp.id != besides,
            Payment.status.in_(["CREATED", PaymentStatus.PENDING]),
            TopUp.created_at > now - UNDER_WAY_FOR,
            # A stranger's order must not keep the household from ordering: like paybill money, it comes unannounced.
            TopUp.origin != GUEST,
        )
        .limit(1)
    )
    return found is not None
