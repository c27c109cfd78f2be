"""A VOLUME meter's wallet buys water: after every credit, and backwards where unsent water is paid back.

All of it runs in the caller's transaction, under the meter's lock. The wallet keeps only what makes no whole unit.
"""

from datetime import date, datetime
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.charges import charge_lines
from standpipe.ledger.models import AccountKind
from standpipe.ledger.posting import AccountRef, post, wallet_balance_minor
from standpipe.meters.credit import free_to_retract_ml, grant_volume, retract_volume
from standpipe.meters.due import mark_due
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

PURCHASE = "PURCHASE"
_log = structlog.get_logger(__name__)


def purchase_key(posting_key: str) -> str:
    """The key of the purchase that follows from a posting."""
    return f"{posting_key}:bought"


async def fits_tariff(session: AsyncSession, meter: Meter, now: datetime) -> bool:
    """Whether a meter's tariff prices what its wallet holds: what is bought for volume, what is used for money."""
    segment, _ = await place_of_purchases(session, meter, _today(meter, now))
    return (segment.version.basis == Basis.PURCHASE) is (meter.wallet_kind == WalletKind.VOLUME)


async def buy_with_wallet(
    session: AsyncSession,
    meter: Meter,
    *,
    source_id: str,
    posting_key: str,
    now: datetime,
    quoted_on: date | None = None,
) -> None:
    """Spend a locked VOLUME meter's wallet on whole units, and grant them. Nothing happens for a MONEY meter.

    ``posting_key`` is the posting that put money into the wallet; a second call for it changes nothing. Where the
    tariff cannot price it the money stays in the wallet, and a person must look: it was paid, so it is never refused.
    ``quoted_on``: the meter's day whose prices and blocks were promised; otherwise it is today.
    """
    key = purchase_key(posting_key)
    if meter.wallet_kind != WalletKind.VOLUME or await purchase_by_key(session, key) is not None:
        return
    day = quoted_on or _today(meter, now)
    try:
        segment, place = await place_of_purchases(session, meter, day)
    except NotFoundError as error:
        _log.error("a purchase has no prices", meter_id=meter.id, error=str(error))
        return
    if segment.version.basis != Basis.PURCHASE:
        _log.error("this tariff does not price purchases", meter_id=meter.id, tariff_id=segment.version.tariff_id)
        return
    bought = buy(segment, place, await wallet_balance_minor(session, meter.id, meter.currency))
    if not bought.volume_ml:
        return
    lines = charge_lines(_wallet(meter), meter.utility_id, {}, bought.priced.accounts, own_code=UTILITY)
    if lines:
        await post(session, key=key, kind=PURCHASE, lines=lines, occurred_at=now)
    await add_purchase(
        session,
        key=key,
        meter_id=meter.id,
        source_id=source_id,
        day=day,
        version_id=segment.version.version_id,
        volume_ml=bought.volume_ml,
        priced=bought.priced,
        now=now,
    )
    await mark_due(await session.connection(), [meter.id])
    await grant_volume(session, meter, credit_key=key, source_id=source_id, volume_ml=bought.volume_ml, now=now)


async def unsent_minor(session: AsyncSession, meter: Meter, source_id: str) -> int:
    """What a locked meter's source paid for water that certainly never reached the meter."""
    return sum(purchase.amount_minor for purchase in await _unsent(session, meter, source_id))


async def unbuy(session: AsyncSession, meter: Meter, *, source_id: str, amount_minor: int, now: datetime) -> bool:
    """Reverse a source's newest unsent purchases until the wallet holds ``amount_minor``; whether any was reversed.

    Raises InvalidInputError where that is not to be had: the meter may hold the water.
    """
    missing_minor = amount_minor - await wallet_balance_minor(session, meter.id, meter.currency)
    if missing_minor <= 0:
        return False
    unsent = await _unsent(session, meter, source_id)
    if sum(purchase.amount_minor for purchase in unsent) < missing_minor:
        raise InvalidInputError("The meter may hold this water already.")
    for purchase in unsent:
        if missing_minor <= 0:
            break
        await _reverse(session, meter, purchase, now)
        missing_minor -= purchase.amount_minor
    return True


async def _unsent(session: AsyncSession, meter: Meter, source_id: str) -> list[VolumePurchase]:
    """A source's purchases whose whole water never left us, newest first."""
    free_ml, found = await free_to_retract_ml(session, meter, source_id), []
    for purchase in reversed(await standing_purchases(session, source_id)):
        if purchase.volume_ml > free_ml:
            break
        free_ml -= purchase.volume_ml
        found.append(purchase)
    return found


async def _reverse(session: AsyncSession, meter: Meter, purchase: VolumePurchase, now: datetime) -> None:
    key = f"{purchase.key}:reversed"
    lines = charge_lines(_wallet(meter), meter.utility_id, purchase.accounts, {}, own_code=UTILITY)
    if lines:
        await post(session, key=key, kind=PURCHASE, lines=lines, occurred_at=now, states_fact=True)
    await add_purchase(
        session,
        key=key,
        meter_id=meter.id,
        source_id=purchase.source_id,
        day=purchase.day,
        version_id=purchase.tariff_version_id,
        volume_ml=-purchase.volume_ml,
        priced=reversed_price(purchase),
        now=now,
        reverses_key=purchase.key,
    )
    await mark_due(await session.connection(), [meter.id])
    await retract_volume(session, meter, source_id=purchase.source_id, volume_ml=purchase.volume_ml)


async def place_of_purchases(session: AsyncSession, meter: Meter, day: date) -> tuple[Segment, Place]:
    """A day's terms and the place of its period's purchases in them. Raises NotFoundError."""
    contract = await contract_of(session, meter.id, meter.tariff_id, _today(meter, meter.installed_at))
    return place_after(contract.segments(day), await bought_in_period(session, meter.id, day), day)


def _today(meter: Meter, now: datetime) -> date:
    return now.astimezone(ZoneInfo(meter.time_zone)).date()


def _wallet(meter: Meter) -> AccountRef:
    return AccountRef(AccountKind.WALLET, meter.id, meter.currency)
