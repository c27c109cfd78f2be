"""Providers' statements, and the three-way report."""

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from standpipe.office.desk import AsJson, group, harmless, out, perform, perform_long, show
from standpipe.operations import settlements
from standpipe.payments.reconcile import Difference, Report
from standpipe.payments.settlement_files import read_statement
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import money_text

reconcile = group("Providers' statements, and the three-way report.")


@reconcile.command("import")
def reconcile_import(file: Path, rail: Annotated[str, typer.Option(help="Whose statement it is, e.g. mpesa.")]) -> None:
    """Take in a statement file (docs/operations.md tells its columns)."""
    try:
        statement = read_statement(rail, file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}") from error

    taken = perform_long(settlements.import_file, rail, statement, file_name=file.name)
    refused = statement.refused
    show("Lines", ["state", "lines"], [[state, str(n)] for state, n in sorted(taken.states.items())], as_json=False)
    for sentence in (*refused, *taken.refused):
        out.print(Text.assemble(("refused ", "red"), harmless(sentence)))
    if refused or taken.refused or taken.states.get("DIFFERENT"):
        sys.exit(1)


@reconcile.command("pull")
def reconcile_pull(days: Annotated[int | None, typer.Option(min=1, max=365)] = None) -> None:
    """Ask every provider for its statement now."""
    results = perform_long(settlements.pull, days=days)
    rows = [[name, state, str(count)] for name, taken in results.items() for state, count in taken.states.items()]
    show("Statements", ["rail", "state", "lines"], rows, as_json=False)
    refused = [sentence for taken in results.values() for sentence in taken.refused]
    for sentence in refused:
        out.print(Text.assemble(("refused ", "red"), harmless(sentence)))
    if refused:
        sys.exit(1)


@reconcile.command("report")
def reconcile_report(
    missing_after_days: Annotated[int, typer.Option(help="How late a statement may be.", min=0)] = 7,
    as_json: AsJson = False,
) -> None:
    """Provider, ledger and meters side by side. Ends with 1 where they differ."""
    report = perform(settlements.report, missing_after=timedelta(days=missing_after_days))
    if as_json:
        print(json.dumps(_report_data(report), indent=2))
    else:
        _print_report(report)
    sys.exit(1 if report.differences else 0)


def _print_report(report: Report) -> None:
    measures = {
        "captured": "captured_minor",
        "refunded": "refunded_minor",
        "disputed": "disputed_minor",
        "in suspense": "suspense_minor",
        "on statements": "settled_minor",
        "fees": "fees_minor",
        "paid out": "paid_out_minor",
        "held there now": "clearing_minor",
    }
    rows = [["payments", *(str(row.payments) for row in report.rails)]]
    for name, slot in measures.items():
        rows.append([name, *(money_text(getattr(row, slot), row.currency) for row in report.rails)])
    heads = [f"{row.rail} {row.currency}" for row in report.rails]
    show("Providers and ledger", ["", *heads], rows, as_json=False)
    show(
        "Ledger and meters",
        ["", "granted", "the meters have it", "on its way"],
        [
            [label, *(str(report.meters[f"{name}_{unit}"]) for name in ("granted", "delivered", "on_its_way"))]
            for label, unit in (("money, in minor units", "minor"), ("volume, in millilitres", "ml"))
        ],
        as_json=False,
    )
    if report.waiting:
        show("Waiting for a person", ["what", "which", "why"], _listed(report.waiting), as_json=False)
    if report.differences:
        show("DIFFERENCES", ["what", "which", "why"], _listed(report.differences), as_json=False)
    else:
        out.print("[bold green]No differences.[/]")


def _listed(found: Sequence[Difference]) -> list[list[str]]:
    return [[one.kind, one.subject, one.detail] for one in found]


def _report_data(report: Report) -> dict[str, Any]:
    slots = [{name: getattr(row, name) for name in row.__slots__} for row in report.rails]
    return {
        "rails": slots,
        "meters": report.meters,
        "differences": _listed(report.differences),
        "waiting": _listed(report.waiting),
    }
