"""Commands that an operator gives to one meter, and their states."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from standpipe.meters.delivery_state import OPEN
from standpipe.meters.field_models import MeterDiagnostics
from standpipe.meters.models import MeterCommand
from standpipe.office.desk import AsJson, perform, show
from standpipe.operations import meters
from standpipe.operations.meters import Question, ValvePosition
from standpipe.platform.errors import InvalidInputError


class Order(StrEnum):
    """Commands that can be given to a meter, as a person writes them."""

    READ_NOW = Question.READ_NOW.value
    CLOCK = Question.CLOCK.value
    DIAGNOSTICS = Question.DIAGNOSTICS.value
    TARIFF = "tariff"
    LIST = "list"


def valve(serial: str, position: ValvePosition) -> None:
    """Queue a valve command for a meter; it goes out when the meter wakes."""
    _queued(perform(meters.set_valve, serial, position), serial)


def threshold(serial: str, amount_minor: Annotated[int, typer.Argument(min=0)]) -> None:
    """Queue a low-credit threshold for a meter, in minor units of its currency, or in millilitres."""
    _queued(perform(meters.set_threshold, serial, amount_minor), serial)


def meter_command(
    serial: str,
    order: Order,
    from_day: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="tariff: the table of a day to come.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask something of a meter; it goes out when the meter wakes. list: what was asked, and what it last told.

    read-now: its register and state. clock: set its clock. diagnostics: battery, signal, uptime, resets, errors,
    firmware. tariff: the price table by which it is charged, today's or (--from) that of a day to come.
    """
    if from_day is not None and order is not Order.TARIFF:
        raise InvalidInputError("--from goes with tariff.")
    if order is Order.LIST:
        _list(serial, as_json=as_json)
    elif order is Order.TARIFF:
        _queued(perform(meters.push_tariff, serial, None if from_day is None else from_day.date()), serial)
    else:
        _queued(perform(meters.ask, serial, Question(order.value)), serial)


def _queued(command_id: str, serial: str) -> None:
    typer.echo(f"{command_id}: queued for {serial}; it goes out when the meter wakes.")


def _list(serial: str, *, as_json: bool) -> None:
    history = perform(meters.command_history, serial)
    heads = ["number", "kind", "state", "waits", "tries", "queued", "sent", "confirmed", "reason"]
    show(f"Commands to {serial}", heads, [_row(command) for command in history.commands], as_json=as_json)
    if not as_json:
        heads = ["told at", "battery %", "signal dBm", "uptime s", "resets", "error bits", "firmware"]
        told = history.diagnostics
        show("Diagnostics", heads, [] if told is None else [_told(told)], as_json=False)


def _row(command: MeterCommand) -> list[str]:
    times = (command.created_at, command.sent_at, command.confirmed_at)
    return [
        str(command.sequence),
        command.kind,
        command.status,
        "yes" if command.status in OPEN else "",
        str(command.attempts),
        *(f"{at:%Y-%m-%d %H:%M:%S}" if at else "" for at in times),
        command.reason or "",
    ]


def _told(row: MeterDiagnostics) -> list[str]:
    numbers = (row.battery_percent, row.signal_dbm, row.uptime_s, row.resets, row.error_bits)
    return [
        f"{row.told_at:%Y-%m-%d %H:%M:%S}",
        *("not told" if number is None else str(number) for number in numbers),
        row.firmware or "not told",
    ]
