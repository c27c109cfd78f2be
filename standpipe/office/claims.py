"""Claim codes: issued for the door or the post, listed, revoked."""

import csv
import sys
from datetime import datetime
from typing import Annotated

import typer

from standpipe.office.desk import AsJson, group, perform, show
from standpipe.operations import claims

claim = group("Codes by which people prove that a meter is theirs.")


@claim.command("issue")
def claim_issue(
    serials: Annotated[list[str], typer.Argument(metavar="SERIAL...")],
    expires_in: Annotated[int | None, typer.Option("--expires-in", help="Days; without it they last.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="For a printer: serial, code, expiry, id.")] = False,
) -> None:
    """Make one code for each meter and print them, once; none, if one of the meters is not known."""
    made = perform(claims.issue, serials, expires_in_days=expires_in)
    if as_csv:
        rows = csv.writer(sys.stdout)
        rows.writerow(["serial", "code", "expires", "id"])
        rows.writerows([one.serial, one.code, _day(one.expires_at), one.id] for one in made)
        return
    for one in made:
        until = f" until {_day(one.expires_at)}" if one.expires_at else ""
        typer.echo(f"{one.serial} {one.code}{until}")


@claim.command("revoke")
def claim_revoke(
    claim_or_serial: Annotated[str, typer.Argument(metavar="CLAIM|SERIAL", help="clm_…, or all of a meter's.")],
) -> None:
    """End a code, or every open code of a meter: those on paper that is lost, for instance."""
    typer.echo(f"revoked: {perform(claims.revoke, claim_or_serial)}")


@claim.command("list")
def claim_list(serial: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """Codes, newest first; their digits are not kept."""
    rows = [
        [row.id, row.serial, row.state, row.issued_by, f"{row.created_at:%Y-%m-%d}", _day(row.expires_at)]
        for row in perform(claims.list_claims, serial)
    ]
    heads = ["id", "serial", "state", "by", "made", "expires"]
    show("Claim codes", heads, rows, as_json=as_json)


def _day(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"
