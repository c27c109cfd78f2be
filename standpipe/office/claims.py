"""Claim codes: issued for the door or the post, listed, revoked."""

import csv
import sys
from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import CLAIM_CODES
from standpipe.meters import claims
from standpipe.office.desk import AsJson, by_operator, group, read, show
from standpipe.payments.rails.registry import Rails
from standpipe.platform.ids import is_id

claim = group("Codes by which people prove that a meter is theirs.")


@claim.command("issue")
def claim_issue(
    serials: Annotated[list[str], typer.Argument(metavar="SERIAL...")],
    expires_in: Annotated[int | None, typer.Option("--expires-in", help="Days; without it they last.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="For a printer: serial, code, expiry, id.")] = False,
) -> None:
    """Make one code for each meter and print them, once; none, if one of the meters is not known."""

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> list[claims.IssuedClaim]:
        return [
            await claims.issue(session, operator=by, serial=serial, expires_in_days=expires_in) for serial in serials
        ]

    made: list[claims.IssuedClaim] = by_operator(work, may=CLAIM_CODES)
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

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> int:
        if is_id(claim_or_serial, "clm"):
            await claims.revoke(session, operator=by, claim_id=claim_or_serial)
            return 1
        return await claims.revoke_all(session, operator=by, serial=claim_or_serial)

    typer.echo(f"revoked: {by_operator(work, may=CLAIM_CODES)}")


@claim.command("list")
def claim_list(serial: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """Codes, newest first; their digits are not kept."""

    async def work(session: AsyncSession) -> list[list[str]]:
        return [
            [row.id, row.serial, row.state, row.issued_by, f"{row.created_at:%Y-%m-%d}", _day(row.expires_at)]
            for row in await claims.list_claims(session, serial)
        ]

    heads = ["id", "serial", "state", "by", "made", "expires"]
    show("Claim codes", heads, read(work), as_json=as_json)


def _day(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"
