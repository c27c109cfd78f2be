"""Downlinks over LoRaWAN: one command at a time handed to the network server, and what became of it there.

The network's word moves a command no further than ACKNOWLEDGED, or to UNKNOWN; only the meter's statement
(``standpipe.meters.statements``) confirms it, or says that it was not taken, upon which the same number goes out again.
Our queue is the rows of ``meter_commands``; the network's holds at most the one item that we gave it, and is flushed
before each other one.

Every function here that changes a meter's rows takes its lock first (lock order: ledger/posting.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.queue import claim, finish, retry
from standpipe.meter_gateway.lorawan.tables import WITH_NETWORK, DeviceClass, DownlinkState, LoraDevice, LoraDownlink
from standpipe.meters import commands
from standpipe.meters.models import CommandKind, CommandStatus, Meter, MeterCommand
from standpipe.platform.ids import new_id

LOST_AFTER_UPLINKS = 3
"""A Class A item goes out after the next uplink: one that is still there after this many will not go any more."""
LEASE_S = 30.0
MAX_ATTEMPTS = 12
RETRY_CAP_S = 600.0
_IN_FLIGHT = (CommandStatus.SENT, CommandStatus.ACKNOWLEDGED, CommandStatus.UNKNOWN)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NetworkTask:
    """What is to be asked of the network server next; ``state`` says what.

    SENDING: flush the device's queue and enqueue this command. QUEUED: is the item still there? Else: flush alone.
    """

    downlink_id: str
    meter_id: str
    state: DownlinkState
    queue_item_id: str | None
    kind: CommandKind
    sequence: int
    value: int
    currency: str
    tid_mark: int | None
    expires_at: datetime | None
    body: dict[str, Any] | None = None
    traceparent: str | None = None


async def prepare(session: AsyncSession, meter_id: str, now: datetime, *, listens: bool) -> bool:
    """Put the meter's next command into a downlink, unless one is under way; returns whether the network has work.

    ``listens``: the meter listens now or after this uplink. An item that waits at the network and was superseded is
    replaced at once in any case. A command whose fate is open holds all others back: the meter's word on a later number
    would be taken for its word on the earlier one.
    """
    meter = await commands.lock_meter(session, meter_id)
    row = await _open_row(session, meter_id)
    if row is not None:
        carried = await _command_of(session, row)
        # What is being handed over at this moment is not overtaken: task_done comes back here.
        if carried.status in commands.OPEN or _is_being_sent(row):
            return False
        listens = listens or carried.status == CommandStatus.SUPERSEDED
        _over(row)
        # The database lets a meter have one open downlink: the old one ends before the new one comes.
        await session.flush()
    waiting = await commands.open_commands(session, meter_id)
    if not listens or any(command.status in _IN_FLIGHT for command in waiting):
        return row is not None
    command = await commands.next_to_send(session, meter.id, now)
    if command is None:
        return row is not None
    # Sending flushes the network's queue first: nothing else has to.
    await session.execute(
        update(LoraDownlink)
        .where(LoraDownlink.meter_id == meter_id, LoraDownlink.due_at.is_not(None))
        .values(due_at=None)
    )
    session.add(LoraDownlink(id=new_id("dwn"), meter_id=meter_id, command_id=command.id, state=DownlinkState.SENDING))
    return True


async def after_uplink(
    session: AsyncSession, meter_id: str, heard_at: datetime, *, stated: bool, complains: bool
) -> None:
    """What a fresh uplink of a locked meter says of its downlink; ``stated``: it brought a statement, now applied.

    ``complains``: the statement refuses the last command that the meter heard. Whether that was this one, only the
    acknowledgement beside the uplink can tell.
    """
    row = await _open_row(session, meter_id)
    if row is None:
        return
    command = await _command_of(session, row)
    if command.status not in commands.OPEN:
        if not _is_being_sent(row):
            _over(row)
        return
    if row.state != DownlinkState.SENDING:
        row.uplinks += 1
    spent = row.uplinks >= LOST_AFTER_UPLINKS
    if not stated:
        if spent and row.state != DownlinkState.ACK:
            await _lost(session, row, "nothing came of it at the network")
        return
    if command.status != CommandStatus.QUEUED:
        return
    # The meter has not taken it. Was it meant to have heard it by now?
    sent = row.state == DownlinkState.TX and row.tx_at is not None and row.tx_at < heard_at
    if row.state == DownlinkState.ACK or spent or (sent and not complains):
        _end(row, DownlinkState.LOST, "the meter has not taken it")
        return
    command.status = CommandStatus.SENT
    if row.state == DownlinkState.QUEUED:
        # Has the network still got it? Whoever can flush its queue may have done so.
        row.due_at, row.attempts = func.now(), 0


async def transmitted(session: AsyncSession, meter_id: str, item_id: str, at: datetime, f_cnt_down: int) -> None:
    """A gateway has put it on the air. That proves nothing."""
    await commands.lock_meter(session, meter_id)
    row = await _row_of(session, meter_id, item_id)
    if row is not None and row.state in (DownlinkState.SENDING, DownlinkState.QUEUED):
        row.state, row.tx_at, row.f_cnt_down, row.uplinks = DownlinkState.TX, at, f_cnt_down, 0
        # Whatever the answer to its handing-over was to be: the network has it.
        row.due_at = None


async def acknowledged(session: AsyncSession, meter_id: str, item_id: str, *, by_radio: bool) -> None:
    """The meter's radio acknowledged an item (it still proves nothing), or the network gave up waiting for that."""
    await commands.lock_meter(session, meter_id)
    row = await _row_of(session, meter_id, item_id)
    if row is None or row.state not in WITH_NETWORK:
        return
    if by_radio:
        row.state, row.due_at = DownlinkState.ACK, None
        await commands.mark_acknowledged(session, row.command_id)
    else:
        await _lost(session, row, "not acknowledged")


