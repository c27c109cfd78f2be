"""Storage: the months of readings, made ahead, shown and let go."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.office.desk import AsJson, at_desk, group, out, read, show
from standpipe.payments.rails.registry import Rails
from standpipe.platform.database import Sessions
from standpipe.platform.settings import Settings
from standpipe.readings.retention import Retention, horizon, let_go, plan, sweep
from standpipe.readings.storage import (
    MONTHS_AHEAD,
    Partition,
    add_partitions,
    cut_first,
    month_start,
    months_from,
    partitions,
    patiently,
)
from standpipe.wiring import Database

storage = group("Readings by month: made ahead, shown, let go.")


@storage.command("partitions")
def storage_partitions(
    ahead: Annotated[int, typer.Option(help="Months to come.", min=0, max=120)] = MONTHS_AHEAD,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m"], help="Also cut what lies before the first month, from here on."),
    ] = None,
) -> None:
    """Make the partitions of the coming months; the worker does so daily."""

    async def run(settings: Settings, database: Database, _rails: Rails) -> list[str]:
        cut = await patiently(database.sessions, lambda session: cut_first(session, since.date())) if since else []
        now = settings.clock.now()
        return cut + await patiently(database.sessions, lambda session: add_partitions(session, now, ahead))

    made: list[str] = at_desk(run)
    show("New partitions", ["name"], [[name] for name in made], as_json=False)


@storage.command("show")
def storage_show(as_json: AsJson = False) -> None:
    """Each partition with its size, and the horizon before which readings have been let go."""

    async def work(session: AsyncSession) -> tuple[list[Partition], datetime | None]:
        return await partitions(session), await horizon(session)

    found, before = read(work)
    rows = [
        [one.name, _text(one.since), _text(one.until), str(one.rows), str(one.size_bytes), _text(before)]
        for one in found
    ]
    show("Readings", ["partition", "from", "to", "rows", "bytes", "horizon"], rows, as_json=as_json)


@storage.command("retain")
def storage_retain(
    months: Annotated[int, typer.Option(help="How many whole months of readings are kept.", min=2, max=1200)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Let readings go that are older than so many months. Days, charges, statements and the ledger stay."""

    async def run(settings: Settings, database: Database, _rails: Rails) -> tuple[Retention, int]:
        now = settings.clock.now()
        before = month_start(months_from(now.astimezone(UTC).date(), -months))
        if dry_run:
            async with database.sessions() as session:
                return await plan(session, before, now), 0
        going = await patiently(database.sessions, lambda session: let_go(session, before, now))
        return going, await _sweep_all(database.sessions, going)

    going, swept = at_desk(run)
    would = "would be " if dry_run else ""
    rows = [[one.name, _text(one.since), _text(one.until), str(one.rows), f"{would}dropped"] for one in going.dropped]
    if going.swept is not None:
        word = "would be swept" if dry_run else f"{swept} readings deleted"
        rows.append([going.swept.name, _text(going.swept.since), _text(going.before), str(going.swept.rows), word])
    show(f"Readings before {going.before:%Y-%m-%d}", ["partition", "from", "to", "rows", ""], rows, as_json=False)
    out.print(f"{going.held} held readings of before that wait for a person stay.")


async def _sweep_all(sessions: Sessions, going: Retention) -> int:
    total, last = 0, ""
    while going.swept is not None:
        async with sessions.begin() as session:
            found, gone = await sweep(session, going.before, last)
        total += gone
        if found is None:
            break
        last = found
    return total


def _text(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"
