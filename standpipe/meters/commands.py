"""Commands to meters: numbered rows that wait until the meter wakes.

QUEUED → SENT → ACKNOWLEDGED → CONFIRMED, or REJECTED, EXPIRED, SUPERSEDED, UNKNOWN. A radio acknowledgement is not
delivery: only the meter's statement (``standpipe.meters.statements``) confirms. A command whose answer was lost is
UNKNOWN; each contact begins by reading the meter's statement, and only when that says "not taken" is the *same*
sequence sent again, so that the meter can never take it twice.

Every function here runs under the meter's row lock, which it takes first (lock order: ledger/posting.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine import queue
from standpipe.engine.queue import Backlog
from standpipe.meters.measures import measure_of
from standpipe.meters.models import (
    VOLUME_UNIT,
    CommandKind,
    CommandStatus,
    CreditGrant,
    Meter,
    MeterCommand,
    MeterState,
    WalletKind,
)
from standpipe.meters.tids import tid_mark
from standpipe.platform.errors import NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.notify import COMMANDS, LIVE, notify

BY_EFFECT = frozenset({CommandKind.READ_NOW, CommandKind.CLOCK, CommandKind.TARIFF, CommandKind.DIAGNOSTICS})
"""Confirmed by what the meter shows (``standpipe.meters.effects``). They wait behind credit and valve: a meter that
does not answer to one of them must not be kept from its water.
"""
OPEN = (CommandStatus.QUEUED, CommandStatus.SENT, CommandStatus.ACKNOWLEDGED, CommandStatus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class OutgoingCommand:
    """A command ready for the air; ``value`` is the credit total, the valve position, the threshold or the time.

    ``currency`` is ISO 4217, or VOLUME_UNIT for a VOLUME meter, whose totals and thresholds are in millilitres.
    ``tid_mark``, of a credit to a meter with a keypad: tokens with a TID up to it are in the total.
    """

    id: str
    meter_id: str
    sequence: int
    kind: CommandKind
    value: int
    currency: str
    tid_mark: int | None = None
    body: dict[str, Any] | None = None
    traceparent: str | None = None
    attempt: int = 1


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


async def next_to_send(session: AsyncSession, meter_id: str, now: datetime) -> OutgoingCommand | None:
    """The next QUEUED command, marked SENT; None where nothing waits. SENT and UNKNOWN ones wait for a statement.

    The oldest goes first, and those of BY_EFFECT after all others.

    Commands past their deadline expire here: an old order to close a valve must not be carried out days later.
    ``now`` is the town's clock, for the customer's timeline.
    """
    meter = await lock_meter(session, meter_id)
    await _expire(session, meter, now)
    command = await session.scalar(
        select(MeterCommand)
        .where(MeterCommand.meter_id == meter_id, MeterCommand.status == CommandStatus.QUEUED)
        .order_by(MeterCommand.kind.in_(BY_EFFECT), MeterCommand.sequence)
        .limit(1)
        .execution_options(populate_existing=True)
    )
    if command is None:
        return None
    if command.kind in BY_EFFECT:
        await _renumber(session, meter, command)
    command.status = CommandStatus.SENT
    command.attempts += 1
    command.sent_at = now
    stated = await session.scalar(select(MeterState.report_counter).where(MeterState.meter_id == meter_id))
    command.after_report = stated or 0
    if command.kind == CommandKind.CLOCK:
        # The time of the sending: what was true when it was queued is wrong by as long as the meter slept.
        command.value = int(now.timestamp())
    if command.kind == CommandKind.CREDIT:
        measure = measure_of(meter)
        await session.execute(
            update(CreditGrant)
            .where(
                CreditGrant.meter_id == meter_id,
                measure.amount > 0,
                measure.total_after <= command.value,
                CreditGrant.sent_at.is_(None),
                # What was typed is there already.
                CreditGrant.confirmed_at.is_(None),
            )
            .values(sent_at=now)
        )
        await notify(session, LIVE, meter_id)
    unit = unit_of(meter)
    return OutgoingCommand(
        *(command.id, meter_id, command.sequence, CommandKind(command.kind), command.value, unit),
        tid_mark=command.tid_mark,
        body=command.body,
        traceparent=command.traceparent,
        attempt=command.attempts,
    )


async def _renumber(session: AsyncSession, meter: Meter, command: MeterCommand) -> None:
    """A higher number than the command's went out before it: the meter would refuse it as stale."""
    overtaken = await session.scalar(
        select(MeterCommand.id)
        .where(MeterCommand.meter_id == meter.id, MeterCommand.sequence > command.sequence, MeterCommand.attempts > 0)
        .limit(1)
    )
    if overtaken is None:
        return
    meter.last_sequence += 1
    command.sequence = meter.last_sequence
    # What the meter has of a table belongs to the old number.
    command.body = None if command.body is None else {name: it for name, it in command.body.items() if name != "parts"}
    await session.flush()