async def lost(session: AsyncSession, meter_id: str, item_id: str | None, reason: str) -> None:
    """The network dropped an item, or (None) all that it held for the device."""
    await commands.lock_meter(session, meter_id)
    row = await _open_row(session, meter_id) if item_id is None else await _row_of(session, meter_id, item_id)
    if row is None or row.state not in WITH_NETWORK:
        return
    if row.state == DownlinkState.SENDING and row.due_at is not None:
        # Not handed over yet: it is still ours to hand over.
        return
    await _lost(session, row, reason)


async def claim_tasks(session: AsyncSession, *, limit: int = 20) -> list[NetworkTask]:
    """Lease what is due at the network server."""
    rows = await claim(session, LoraDownlink, limit=limit, lease_s=LEASE_S)
    tasks = []
    for row in rows:
        command = await session.get_one(MeterCommand, row.command_id)
        meter = await session.get_one(Meter, row.meter_id)
        state = DownlinkState(row.state)
        if state == DownlinkState.SENDING and command.status not in commands.OPEN:
            # Settled meanwhile. An earlier try whose answer was lost may have left it at the network.
            state = DownlinkState.OVER
        tasks.append(
            NetworkTask(
                downlink_id=row.id,
                meter_id=row.meter_id,
                state=state,
                queue_item_id=row.queue_item_id,
                kind=CommandKind(command.kind),
                sequence=command.sequence,
                value=command.value,
                currency=commands.unit_of(meter),
                tid_mark=command.tid_mark,
                expires_at=command.deadline_at,
                body=command.body,
                traceparent=command.traceparent,
            )
        )
    return tasks


async def task_done(session: AsyncSession, task: NetworkTask, queue_item_id: str | None, now: datetime) -> None:
    """The network server has done it; ``queue_item_id`` is what it calls the item that it took, or still has."""
    await commands.lock_meter(session, task.meter_id)
    row = await session.get_one(LoraDownlink, task.downlink_id, populate_existing=True)
    finish(row)
    if task.state == DownlinkState.SENDING:
        row.queue_item_id = queue_item_id
        if row.state == DownlinkState.SENDING:
            row.state, row.queued_at = DownlinkState.QUEUED, func.now()
        await prepare(session, task.meter_id, now, listens=False)
    elif task.state == DownlinkState.QUEUED and row.state == DownlinkState.QUEUED and queue_item_id is None:
        # The statement that had us ask said that the meter has not taken it: the same number may go out again.
        _end(row, DownlinkState.LOST, "no longer in the network's queue")
        await session.execute(
            update(MeterCommand)
            .where(MeterCommand.id == row.command_id, MeterCommand.status == CommandStatus.SENT)
            .values(status=CommandStatus.QUEUED)
        )
        await prepare(session, task.meter_id, now, listens=True)
    elif row.state == DownlinkState.SENDING:
        carried = await _command_of(session, row)
        _end(row, DownlinkState.OVER, None)
        await prepare(session, task.meter_id, now, listens=carried.status == CommandStatus.SUPERSEDED)


