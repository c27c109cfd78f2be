"""Readings that wait for a person, and what an operator says of them."""

from datetime import datetime, timedelta
from typing import Annotated

import typer

from standpipe.billing.review import HeldReading, Outcome
from standpipe.office.desk import AsJson, group, instant, perform, register_ml, show
from standpipe.operations import readings as operations
from standpipe.platform.settings import load
from standpipe.platform.units import ML_PER_KILOLITRE, money_text

Note = Annotated[str, typer.Option(help="How you know; it is kept.")]
At = Annotated[str, typer.Argument(help="The reading's instant, as `held` shows it.")]

readings = group("Readings that wait for a person (docs/readings.md).")


@readings.command("held")
def readings_held(
    serial: Annotated[str | None, typer.Argument()] = None,
    older_than_days: Annotated[int, typer.Option(help="Only those that have waited so long.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """List the held readings, oldest first."""
    now = load().clock.now()
    held = perform(operations.held, serial, older_than=timedelta(days=older_than_days))
    columns = ["serial", "at", "reason", "register m³", "before it m³", "days", "clock said"]
    show("Held readings", columns, [_row(item, now) for item in held], as_json=as_json)


@readings.command("failing")
def readings_failing(as_json: AsJson = False) -> None:
    """Meters whose readings could not be rated, with the reason; each is tried again by itself."""
    columns = ["serial", "tries", "why", "since", "again at"]
    rows = [
        [item.serial, str(item.attempts), item.error, _at(item.since), _at(item.again_at)]
        for item in perform(operations.failing)
    ]
    show("Meters that could not be rated", columns, rows, as_json=as_json)


def _at(at: datetime | None) -> str:
    return "" if at is None else at.isoformat(timespec="seconds")


@readings.command("release")
def readings_release(serial: str, at: At, note: Note) -> None:
    """The reading counts after all, as the meter said it."""
    _told(serial, perform(operations.release, serial, instant(at), note=note))


@readings.command("reject")
def readings_reject(serial: str, at: At, note: Note) -> None:
    """The reading stands for nothing. One that is held for air: the air is never billed."""
    _told(serial, perform(operations.reject, serial, instant(at), note=note))


@readings.command("correct")
def readings_correct(
    serial: str, at: At, register_m3: Annotated[str, typer.Argument(help="What the register stood at.")], note: Note
) -> None:
    """The register stood at another value than the meter said."""
    value_ml = register_ml(register_m3)
    _told(serial, perform(operations.correct, serial, instant(at), value_ml, note=note))


@readings.command("swap")
def readings_swap(
    serial: str,
    at: Annotated[str, typer.Argument(help="When, like 2026-05-01T10:00:00+03:00.")],
    final: Annotated[str, typer.Option(help="What the old register stood at, m³.")],
    start: Annotated[str, typer.Option(help="What the new register started at, m³.")],
    note: Note,
) -> None:
    """The register was changed or set back: consumption goes on from there."""
    done = perform(
        operations.exchange_register,
        serial,
        instant(at),
        final_ml=register_ml(final),
        start_ml=register_ml(start),
        note=note,
    )
    _told(serial, done)


@readings.command("rejudge")
def readings_rejudge(serial: str) -> None:
    """Look again at what is held: readings that were held because of others may count now."""
    _told(serial, perform(operations.rejudge, serial))


def _told(serial: str, done: Outcome) -> None:
    more = money_text(done.charged_minor, done.currency)
    typer.echo(f"{serial}: {done.counted} counted; charges changed by {more}; {done.still_held} still held")
    if done.still_held:
        typer.echo(f"Perhaps some were held because of this one: standpipe readings rejudge {serial}")


def _row(item: HeldReading, now: datetime) -> list[str]:
    return [
        item.serial,
        item.read_at.isoformat(),
        item.reason,
        f"{item.register_ml / ML_PER_KILOLITRE:.3f}",
        f"{item.before_ml / ML_PER_KILOLITRE:.3f}",
        str((now - item.received_at).days),
        item.claimed_at.isoformat() if item.claimed_at else "",
    ]
