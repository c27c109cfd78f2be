"""Keys of meters: given out, replaced, taken away, sealed anew. A key is shown once, here, and nowhere else."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from standpipe.office.desk import AsJson, group, perform, perform_long, show
from standpipe.operations import keys
from standpipe.platform.errors import InvalidInputError

meter_key = group("DTLS keys of meters.")
Bootstrap = Annotated[bool, typer.Option("--bootstrap", help="The key for the bootstrap server instead.")]


@meter_key.command("provision")
def provision(
    serial: Annotated[str | None, typer.Argument(help="One meter.")] = None,
    table: Annotated[
        Path | None,
        typer.Option("--from", exists=True, dir_okay=False, help="Many: CSV with the columns serial and, if any, key."),
    ] = None,
    bootstrap: Bootstrap = False,
) -> None:
    """Give meters their first key; prints serial, identity and key (hex) as CSV, once."""
    if (serial is None) is (table is None):
        raise InvalidInputError("Name one meter, or a table of many with --from.")
    wanted = [(serial, None)] if serial is not None else list(_rows(table or Path()))

    writer = csv.writer(sys.stdout, lineterminator="\n")
    for issued in perform(keys.provision, [pair for pair in wanted if pair[0]], bootstrap=bootstrap):
        writer.writerow((issued.serial, issued.identity, issued.key.hex()))


@meter_key.command("rotate")
def rotate(serial: str) -> None:
    """Make a new key; the gateway writes it to the meter in its next contact, and both are good until it is used."""
    generation = perform(keys.rotate, serial)
    typer.echo(f"{serial}: key {generation} waits for the meter; `meter-key show {serial}` tells how it goes.")


@meter_key.command("revoke")
def revoke(serial: str) -> None:
    """Take all keys away; the meter is heard no more, by DTLS, until it is provisioned again."""
    perform(keys.revoke, serial)
    typer.echo(f"{serial}: no key opens a session any more.")


@meter_key.command("show")
def show_keys(serial: str, as_json: AsJson = False) -> None:
    """Show a meter's keys, and when they were used; never the keys themselves."""
    row = perform(keys.describe, serial)
    cells = ["no", "", "no", "", "no", ""]
    if row is not None:
        waits = f"key {row.next_generation}" if row.sealed_next_key else "no"
        cells = [
            *(_yes(row.sealed_key), str(row.used_at or "")),
            *(waits, str(row.next_written_at or "")),
            *(_yes(row.sealed_bootstrap_key), str(row.bootstrapped_at or "")),
        ]
    columns = ("key", "used_at", "next", "written_at", "bootstrap_key", "bootstrapped_at")
    show(f"Keys of {serial}", columns, [cells], as_json=as_json)


@meter_key.command("reseal")
def reseal() -> None:
    """Seal every stored key under the newest of STANDPIPE_METER_KEY_SECRETS; then the older ones may go."""
    typer.echo(f"{perform_long(keys.reseal)} meters' keys are sealed under the newest secret.")


def _rows(table: Path) -> Iterator[tuple[str, bytes | None]]:
    """Serial and key of each line. Raises InvalidInputError naming the line at fault, and never what stood in it."""
    with table.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if "serial" not in (reader.fieldnames or ()):
            raise InvalidInputError("The first line must name the columns: serial, or serial and key.")
        for number, row in enumerate(reader, start=2):
            text = (row.get("key") or "").strip()
            try:
                key = bytes.fromhex(text) if text else None
            except ValueError:
                raise InvalidInputError(f"Line {number}: the key is not hexadecimal.") from None
            if not (serial := (row["serial"] or "").strip()):
                raise InvalidInputError(f"Line {number}: no serial.")
            yield serial, key


def _yes(sealed: str | None) -> str:
    return "no" if sealed is None else "yes"
