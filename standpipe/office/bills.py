"""Statements, and debts from before."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import MONEY, record
from standpipe.office.desk import by_operator, group, minor, month_of, read_now, show, the_meter
from standpipe.payments.arrears import add_arrears, write_off
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.units import money_text
from standpipe.usage.statement_body import StatementBody
from standpipe.usage.statement_pdf import render
from standpipe.usage.statement_text import line_text, month_text, movement_text, word
from standpipe.usage.statements import issue, number_text, statement_by_month

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

    async def work(session: AsyncSession, now: datetime) -> tuple[StatementBody, int | None] | None:
        return await statement_by_month(session, (await the_meter(session, serial)).id, start, now)

    found: tuple[StatementBody, int | None] | None = read_now(work)
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

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> str | None:
        meter = await the_meter(session, serial)
        made = await issue(session, meter.id, start, now)
        if made is None:
            return None
        detail = {"serial": serial, "month": month, "number": made.number}
        await record(session, operator=by, action="statement.issue", subject_id=made.id, detail=detail)
        return number_text(made.number)

    number = by_operator(work, may=MONEY)
    if number is None:
        raise InvalidInputError(f"{month} is closed already, or is not the month after the last one closed.")
    typer.echo(f"statement {number}: {serial}, {month}")


@arrears.command("add")
def arrears_add(serial: str, amount: str, reference: Reference) -> None:
    """Put a debt from before on a meter; top-ups repay it by the utility's share."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> str:
        meter = await the_meter(session, serial)
        amount_minor = minor(amount, meter.currency)
        owed_minor = await add_arrears(
            session, operator=by, meter_id=meter.id, amount_minor=amount_minor, reference=reference, now=now
        )
        return money_text(owed_minor, meter.currency)

    typer.echo(f"{serial} owes {by_operator(work, may=MONEY)}")


@arrears.command("write-off")
def arrears_write_off(serial: str, amount: str, reference: Reference) -> None:
    """Owe a part of it no more."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> str:
        meter = await the_meter(session, serial)
        amount_minor = minor(amount, meter.currency)
        owed_minor = await write_off(
            session, operator=by, meter_id=meter.id, amount_minor=amount_minor, reference=reference, now=now
        )
        return money_text(owed_minor, meter.currency)

    typer.echo(f"{serial} owes {by_operator(work, may=MONEY)}")


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