def unit_of(meter: Meter) -> str:
    """What a meter's totals count in, as frames name it: its currency, or VOLUME_UNIT."""
    return VOLUME_UNIT if meter.wallet_kind == WalletKind.VOLUME else meter.currency


async def mark_acknowledged(session: AsyncSession, command_id: str) -> None:
    """The radio took it. That proves nothing yet."""
    await _mark(session, command_id, (CommandStatus.SENT,), CommandStatus.ACKNOWLEDGED, None)


async def mark_unknown(session: AsyncSession, command_id: str, reason: str) -> None:
    """No answer came: it may or may not have been taken."""
    await _mark(session, command_id, (CommandStatus.SENT, CommandStatus.ACKNOWLEDGED), CommandStatus.UNKNOWN, reason)


async def mark_rejected(session: AsyncSession, command_id: str, reason: str) -> None:
    """The meter refused it for good; it waits for a person, and the credit stays on its way in the customer's view."""
    await _mark(session, command_id, OPEN, CommandStatus.REJECTED, reason)


async def open_commands(session: AsyncSession, meter_id: str) -> Sequence[MeterCommand]:
    """What waits for a meter, in the order in which it goes out."""
    rows = await session.scalars(
        select(MeterCommand)
        .where(MeterCommand.meter_id == meter_id, MeterCommand.status.in_(OPEN))
        .order_by(MeterCommand.sequence)
        .execution_options(populate_existing=True)
    )
    return rows.all()


async def in_flight(session: AsyncSession, meter_id: str, kind: CommandKind) -> MeterCommand | None:
    """The newest command of a kind that went out and whose end is not known."""
    found: MeterCommand | None = await session.scalar(
        select(MeterCommand)
        .where(
            MeterCommand.meter_id == meter_id,
            MeterCommand.kind == kind,
            MeterCommand.status.in_(OPEN),
            MeterCommand.attempts > 0,
        )
        .order_by(MeterCommand.sequence.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )
    return found


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


async def _mark(
    session: AsyncSession,
    command_id: str,
    before: tuple[CommandStatus, ...],
    status: CommandStatus,
    reason: str | None,
) -> None:
    # The condition on the present status keeps a late answer of an old exchange from touching a settled command (M6).
    stamps = {"acknowledged_at": func.now()} if status is CommandStatus.ACKNOWLEDGED else {}
    await session.execute(
        update(MeterCommand)
        .where(MeterCommand.id == command_id, MeterCommand.status.in_(before))
        .values(status=status, reason=reason, **stamps)
    )


async def _expire(session: AsyncSession, meter: Meter, now: datetime) -> None:
    expired = await session.scalars(
        update(MeterCommand)
        .where(
            MeterCommand.meter_id == meter.id,
            MeterCommand.status == CommandStatus.QUEUED,
            or_(MeterCommand.deadline_at < func.now(), MeterCommand.void_at <= now),
        )
        .values(status=CommandStatus.EXPIRED)
        .returning(MeterCommand.kind)
    )
    if CommandKind.AT_ZERO in expired.all():
        meter.at_zero = None
