"""Commands that show in what the meter says, whatever carried them: a fresh reading, its time, its answers. Pure.

Their numbers prove little: on some carriers no frame takes one. So each is confirmed by its effect alone, in a word of
the meter's that is later than the sending.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from standpipe.meters.delivery_state import OPEN, Command, Delivery
from standpipe.meters.models import CommandKind, CommandStatus
from standpipe.meters.reports import CommandResult, Diagnostics, HeldTables, StatusReport

MAX_TRIES = 3
"""A meter that has heard a command so often and shows no effect will not: a person must look."""
MAX_SILENT = 6
"""The limit for one that does not even answer to it."""
CLOCK_TOLERANCE = timedelta(minutes=2)
SLOW_TOLERANCE = timedelta(minutes=5)
"""The most that a slow radio may add to it."""
CLOCK_FAR_OFF = timedelta(minutes=15)
"""From here on readings are kept by their arrival, not by the meter's own time."""
_REFUSALS = {
    CommandResult.BAD_MAC,
    CommandResult.WRONG_CURRENCY,
    CommandResult.UNSUPPORTED,
    CommandResult.TOTAL_TOO_LOW,
}


def verify(command: Command, status: StatusReport, now: datetime) -> Command:
    """A command that went out, after a fresh status report: confirmed, to be sent again, or given up."""
    if _shows(command, status, now):
        return confirmed(command, now)
    heard = command.status is CommandStatus.ACKNOWLEDGED or status.last_sequence >= command.sequence
    # Sendings that brought the meter a part which it lacked are progress, not tries.
    tries = command.attempts - command.parts.bit_count()
    if tries < (MAX_TRIES if heard else MAX_SILENT):
        return replace(command, status=CommandStatus.QUEUED)
    refused = heard and status.result in _REFUSALS
    why = "the meter took it and shows no effect" if heard else f"the meter does not answer to it: {command.reason}"
    return replace(command, status=CommandStatus.REJECTED, reason=status.result if refused else why)


def confirmed(command: Command, now: datetime) -> Command:
    """The command, done by the meter's own word."""
    return replace(command, status=CommandStatus.CONFIRMED, confirmed_at=now, reason=None)


def answered(delivery: Delivery, told: Diagnostics, now: datetime) -> Command | None:
    """The command that these diagnostics answer, confirmed; None for what was heard before, or replayed."""
    command = delivery.in_flight(CommandKind.DIAGNOSTICS)
    return confirmed(command, now) if command is not None and command.sequence == told.answers else None


def held(delivery: Delivery, told: HeldTables, now: datetime) -> Command | None:
    """The price-table command after the meter's word on the tables that it holds; None where that tells nothing new."""
    command = delivery.in_flight(CommandKind.TARIFF)
    if command is None or (told.report_counter is not None and told.report_counter <= (command.after_report or 0)):
        return None
    body = command.body or {}
    if body.get("id") in (told.in_force, told.waiting):
        return confirmed(command, now)
    if told.sequence == command.sequence:
        return replace(command, body=body | {"parts": told.parts | command.parts})
    return None


def needs_clock(delivery: Delivery, clock_was_s: int | None, clock_is_s: int | None) -> bool:
    """Tell whether the meter's clock is to be set: once for each time that it goes far wrong."""
    far_s = CLOCK_FAR_OFF.total_seconds()
    if abs(clock_is_s or 0) <= far_s:
        return False
    waits = any(one.kind is CommandKind.CLOCK and one.status in OPEN for one in delivery.commands)
    return not waits and not (delivery.had_clock_command and abs(clock_was_s or 0) > far_s)


def _shows(command: Command, status: StatusReport, now: datetime) -> bool:
    if status.report_counter <= (command.after_report or 0):
        return False
    if command.kind is CommandKind.CLOCK:
        slow = now - command.sent_at if command.sent_at is not None else CLOCK_TOLERANCE
        return abs(status.stated_at - now) <= max(CLOCK_TOLERANCE, min(slow, SLOW_TOLERANCE))
    # Answers and tables are not in a status report: ``answered`` and ``held`` see to them.
    return command.kind is CommandKind.READ_NOW
