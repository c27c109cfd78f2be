"""The price table that a MONEY meter deducts by, on its way to the meter: what its contract says, as one command."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.billing.charges import contract_for
from standpipe.billing.wallets import wallet_of
from standpipe.meters.commands import enqueue, lock_meter
from standpipe.meters.delivery_state import OPEN
from standpipe.meters.models import CommandKind, CommandStatus, Meter, MeterCommand, WalletKind
from standpipe.meters.price_tables import MeterTable
from standpipe.meters.reports import is_lacking
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.units import local_midnight
from standpipe.tariffs.models import SupplyTerms
from standpipe.tariffs.periods import Segment

MAX_AHEAD = timedelta(days=400)
_log = structlog.get_logger(__name__)


async def push_table(session: AsyncSession, meter: Meter, *, now: datetime, from_day: date | None = None) -> str:
    """Queue the table by which a locked meter is charged on a day; without one, today's, which holds at once.

    It takes the place of a table that waits. Returns the command's id. Raises InvalidInputError for a meter that holds
    volume, for a day that has begun or is too far, and for prices that no meter can hold; NotFoundError without prices.
    """
    if not wallet_of(meter.wallet_kind).deducts:
        raise InvalidInputError("This meter holds volume: it knows no prices.")
    if await _refused(session, meter.id):
        raise InvalidInputError("This meter cannot be told prices: it has nothing to hold them with.")
    zone = ZoneInfo(meter.time_zone)
    today = now.astimezone(zone).date()
    day = from_day or today
    if (from_day is not None and day <= today) or day > today + MAX_AHEAD:
        raise InvalidInputError(f"A table for later begins after {today}, and within {MAX_AHEAD.days} days.")
    segment = (await contract_for(session, meter)).segment_on(day)
    table = _table_of(segment, now if from_day is None else local_midnight(day, zone))
    return await enqueue(session, meter, kind=CommandKind.TARIFF, value=table.active_from_s, body=table.to_body())


async def push_terms(session: AsyncSession, meter: Meter, from_day: date, now: datetime) -> bool:
    """Terms of a MONEY meter change from a day on: send what it deducts by then, or at once where the day has begun.

    Returns whether a command was queued: prices that no meter can hold must not keep the terms from changing.
    """
    if not wallet_of(meter.wallet_kind).deducts or meter.closed_at is not None:
        return False
    locked = await lock_meter(session, meter.id)
    today = now.astimezone(ZoneInfo(locked.time_zone)).date()
    try:
        await push_table(session, locked, now=now, from_day=from_day if from_day > today else None)
    except (InvalidInputError, NotFoundError) as error:
        _log.warning("price table not pushed", meter_id=meter.id, reason=str(error))
        return False
    return True


async def push_to_all(sessions: Sessions, tariff_id: str, *, now: datetime, from_day: date | None) -> int:
    """Push the table, as ``push`` does, to every MONEY meter in service that this tariff charges; returns how many.

    Each in a transaction of its own: a town's meters are not locked at once, and who is interrupted may begin again.
    Meters that have or await this very table, or cannot hold its prices, are left out.
    """
    async with sessions() as session:
        meter_ids = await _meters_of(session, tariff_id)
    pushed = 0
    for meter_id in meter_ids:
        try:
            async with sessions.begin() as session:
                pushed += await _push_if_other(session, meter_id, tariff_id, now, from_day)
        except (InvalidInputError, NotFoundError) as error:
            _log.warning("price table not pushed", meter_id=meter_id, reason=str(error))
    return pushed


async def _push_if_other(
    session: AsyncSession, meter_id: str, tariff_id: str, now: datetime, from_day: date | None
) -> bool:
    meter = await lock_meter(session, meter_id)
    zone = ZoneInfo(meter.time_zone)
    today = now.astimezone(zone).date()
    segment = (await contract_for(session, meter)).segment_on(from_day or today)
    if segment.version.tariff_id != tariff_id or (from_day is not None and from_day <= today):
        return False
    if from_day is not None:
        known = await _newest_id(session, meter_id)
        if known == _table_of(segment, local_midnight(from_day, zone)).id:
            return False
    await push_table(session, meter, now=now, from_day=from_day)
    return True


async def _refused(session: AsyncSession, meter_id: str) -> bool:
    """Tell whether a meter has nothing to hold prices with: so it said when the last table went out to it (M22)."""
    last = (
        select(MeterCommand.status, MeterCommand.reason)
        .where(MeterCommand.meter_id == meter_id, MeterCommand.kind == CommandKind.TARIFF, MeterCommand.attempts > 0)
        .order_by(MeterCommand.sequence.desc())
        .limit(1)
    )
    found = (await session.execute(last)).one_or_none()
    return found is not None and found.status == CommandStatus.REJECTED and is_lacking(found.reason)


async def _newest_id(session: AsyncSession, meter_id: str) -> str | None:
    """The id of the table that a meter got or awaits last."""
    newest: MeterCommand | None = await session.scalar(
        select(MeterCommand)
        .where(
            MeterCommand.meter_id == meter_id,
            MeterCommand.kind == CommandKind.TARIFF,
            MeterCommand.status.in_((*OPEN, CommandStatus.CONFIRMED)),
        )
        .order_by(MeterCommand.sequence.desc())
        .limit(1)
    )
    return None if newest is None or newest.body is None else newest.body.get("id")


async def _meters_of(session: AsyncSession, tariff_id: str) -> Sequence[str]:
    by_terms = select(SupplyTerms.meter_id).where(SupplyTerms.tariff_id == tariff_id)
    rows = await session.scalars(
        select(Meter.id)
        .where(
            Meter.wallet_kind == WalletKind.MONEY,
            Meter.closed_at.is_(None),
            or_(Meter.tariff_id == tariff_id, Meter.id.in_(by_terms)),
        )
        .order_by(Meter.id)
    )
    return rows.all()


def _table_of(segment: Segment, starts_at: datetime) -> MeterTable:
    blocks = tuple((block.up_to_ml, block.price_minor_per_kl) for block in segment.table.blocks)
    return MeterTable(blocks, int(starts_at.timestamp()))