async def task_failed(session: AsyncSession, task: NetworkTask, error: str) -> None:
    """The network server did not do it, or its answer was lost: again later, and one day the command is UNKNOWN."""
    await commands.lock_meter(session, task.meter_id)
    row = await session.get_one(LoraDownlink, task.downlink_id, populate_existing=True)
    if row.due_at is None:
        return
    if row.state not in (DownlinkState.SENDING, DownlinkState.OVER):
        # On its way after all, or only asked after: the next uplink asks again.
        finish(row)
        return
    if not await retry(session, row, error, max_attempts=MAX_ATTEMPTS, cap_s=RETRY_CAP_S):
        _log.error("downlink given up", meter_id=task.meter_id, downlink_id=row.id, error=error)
        if row.state == DownlinkState.SENDING:
            await _lost(session, row, error)


async def task_refused(session: AsyncSession, task: NetworkTask, reason: str) -> None:
    """There is no frame for this command: it waits for a person."""
    await commands.lock_meter(session, task.meter_id)
    row = await session.get_one(LoraDownlink, task.downlink_id, populate_existing=True)
    _end(row, DownlinkState.OVER, reason)
    await session.flush()
    await commands.mark_rejected(session, row.command_id, reason)
    _log.error("command has no LoRaWAN frame", meter_id=task.meter_id, command_id=row.command_id, reason=reason)


async def to_look_at(session: AsyncSession) -> Sequence[str]:
    """Meters for which something may be done now: those that always listen, and those whose item was superseded."""
    open_row = select(LoraDownlink.id).where(
        LoraDownlink.meter_id == LoraDevice.meter_id, LoraDownlink.state.in_(WITH_NETWORK)
    )
    waits = select(MeterCommand.id).where(
        MeterCommand.meter_id == LoraDevice.meter_id, MeterCommand.status == CommandStatus.QUEUED
    )
    found = await session.scalars(
        select(LoraDevice.meter_id).where(
            waits.exists(), or_(LoraDevice.device_class == DeviceClass.C, open_row.exists())
        )
    )
    return found.all()


async def _open_row(session: AsyncSession, meter_id: str) -> LoraDownlink | None:
    # What is read fresh must not lose what this transaction has changed.
    await session.flush()
    found: LoraDownlink | None = await session.scalar(
        select(LoraDownlink)
        .where(LoraDownlink.meter_id == meter_id, LoraDownlink.state.in_(WITH_NETWORK))
        .execution_options(populate_existing=True)
    )
    return found


async def _row_of(session: AsyncSession, meter_id: str, item_id: str) -> LoraDownlink | None:
    """By the network's name for it; never another meter's (M4), never a later one's (M6)."""
    row = await session.scalar(
        select(LoraDownlink)
        .where(LoraDownlink.queue_item_id == item_id, LoraDownlink.meter_id == meter_id)
        .execution_options(populate_existing=True)
    )
    if row is not None:
        return row
    # Class C: news of an item may overtake the answer that names it.
    sending = await _open_row(session, meter_id)
    if sending is None or not _is_being_sent(sending):
        return None
    sending.queue_item_id = item_id
    return sending


async def _command_of(session: AsyncSession, row: LoraDownlink) -> MeterCommand:
    await session.flush()
    return await session.get_one(MeterCommand, row.command_id, populate_existing=True)


def _is_being_sent(row: LoraDownlink) -> bool:
    """Claimed at least once and not answered for: the network server may be taking it over now."""
    return row.state == DownlinkState.SENDING and row.attempts > 0


async def _lost(session: AsyncSession, row: LoraDownlink, reason: str) -> None:
    _end(row, DownlinkState.LOST, reason)
    await session.flush()
    await commands.mark_unknown(session, row.command_id, reason)


def _over(row: LoraDownlink) -> None:
    """Its command is settled; what the network may still hold of it is to be flushed."""
    kept = row.state in (DownlinkState.SENDING, DownlinkState.QUEUED)
    _end(row, DownlinkState.OVER, None)
    if kept:
        row.due_at, row.attempts = func.now(), 0


def _end(row: LoraDownlink, state: DownlinkState, reason: str | None) -> None:
    row.state, row.reason, row.ended_at, row.due_at = state, reason, func.now(), None
