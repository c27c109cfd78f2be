"""A VOLUME meter's wallet buys water: after every credit, and backwards where unsent water is paid back. Pure.

The wallet keeps only what makes no whole unit. Prices and blocks are those of the meter's own day, or of the day at
which an order by a quote locked them.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime

import structlog

from standpipe.ledger.charges import charge_lines
from standpipe.ledger.posting import Line, Posting
from standpipe.meters.credit import granted, retracted
from standpipe.payments.state import MeterMoney, Purchase
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.language import phrase
from standpipe.platform.units import period_of
from standpipe.tariffs.periods import UTILITY, BillLine, Priced, Segment
from standpipe.tariffs.pricing import Place
from standpipe.tariffs.purchases import buy, place_after
from standpipe.tariffs.terms import Basis

PURCHASE = "PURCHASE"
_log = structlog.get_logger(__name__)


def purchase_key(posting_key: str) -> str:
    """The key of the purchase that follows from a posting."""
    return f"{posting_key}:bought"


def buy_with_wallet(
    meter: MeterMoney, *, source_id: str, posting_key: str, now: datetime, quoted_on: date | None = None
) -> tuple[MeterMoney, tuple[Posting, ...]]:
    """Spend a VOLUME meter's wallet on whole units; the meter afterwards, and what is to be posted.

    Nothing happens for a MONEY meter, nor twice for one ``posting_key``. Where the tariff cannot price it the money
    stays in the wallet, and a person must look: it was paid, so it is never refused. ``quoted_on``: the meter's day
    whose prices and blocks were locked; otherwise it is today.
    """
    book, key = meter.volume, purchase_key(posting_key)
    if book is None or any(one.key == key for one in book.purchases):
        return meter, ()
    day = quoted_on or meter.today(now)
    try:
        segment, place = place_of(meter, day)
    except NotFoundError as error:
        _log.error("a purchase has no prices", meter_id=meter.id, error=str(error))
        return meter, ()
    if segment.version.basis != Basis.PURCHASE:
        _log.error("this tariff does not price purchases", meter_id=meter.id, tariff_id=segment.version.tariff_id)
        return meter, ()
    bought = buy(segment, place, meter.wallet_minor)
    if not bought.volume_ml:
        return meter, ()
    lines = charge_lines(meter.wallet, meter.utility_id, {}, bought.priced.accounts, own_code=UTILITY)
    credit = granted(meter.credit, credit_key=key, source_id=source_id, amount=bought.volume_ml, now=now)
    meter = replace(meter, credit=replace(credit, bought_water=True))
    meter = _with_purchase(
        meter,
        key=key,
        source_id=source_id,
        day=day,
        version_id=segment.version.version_id,
        volume_ml=bought.volume_ml,
        priced=bought.priced,
        now=now,
    )
    return _posted(meter, key, lines, now)


def place_of(meter: MeterMoney, day: date) -> tuple[Segment, Place]:
    """A day's terms, and where the period's purchases stand in them. Raises NotFoundError."""
    if meter.volume is None:
        raise NotFoundError("This meter does not buy volume.")
    start, end = period_of(day)
    bought = {on: volume_ml for on, (volume_ml, _) in meter.volume.sums.items() if start <= on < end}
    return place_after(meter.volume.contract.segments(day), bought, day)


def unsent_minor(meter: MeterMoney, source_id: str) -> int:
    """Return the minor units that a source paid for water that certainly never reached the meter."""
    return sum(purchase.priced.total_minor for purchase in _unsent(meter, source_id))


def unbuy(
    meter: MeterMoney, *, source_id: str, amount_minor: int, now: datetime
) -> tuple[MeterMoney, tuple[Posting, ...]]:
    """Reverse a source's newest unsent purchases until the wallet holds ``amount_minor``.

    Raises InvalidInputError where that is not to be had: the meter may hold the water.
    """
    missing_minor = amount_minor - meter.wallet_minor
    posted: list[Posting] = []
    if missing_minor <= 0:
        return meter, ()
    unsent = _unsent(meter, source_id)
    if sum(purchase.priced.total_minor for purchase in unsent) < missing_minor:
        raise InvalidInputError(phrase("The meter may hold this water already."))
    for purchase in unsent:
        if missing_minor <= 0:
            break
        meter, postings = _reverse(meter, purchase, now)
        posted += postings
        missing_minor -= purchase.priced.total_minor
    return meter, tuple(posted)


def _unsent(meter: MeterMoney, source_id: str) -> list[Purchase]:
    """A source's purchases whose whole water never left us, newest first."""
    free_ml, found = meter.credit.free_to_retract(source_id), []
    for purchase in reversed(meter.volume.in_force(source_id) if meter.volume else []):
        if purchase.volume_ml > free_ml:
            break
        free_ml -= purchase.volume_ml
        found.append(purchase)
    return found


def _reverse(meter: MeterMoney, purchase: Purchase, now: datetime) -> tuple[MeterMoney, tuple[Posting, ...]]:
    key = f"{purchase.key}:reversed"
    lines = charge_lines(meter.wallet, meter.utility_id, purchase.priced.accounts, {}, own_code=UTILITY)
    credit = retracted(meter.credit, source_id=purchase.source_id, amount=purchase.volume_ml)
    meter = replace(meter, credit=replace(credit, bought_water=True))
    meter = _with_purchase(
        meter,
        key=key,
        source_id=purchase.source_id,
        day=purchase.day,
        version_id=purchase.version_id,
        volume_ml=-purchase.volume_ml,
        priced=_negative(purchase.priced),
        now=now,
        reverses_key=purchase.key,
    )
    return _posted(meter, key, lines, now, states_fact=True)


def _negative(priced: Priced) -> Priced:
    """Negate a purchase, so that exactly what it took is given back."""
    lines = tuple(
        BillLine(
            *(line.kind, line.code, line.name, line.since, line.until, line.tier, -line.quantity, line.rate),
            amount_minor=-line.amount_minor,
        )
        for line in priced.lines
    )
    return Priced(-priced.total_minor, lines, {code: -amount for code, amount in priced.accounts.items()})


def _with_purchase(
    meter: MeterMoney,
    *,
    key: str,
    source_id: str,
    day: date,
    version_id: str,
    volume_ml: int,
    priced: Priced,
    now: datetime,
    reverses_key: str | None = None,
) -> MeterMoney:
    if meter.volume is None:
        raise InvalidInputError(phrase("This meter does not buy volume."))
    start, end = period_of(day)
    period = [sums for on, sums in meter.volume.sums.items() if start <= on < end]
    purchase = Purchase(
        key=key,
        meter_id=meter.id,
        source_id=source_id,
        day=day,
        version_id=version_id,
        volume_ml=volume_ml,
        priced=priced,
        period_volume_ml=sum(of_day for of_day, _ in period) + volume_ml,
        period_charged_minor=sum(of_day for _, of_day in period) + priced.total_minor,
        bought_at=now,
        reverses_key=reverses_key,
    )
    return replace(meter, volume=meter.volume.with_purchase(purchase))


def _posted(
    meter: MeterMoney, key: str, lines: Sequence[Line], now: datetime, *, states_fact: bool = False
) -> tuple[MeterMoney, tuple[Posting, ...]]:
    if not lines:
        return meter, ()
    posting = Posting(key, PURCHASE, lines, now, states_fact=states_fact)
    return meter.after(posting), (posting,)
