"""What an operator asks of one meter, and how far that has come."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import FIELD_WORK, record
from standpipe.meters import commands
from standpipe.meters.commands import OPEN
from standpipe.meters.field_models import MeterDiagnostics
from standpipe.meters.models import CommandKind, MeterCommand
from standpipe.office.desk import AsJson, by_operator, read, show, the_meter
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.settings import load
from standpipe.usage.price_tables import push_table


class Order(StrEnum):
    """What can be asked of a meter, as a person writes it."""

    READ_NOW = "read-now"
    CLOCK = "clock"
    DIAGNOSTICS = "diagnostics"
    TARIFF = "tariff"
    LIST = "list"


_KINDS = {
    Order.READ_NOW: CommandKind.READ_NOW,
    Order.CLOCK: CommandKind.CLOCK,
    Order.DIAGNOSTICS: CommandKind.DIAGNOSTICS,
}


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
        return
    deadline_s = load().command_deadline_h * 3600

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> str:
        meter = await commands.lock_meter(session, (await the_meter(session, serial)).id)
        if meter.closed_at is not None:
            raise InvalidInputError(f"{serial} is out of service.")
        if order is Order.TARIFF:
            day = None if from_day is None else from_day.date()
            command_id = await push_table(session, meter, now=now, from_day=day)
        else:
            kind = _KINDS[order]
            command_id = await commands.enqueue(session, meter, kind=kind, value=0, deadline_s=deadline_s)
        await record(session, operator=by, action=f"meter.{order}", subject_id=meter.id, detail={"command": command_id})
        return command_id

    typer.echo(f"{by_operator(work, may=FIELD_WORK)}: queued for {serial}; it goes out when the meter wakes.")


def _list(serial: str, *, as_json: bool) -> None:
    async def work(session: AsyncSession) -> tuple[list[list[str]], list[list[str]]]:
        meter = await the_meter(session, serial)
        found = await commands.history(session, meter.id)
        told = await session.scalar(
            select(MeterDiagnostics)
            .where(MeterDiagnostics.meter_id == meter.id)
            .order_by(MeterDiagnostics.told_at.desc())
            .limit(1)
        )
        return [_row(command) for command in found], [] if told is None else [_told(told)]

    rows, told = read(work)
    heads = ["number", "kind", "state", "waits", "tries", "queued", "sent", "confirmed", "reason"]
    show(f"Commands to {serial}", heads, rows, as_json=as_json)
    if not as_json:
        heads = ["told at", "battery %", "signal dBm", "uptime s", "resets", "error bits", "firmware"]
        show("Diagnostics", heads, told, as_json=False)


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
