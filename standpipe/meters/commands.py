"""Commands to meters: numbered rows that wait until the meter wakes.

QUEUED → SENT → ACKNOWLEDGED → CONFIRMED, or REJECTED, EXPIRED, SUPERSEDED, UNKNOWN. A radio acknowledgement is not
delivery: only the meter's status report confirms. A command whose answer was lost is UNKNOWN; each contact begins by
reading the status report, and only when that says "not taken" is the *same* sequence sent again, so that the meter can
never take it twice. The rules are in ``standpipe.meters.delivery_rules``; here commands are queued and looked at.

A meter's row lock is taken first (lock order: ledger/posting.py).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine import queue
from standpipe.engine.queue import Backlog
from standpipe.meters.delivery_state import OPEN
from standpipe.meters.models import (
    CommandKind,
    CommandStatus,
    Meter,
    MeterCommand,
)
from standpipe.meters.tids import tid_mark
from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.notify import COMMANDS, notify


async def lock_meter(session: AsyncSession, meter_id: str) -> Meter:
    """The meter's row, locked and fresh. Raises NotFoundError."""
    meter = await session.get(Meter, meter_id, with_for_update={"key_share": True}, populate_existing=True)
    if meter is None:
        raise NotFoundError("No such meter.")
    return meter


async def enqueue(
    session: AsyncSession,
    meter: Meter,
    *,
    kind: CommandKind,
    value: int,
    deadline_s: float | None = None,
    void_at: datetime | None = None,
    body: dict[str, Any] | None = None,
) -> str:
    """Queue a command for a locked meter and wake the gateway. Returns its id.

    From ``void_at`` on, by the town's clock, it would say what no longer holds, and is not sent any more.

    It supersedes every open command of its kind (a credit carries the total, a valve position the last word); credit
    also supersedes an open valve command, for a close must not follow the money that was to prevent it (M10).
    """
    replaced = (kind, CommandKind.VALVE) if kind is CommandKind.CREDIT else (kind,)
    await session.execute(
        update(MeterCommand)
        .where(MeterCommand.meter_id == meter.id, MeterCommand.kind.in_(replaced), MeterCommand.status.in_(OPEN))
        .values(status=CommandStatus.SUPERSEDED)
    )
    meter.last_sequence += 1
    command = MeterCommand(
        id=new_id("cmd"),
        meter_id=meter.id,
        sequence=meter.last_sequence,
        kind=kind,
        value=value,
        tid_mark=await tid_mark(session, meter) if kind is CommandKind.CREDIT else None,
        status=CommandStatus.QUEUED,
        deadline_at=None if deadline_s is None else func.now() + timedelta(seconds=deadline_s),
        void_at=void_at,
        body=body,
    )
    session.add(command)
    await session.flush()
    await notify(session, COMMANDS, meter.id)
    return command.id


async def backlog(session: AsyncSession) -> Backlog:
    """The commands of all meters whose end is not known."""
    return await queue.backlog(session, MeterCommand.created_at, MeterCommand.status.in_(OPEN))


async def history(session: AsyncSession, meter_id: str, *, limit: int = 50) -> Sequence[MeterCommand]:
    """A meter's commands, open and ended, newest first."""
    rows = await session.scalars(
        select(MeterCommand)
        .where(MeterCommand.meter_id == meter_id)
        .order_by(MeterCommand.sequence.desc())
        .limit(limit)
    )
    return rows.all()
