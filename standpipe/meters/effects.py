"""Commands that show in what the meter says, whatever carried them: a fresh reading, its time, its answers.

Their numbers prove little: on some carriers no frame takes one. So each is confirmed by its effect alone, in a word of
the meter's that is later than the sending.
"""

from datetime import datetime, timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.commands import OPEN, enqueue, in_flight
from standpipe.meters.field_models import MeterDiagnostics
from standpipe.meters.models import CommandKind, CommandStatus, Meter, MeterCommand, MeterState
from standpipe.meters.reports import CommandResult, Diagnostics, HeldTables, MeterReport, StatusReport

MAX_TRIES = 3
"""A meter that has heard a command so often and shows no effect will not: a person must look."""
MAX_SILENT = 6
"""The same of one that does not even answer to it."""
CLOCK_TOLERANCE = timedelta(minutes=2)
SLOW_TOLERANCE = timedelta(minutes=5)
"""The most that a slow radio may add to it."""
CLOCK_FAR_OFF = timedelta(minutes=15)
"""From here on readings are kept by their arrival, not by the meter's own time (``readings.validation``)."""
_REFUSALS = {
    CommandResult.BAD_MAC,
    CommandResult.WRONG_CURRENCY,
    CommandResult.UNSUPPORTED,
    CommandResult.TOTAL_TOO_LOW,
}
_log = structlog.get_logger(__name__)


async def take_answers(session: AsyncSession, meter: Meter, report: MeterReport, now: datetime) -> None:
    """What a locked meter answered to commands that ask or give more than a statement holds."""
    if report.diagnostics is not None:
        await _take_diagnostics(session, meter, report.diagnostics, now)
    if report.tables is not None:
        await _take_tables(session, meter, report.tables, now)


def judge(command: MeterCommand, statement: StatusReport, now: datetime) -> None:
    """What a fresh statement says of a command that went out: done, to be sent again, or given up."""
    if _shows(command, statement, now):
        _confirm(command, now)
        return
    heard = command.status == CommandStatus.ACKNOWLEDGED or statement.last_sequence >= command.sequence
    tries = command.attempts - _progress(command)
    if tries >= (MAX_TRIES if heard else MAX_SILENT):
        refused = heard and statement.result in _REFUSALS
        command.status = CommandStatus.REJECTED
        why = "the meter took it and shows no effect" if heard else f"the meter does not answer to it: {command.reason}"
        command.reason = statement.result if refused else why
        _log.error("command without effect", command_id=command.id, kind=command.kind, reason=command.reason)
    else:
        command.status = CommandStatus.QUEUED


async def mind_clock(session: AsyncSession, meter: Meter, state: MeterState, clock_was_s: int | None) -> None:
    """Have a locked meter's clock set where its statement shows it far off: once for each time that it goes wrong."""
    far_s = CLOCK_FAR_OFF.total_seconds()
    if abs(state.clock_error_s or 0) <= far_s:
        return
    known = await session.execute(
        select(MeterCommand.status).where(MeterCommand.meter_id == meter.id, MeterCommand.kind == CommandKind.CLOCK)
    )
    statuses = set(known.scalars())
    if statuses & set(OPEN) or (statuses and abs(clock_was_s or 0) > far_s):
        return
    _log.warning("meter's clock is far off", meter_id=meter.id, error_s=state.clock_error_s)
    await enqueue(session, meter, kind=CommandKind.CLOCK, value=0)


def _shows(command: MeterCommand, statement: StatusReport, now: datetime) -> bool:
    if statement.report_counter <= (command.after_report or 0):
        return False
    if command.kind == CommandKind.CLOCK:
        slow = now - command.sent_at if command.sent_at is not None else CLOCK_TOLERANCE
        return abs(statement.stated_at - now) <= max(CLOCK_TOLERANCE, min(slow, SLOW_TOLERANCE))
    # Answers and tables are not in a statement: take_answers has seen to them.
    return command.kind == CommandKind.READ_NOW


async def _take_diagnostics(session: AsyncSession, meter: Meter, told: Diagnostics, now: datetime) -> None:
    command = await in_flight(session, meter.id, CommandKind.DIAGNOSTICS)
    if command is None or command.sequence != told.answers:
        # Heard before, or replayed: it answers nothing that was asked.
        _log.info("diagnostics that nobody waits for", meter_id=meter.id, sequence=told.answers)
        return
    row = MeterDiagnostics(
        meter_id=meter.id,
        told_at=now,
        battery_percent=told.battery_percent,
        signal_dbm=told.signal_dbm,
        uptime_s=told.uptime_s,
        resets=told.resets,
        error_bits=told.error_bits,
        firmware=told.firmware,
    )
    await session.merge(row)
    _confirm(command, now)
    await session.flush()


async def _take_tables(session: AsyncSession, meter: Meter, told: HeldTables, now: datetime) -> None:
    command = await in_flight(session, meter.id, CommandKind.TARIFF)
    late = told.report_counter is not None and command is not None
    if command is None or (late and (told.report_counter or 0) <= (command.after_report or 0)):
        return
    body = command.body or {}
    if body.get("id") in (told.in_force, told.waiting):
        _confirm(command, now)
    elif told.sequence == command.sequence:
        command.body = body | {"parts": told.parts | int(body.get("parts", 0))}
    await session.flush()


def _confirm(command: MeterCommand, now: datetime) -> None:
    command.status, command.confirmed_at, command.reason = CommandStatus.CONFIRMED, now, None


def _progress(command: MeterCommand) -> int:
    """How many of the sendings have brought the meter a part that it lacked."""
    return int((command.body or {}).get("parts", 0)).bit_count()
