"""Asking something of a meter: valve, threshold, reading, clock, diagnostics, price table; and what came of it."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from sqlalchemy import select

from standpipe.billing.price_tables import push_table
from standpipe.meters import commands
from standpipe.meters.field_models import MeterDiagnostics
from standpipe.meters.models import CommandKind, Meter, MeterCommand
from standpipe.operations.find import meter_of
from standpipe.operations.operation import Desk, operation
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import MAX_MINOR
from standpipe.utilities.operators import ANYBODY, FIELD_WORK


class ValvePosition(StrEnum):
    """Positions of a valve as a person writes them."""

    OPEN = "open"
    CLOSED = "closed"
    RESTRICTED = "restricted"


class Question(StrEnum):
    """Things that a meter is asked, as a person writes them."""

    READ_NOW = "read-now"
    CLOCK = "clock"
    DIAGNOSTICS = "diagnostics"


_VALVE = {ValvePosition.OPEN: 0, ValvePosition.CLOSED: 1, ValvePosition.RESTRICTED: 2}
_QUESTION = {
    Question.READ_NOW: CommandKind.READ_NOW,
    Question.CLOCK: CommandKind.CLOCK,
    Question.DIAGNOSTICS: CommandKind.DIAGNOSTICS,
}


@dataclass(frozen=True, slots=True)
class CommandHistory:
    """A meter's commands, newest first, and the diagnostics that it told last."""

    commands: tuple[MeterCommand, ...]
    diagnostics: MeterDiagnostics | None


@operation("valve.set", may=FIELD_WORK)
async def set_valve(desk: Desk, serial: str, position: ValvePosition) -> str:
    """Queue a valve command; returns its id. Raises NotFoundError, InvalidInputError for a meter out of service."""
    meter = await _in_service(desk, serial)
    command_id = await _enqueue(desk, meter, CommandKind.VALVE, _VALVE[position])
    await desk.record("valve.set", meter.id, command=command_id, position=position.value)
    return command_id


@operation("threshold.set", may=FIELD_WORK)
async def set_threshold(desk: Desk, serial: str, amount_minor: int) -> str:
    """Queue a low-credit threshold in the meter's own unit; returns the command's id.

    Raises NotFoundError, InvalidInputError for a meter out of service and for an amount out of bounds.
    """
    if not 0 <= amount_minor <= MAX_MINOR:
        raise InvalidInputError(f"A threshold lies between 0 and {MAX_MINOR}.", ("amountMinor",))
    meter = await _in_service(desk, serial)
    command_id = await _enqueue(desk, meter, CommandKind.THRESHOLD, amount_minor)
    await desk.record("threshold.set", meter.id, command=command_id, amount_minor=amount_minor)
    return command_id


@operation("meters.ask", may=FIELD_WORK)
async def ask(desk: Desk, serial: str, question: Question) -> str:
    """Queue a question to a meter; returns the command's id. Raises NotFoundError, InvalidInputError."""
    meter = await _in_service(desk, serial)
    command_id = await _enqueue(desk, meter, _QUESTION[question], 0)
    await desk.record(f"meter.{question}", meter.id, command=command_id)
    return command_id


@operation("meters.push_tariff", may=FIELD_WORK)
async def push_tariff(desk: Desk, serial: str, from_day: date | None = None) -> str:
    """Queue the price table that a meter is charged by, today's or that of a day to come; returns the command's id.

    Raises NotFoundError, InvalidInputError.
    """
    meter = await _in_service(desk, serial)
    command_id = await push_table(desk.session, meter, now=desk.now, from_day=from_day)
    await desk.record("meter.tariff", meter.id, command=command_id)
    return command_id


@operation("meters.commands", may=ANYBODY, reads=True)
async def command_history(desk: Desk, serial: str) -> CommandHistory:
    """Read what was asked of a meter, and what it last told of itself. Raises NotFoundError."""
    meter = await meter_of(desk.session, serial)
    told = await desk.session.scalar(
        select(MeterDiagnostics)
        .where(MeterDiagnostics.meter_id == meter.id)
        .order_by(MeterDiagnostics.told_at.desc())
        .limit(1)
    )
    return CommandHistory(tuple(await commands.history(desk.session, meter.id)), told)


async def _in_service(desk: Desk, serial: str) -> Meter:
    meter = await commands.lock_meter(desk.session, (await meter_of(desk.session, serial)).id)
    if meter.closed_at is not None:
        raise InvalidInputError(f"{serial} is out of service.")
    return meter


async def _enqueue(desk: Desk, meter: Meter, kind: CommandKind, value: int) -> str:
    return await commands.enqueue(desk.session, meter, kind=kind, value=value, deadline_s=desk.command_deadline_s)
