"""Statements, and debts from before."""

from pathlib import Path
from typing import Annotated

import typer

from standpipe.billing.statement_body import StatementBody
from standpipe.billing.statement_pdf import render
from standpipe.billing.statement_text import line_text, month_text, movement_text, word
from standpipe.billing.statements import number_text
from standpipe.office.desk import amount as major
from standpipe.office.desk import group, month_of, perform, show
from standpipe.operations import statements as operations
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.units import money_text

Reference = Annotated[str, typer.Option(help="The bill or the decision it comes from; it counts once.")]

statement = group("Monthly statements.")
arrears = group("Debts that a meter brings along.")


@statement.command("show")
def statement_show(
    serial: str,
    month: Annotated[str, typer.Argument(help="Like 2026-10.")],
    pdf: Annotated[Path | None, typer.Option(help="Write the customer's page here.")] = None,
    language: Annotated[str, typer.Option(help="Of the page.")] = "en",
) -> None:
    """A month of a meter: as it was closed, or as it stands so far."""
    start = month_of(month)

    found = perform(operations.show, serial, start)
    if found is None:
        raise NotFoundError(f"No meter has the serial {serial}.")
    body, number = found
    _print(body, number_text(number))
    if pdf is not None:
        try:
            pdf.write_bytes(render(body, number_text(number), language))
        except OSError as error:
            raise InvalidInputError(f"{pdf} cannot be written: {error.strerror}") from error
        typer.echo(f"{pdf}")


@statement.command("issue")
def statement_issue(serial: str, month: Annotated[str, typer.Argument(help="Like 2026-10.")]) -> None:
    """Close a month now. What comes later for it stands in a later statement, as an adjustment."""
    start = month_of(month)

    number = number_text(perform(operations.issue, serial, start))
    typer.echo(f"statement {number}: {serial}, {month}")


@arrears.command("add")
def arrears_add(serial: str, amount: str, reference: Reference) -> None:
    """Put a debt from before on a meter; top-ups repay it by the utility's share."""
    typer.echo(f"{serial} owes {perform(operations.owe, serial, major(amount), reference=reference)}")


@arrears.command("write-off")
def arrears_write_off(serial: str, amount: str, reference: Reference) -> None:
    """Owe a part of it no more."""
    typer.echo(f"{serial} owes {perform(operations.forgive, serial, major(amount), reference=reference)}")


def _print(body: StatementBody, number: str | None) -> None:
    """The accounts one by one; each adds up from its opening to its closing."""
    title = f"{word('TITLE', 'en')} {number or '(' + word('DRAFT', 'en') + ')'}"
    typer.echo(f"{title}: {body.serial}, {month_text(body.period_start, 'en')}")
    for kind, span in body.accounts.items():
        bill = {"WALLET": body.use, "STANDING_DUE": body.standing}.get(kind)
        rows = [("opening", span.opening_minor)]
        for item in body.movements:
            if item.amounts.get(kind):
                at = item.at.isoformat(timespec="minutes")
                rows.append((f"{at} {movement_text(item, body.currency, 'en')}", item.amounts[kind]))
        rows.extend((line_text(line, body.currency, "en"), -line.amount_minor) for line in (bill.lines if bill else ()))
        rows.extend(
            (f"{month_text(item.period_start, 'en')} adjusted", -item.difference_minor)
            for item in body.adjustments
            if item.account == kind
        )
        if len(rows) > 1 or span.opening_minor or kind == "WALLET":
            rows.append(("closing", span.closing_minor))
            cells = [[label, money_text(amount_minor, body.currency)] for label, amount_minor in rows]
            show(kind, ["line", "amount"], cells, as_json=False)
