"""Readings that wait for a person, and what an operator says of them."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import FIELD_WORK
from standpipe.office.desk import AsJson, by_operator, group, instant, read_now, register_ml, show, the_meter
from standpipe.payments.rails.registry import Rails
from standpipe.platform.units import ML_PER_KILOLITRE, money_text
from standpipe.usage import review
from standpipe.usage.review import HeldReading, Outcome

Note = Annotated[str, typer.Option(help="How you know; it is kept.")]
At = Annotated[str, typer.Argument(help="The reading's instant, as `held` shows it.")]

readings = group("Readings that wait for a person (docs/readings.md).")


@readings.command("held")
def readings_held(
    serial: Annotated[str | None, typer.Argument()] = None,
    older_than_days: Annotated[int, typer.Option(help="Only those that have waited so long.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """What is held, oldest first."""

    async def work(session: AsyncSession, now: datetime) -> list[list[str]]:
        limit = now - timedelta(days=older_than_days) if older_than_days else None
        held = await review.held_readings(session, serial=serial, received_before=limit)
        return [_row(item, now) for item in held]

    columns = ["serial", "at", "reason", "register m³", "before it m³", "days", "clock said"]
    show("Held readings", columns, read_now(work), as_json=as_json)


@readings.command("release")
def readings_release(serial: str, at: At, note: Note) -> None:
    """The reading counts after all, as the meter said it."""
    read_at = instant(at)
    _decide(
        serial,
        lambda session, by, meter_id, now: review.release(
            session, operator=by, meter_id=meter_id, read_at=read_at, note=note, now=now
        ),
    )


@readings.command("reject")
def readings_reject(serial: str, at: At, note: Note) -> None:
    """The reading stands for nothing. One that is held for air: the air is never billed."""
    read_at = instant(at)
    _decide(
        serial,
        lambda session, by, meter_id, now: review.reject(
            session, operator=by, meter_id=meter_id, read_at=read_at, note=note, now=now
        ),
    )


@readings.command("correct")
def readings_correct(
    serial: str, at: At, register_m3: Annotated[str, typer.Argument(help="What the register stood at.")], note: Note
) -> None:
    """The register stood at another value than the meter said."""
    read_at, value_ml = instant(at), register_ml(register_m3)
    _decide(
        serial,
        lambda session, by, meter_id, now: review.correct(
            session, operator=by, meter_id=meter_id, read_at=read_at, register_ml=value_ml, note=note, now=now
        ),
    )


@readings.command("swap")
def readings_swap(
    serial: str,
    at: Annotated[str, typer.Argument(help="When, like 2026-05-01T10:00:00+03:00.")],
    final: Annotated[str, typer.Option(help="What the old register stood at, m³.")],
    start: Annotated[str, typer.Option(help="What the new register started at, m³.")],
    note: Note,
) -> None:
    """The register was changed or set back: consumption goes on from there."""
    when, final_ml, start_ml = instant(at), register_ml(final), register_ml(start)
    _decide(
        serial,
        lambda session, by, meter_id, now: review.swap_register(
            session, operator=by, meter_id=meter_id, at=when, final_ml=final_ml, start_ml=start_ml, note=note, now=now
        ),
    )


@readings.command("rejudge")
def readings_rejudge(serial: str) -> None:
    """Look again at what is held: readings that were held because of others may count now."""
    _decide(serial, lambda session, by, meter_id, now: review.rejudge(session, operator=by, meter_id=meter_id, now=now))


def _decide(serial: str, act: Callable[[AsyncSession, str, str, datetime], Awaitable[Outcome]]) -> None:
    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> Outcome:
        return await act(session, by, (await the_meter(session, serial)).id, now)

    done: Outcome = by_operator(work, may=FIELD_WORK)
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
