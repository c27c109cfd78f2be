"""Operators, agents and vouchers."""

import json
import os
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from standpipe.office.desk import KEY, AsJson, group, perform, show
from standpipe.office.desk import amount as major
from standpipe.operations import agents, operators
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.settings import load, require
from standpipe.platform.units import money_text
from standpipe.utilities.models import OperatorRole
from standpipe.wiring import make_operator_keys

operator = group("Operators, each with a key of their own.")
agent = group("Cash agents and their floats.")
voucher = group("Vouchers.")


@operator.command("add")
def operator_add(
    name: str, role: Annotated[OperatorRole, typer.Option(help="What they may do.")] = OperatorRole.ADMIN
) -> None:
    """Add an operator and print the key, once. The first needs nobody's key, and is ADMIN; every other an ADMIN's."""
    key = perform(operators.add_first, name) if not os.environ.get(KEY) else None
    typer.echo(key or perform(operators.add, name, role))


@operator.command("disable")
def operator_disable(name: str) -> None:
    """End an operator's access."""
    perform(operators.disable, name)


@operator.command("role")
def operator_role(name: str, role: OperatorRole) -> None:
    """Give an operator another role; it counts at once."""
    perform(operators.set_role, name, role)


@operator.command("password")
def operator_password() -> None:
    """Set your own password; it is asked for, or read from standard input. Wherever you are signed in ends."""
    password = (
        typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        if sys.stdin.isatty()
        else sys.stdin.readline().rstrip("\r\n")
    )
    perform(operators.set_password, password)


@operator.command("totp")
def operator_totp(
    code: Annotated[
        str | None, typer.Option(help="A code of the authenticator: the secret counts from now on.")
    ] = None,
) -> None:
    """Begin your own second factor: prints its address, once, for an authenticator. Then confirm it with --code."""
    settings = load()
    require(settings, "operator_key_secrets")
    keys = make_operator_keys(settings)

    if keys is None:
        raise InvalidInputError("There are no keys to seal the secret with.")
    if code is None:
        typer.echo(perform(operators.begin_second_factor, keys))
    else:
        perform(operators.confirm_second_factor, keys, code)
        typer.echo("Confirmed: signing in takes a code from now on.")


@operator.command("audit")
def operator_audit(subject: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """Show the audit trail, newest last."""
    rows = [
        [f"{row.at:%Y-%m-%d %H:%M:%S}", row.operator, row.action, row.subject_id, json.dumps(row.detail)]
        for row in perform(operators.audit_trail, subject)
    ]
    show("Audit trail", ["at", "operator", "action", "subject", "detail"], rows, as_json=as_json)


@agent.command("add")
def agent_add(
    name: str, utility_id: Annotated[str | None, typer.Option(help="Where there are several.")] = None
) -> None:
    """Add an agent and print its id and its key, once."""
    agent_id, key = perform(agents.add, utility_id, name)
    typer.echo(f"{agent_id} {key}")


@agent.command("deposit")
def agent_deposit(
    agent_id: str, amount: str, reference: Annotated[str, typer.Option(help="The bank's reference; it counts once.")]
) -> None:
    """Book what an agent paid in at the bank."""
    float_minor, currency = perform(agents.deposit, agent_id, major(amount), reference=reference)
    typer.echo(f"float: {money_text(float_minor, currency)}")


@agent.command("disable")
def agent_disable(agent_id: str) -> None:
    """End an agent's access; its float stays on the books."""
    perform(agents.disable, agent_id)


@agent.command("list")
def agent_list(as_json: AsJson = False) -> None:
    """Agents and their floats."""
    rows = [
        [row.agent_id, row.name, money_text(row.float_minor, row.currency), "disabled" if row.is_disabled else ""]
        for row in perform(agents.list_agents)
    ]
    show("Agents", ["id", "name", "float", ""], rows, as_json=as_json)


@voucher.command("make")
def voucher_make(
    value: str,
    count: int,
    utility_id: Annotated[str | None, typer.Option(help="Where there are several.")] = None,
    expires: Annotated[datetime | None, typer.Option(help="First day on which they no longer work (UTC).")] = None,
) -> None:
    """Make vouchers that have been paid for; prints the codes, once, one a line."""
    expires_at = expires.replace(tzinfo=UTC) if expires else None
    for code in perform(agents.issue_vouchers, utility_id, major(value), count, expires_at=expires_at):
        typer.echo(code)
