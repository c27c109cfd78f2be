"""What each meter is told to do when its credit ends, and the queue that tells it in time.

The policy is that of the meter's supply terms of today, else of its tariff's customer class, else of its utility.
Around friendly hours, and while a release holds, the meter is told NEVER instead. What it is to be told is worked out
anew at each contact, when the meter's own word on its valve is fresh, and by a queue when the answer may change; an
order that is still waiting then gives way to the new one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Utility
from standpipe.meters.commands import enqueue
from standpipe.meters.delivery_state import OPEN
from standpipe.meters.models import CommandKind, CommandStatus, Meter, MeterCommand, MeterState
from standpipe.meters.reports import ValveReason, ValveState
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.notify import WORK, notify
from standpipe.platform.units import local_midnight
from standpipe.tariffs.models import CustomerClass, SupplyTerms, Tariff
from standpipe.usage.cut_off_rules import ON_THE_WIRE, CutOff, cut_off_of, friendly_of, spared, told_at_zero
from standpipe.usage.rests import Rests

QUEUE = "cut_offs"
LOOK_AGAIN = timedelta(days=1)
_SHUT = (ValveState.CLOSED, ValveState.RESTRICTED)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What a meter is to do at zero. ``policy`` is what ``source`` rules; ``until``: when that may change by itself."""

    at_zero: CutOff
    policy: CutOff
    source: str
    spared: bool
    released: bool
    until: datetime | None


@dataclass(frozen=True, slots=True)
class _Rules:
    utility: Utility
    policy: CutOff
    source: str
    change_at: datetime | None


async def order_of(session: AsyncSession, meter: Meter, now: datetime) -> Order:
    """What a meter is to do at zero, as things stand. Raises InvalidInputError where the stored rules are none."""
    zone = ZoneInfo(meter.time_zone)
    rules = await _rules(session, meter, now, zone)
    utility = rules.utility
    released = utility.released_reason is not None and (utility.released_until is None or utility.released_until > now)
    friendly = friendly_of(utility.friendly)
    hours = None if friendly is None else spared(friendly, now, zone)
    changes = [rules.change_at, utility.released_until if released else None, hours.until if hours else None]
    if hours is not None and hours.until is None:
        changes.append(now + LOOK_AGAIN)
    is_spared = hours is not None and hours.now
    return Order(
        at_zero=told_at_zero(
            rules.policy, is_spared=is_spared, is_released=released, is_shut=await _is_shut(session, meter)
        ),
        policy=rules.policy,
        source=rules.source,
        spared=is_spared,
        released=released,
        until=min((at for at in changes if at is not None), default=None),
    )


async def refresh(session: AsyncSession, meter: Meter, now: datetime) -> None:
    """Tell a locked meter what to do at zero where it was told otherwise, and note when to look again."""
    if meter.closed_at is not None:
        meter.cut_off_due_at = None
        return
    try:
        order = await order_of(session, meter, now)
    except InvalidInputError as error:
        # Rules that nobody can read cut nobody off and spare nobody: what was told last stands.
        _log.error("cut-off rules are not readable", meter_id=meter.id, reason=str(error))
        meter.cut_off_due_at = now + LOOK_AGAIN
        return
    meter.cut_off_due_at = order.until
    if (meter.at_zero or await _held(session, meter.id)) != order.at_zero:
        value = ON_THE_WIRE.index(order.at_zero)
        await enqueue(session, meter, kind=CommandKind.AT_ZERO, value=value, void_at=order.until)
    else:
        waiting = and_(MeterCommand.kind == CommandKind.AT_ZERO, MeterCommand.status.in_(OPEN))
        await session.execute(
            update(MeterCommand).where(MeterCommand.meter_id == meter.id, waiting).values(void_at=order.until)
        )
    meter.at_zero = order.at_zero


async def look_again(session: AsyncSession, utility_id: str, now: datetime) -> None:
    """What all meters of a utility go by has changed: the queue looks at each of them now."""
    await session.execute(
        update(Meter)
        .where(Meter.utility_id == utility_id, Meter.closed_at.is_(None))
        .values(cut_off_due_at=now)
        .execution_options(synchronize_session=False)
    )
    await notify(session, WORK, QUEUE)


async def work_cut_offs(sessions: Sessions, clock: Clock, rests: Rests, *, limit: int = 200) -> int:
    """Look at the meters that are due, each in a transaction of its own; returns how many were seen to."""
    now = clock.now()
    due = select(Meter.id).where(Meter.cut_off_due_at <= now, Meter.id.not_in(rests.resting()))
    async with sessions() as session:
        meter_ids = (await session.scalars(due.order_by(Meter.cut_off_due_at, Meter.id).limit(limit))).all()

    async def look(meter_id: str) -> None:
        async with sessions.begin() as session:
            # Another worker may be at it, or have been.
            meter = await session.scalar(
                select(Meter)
                .where(Meter.id == meter_id, Meter.cut_off_due_at <= now)
                .with_for_update(key_share=True, skip_locked=True)
            )
            if meter is not None:
                await refresh(session, meter, now)

    return await rests.each(meter_ids, look)


async def _rules(session: AsyncSession, meter: Meter, now: datetime, zone: ZoneInfo) -> _Rules:
    today = now.astimezone(zone).date()
    rows = (
        await session.execute(
            select(SupplyTerms.from_day, SupplyTerms.tariff_id, SupplyTerms.cut_off)
            .where(SupplyTerms.meter_id == meter.id)
            .order_by(SupplyTerms.from_day)
        )
    ).all()
    begun = [row for row in rows if row.from_day <= today]
    coming = next((row.from_day for row in rows if row.from_day > today), None)
    utility, code, of_class = (
        await session.execute(
            select(Utility, Tariff.customer_class, CustomerClass.cut_off)
            .select_from(Utility)
            .join(Tariff, Tariff.id == (begun[-1].tariff_id if begun else meter.tariff_id))
            .outerjoin(
                CustomerClass,
                and_(CustomerClass.utility_id == Utility.id, CustomerClass.code == Tariff.customer_class),
            )
            .where(Utility.id == meter.utility_id)
            .execution_options(populate_existing=True)
        )
    ).one()
    ranks = [(begun[-1].cut_off if begun else None, "supply terms"), (of_class, f"class {code}")]
    text, source = next(((text, source) for text, source in ranks if text), (utility.cut_off, "utility"))
    change_at = None if coming is None else local_midnight(coming, zone)
    return _Rules(utility, cut_off_of(text), source, change_at)


async def _is_shut(session: AsyncSession, meter: Meter) -> bool:
    """Whether the meter's last word was that it has cut off for want of credit. One that never spoke has not."""
    state = await session.get(MeterState, meter.id)
    return state is not None and state.valve in _SHUT and state.valve_reason == ValveReason.NO_CREDIT


async def _held(session: AsyncSession, meter_id: str) -> CutOff | None:
    """What a meter certainly does at zero; it left the factory with DISCONNECT. None where nobody can know."""
    last = (
        await session.execute(
            select(MeterCommand.value, MeterCommand.status)
            .where(
                MeterCommand.meter_id == meter_id, MeterCommand.kind == CommandKind.AT_ZERO, MeterCommand.attempts > 0
            )
            .order_by(MeterCommand.sequence.desc())
            .limit(1)
        )
    ).one_or_none()
    if last is None:
        return CutOff.DISCONNECT
    return ON_THE_WIRE[last.value] if last.status == CommandStatus.CONFIRMED else None
