"""Storage: the months of readings, made ahead, shown and let go."""

from datetime import datetime
from typing import Annotated

import typer

from standpipe.office.desk import AsJson, group, out, perform, perform_long, show
from standpipe.operations import storage as operations
from standpipe.readings.storage import MONTHS_AHEAD

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
    made = perform_long(operations.add_partitions, ahead=ahead, since=since.date() if since else None)
    show("New partitions", ["name"], [[name] for name in made], as_json=False)


@storage.command("show")
def storage_show(as_json: AsJson = False) -> None:
    """Each partition with its size, and the horizon before which readings have been let go."""
    found = perform(operations.show)
    rows = [
        [one.name, _text(one.since), _text(one.until), str(one.rows), str(one.size_bytes), _text(found.horizon)]
        for one in found.partitions
    ]
    show("Readings", ["partition", "from", "to", "rows", "bytes", "horizon"], rows, as_json=as_json)


@storage.command("retain")
def storage_retain(
    months: Annotated[int, typer.Option(help="How many whole months of readings are kept.", min=2, max=1200)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Let readings go that are older than so many months. Days, charges, statements and the ledger stay."""
    going, swept = (perform(operations.plan, months), 0) if dry_run else perform_long(operations.retain, months)
    would = "would be " if dry_run else ""
    rows = [[one.name, _text(one.since), _text(one.until), str(one.rows), f"{would}dropped"] for one in going.dropped]
    if going.swept is not None:
        word = "would be swept" if dry_run else f"{swept} readings deleted"
        rows.append([going.swept.name, _text(going.swept.since), _text(going.before), str(going.swept.rows), word])
    show(f"Readings before {going.before:%Y-%m-%d}", ["partition", "from", "to", "rows", ""], rows, as_json=False)
    out.print(f"{going.held} held readings of before that wait for a person stay.")


def _text(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"
