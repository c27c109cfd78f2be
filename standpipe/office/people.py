"""Operators, agents and vouchers."""

import json
import os
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Operator, OperatorAction, OperatorRole, Utility
from standpipe.customers.operator_sign_in import begin_totp, confirm_totp, set_password
from standpipe.customers.operators import (
    ANYBODY,
    MONEY,
    PEOPLE,
    add_operator,
    authenticate_operator,
    change_role,
    disable_operator,
)
from standpipe.office.desk import KEY, AsJson, at_desk, by_operator, group, minor, read, show, the_utility
from standpipe.payments import agents, vouchers
from standpipe.payments.rails.registry import Rails
from standpipe.payments.vend_models import Agent
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.settings import Settings, load, require
from standpipe.platform.units import money_text
from standpipe.wiring import Database, make_operator_keys

operator = group("Operators, each with a key of their own.")
agent = group("Cash agents and their floats.")
voucher = group("Vouchers.")


@operator.command("add")
def operator_add(
    name: str, role: Annotated[OperatorRole, typer.Option(help="What they may do.")] = OperatorRole.ADMIN
) -> None:
    """Add an operator and print the key, once. The first needs nobody's key, and is ADMIN; every other an ADMIN's."""

    async def run(_settings: Settings, database: Database, _providers: Rails) -> str:
        async with database.sessions.begin() as session:
            if await session.scalar(select(Operator.id).limit(1)) is None:
                return await add_operator(session, name, by=name)
            by = await authenticate_operator(session, os.environ.get(KEY, ""), may=PEOPLE)
            return await add_operator(session, name, by=by, role=role)

    typer.echo(at_desk(run))


@operator.command("disable")
def operator_disable(name: str) -> None:
    """End an operator's access."""
    by_operator(lambda session, by, _rails, _now: disable_operator(session, name, by=by), may=PEOPLE)


@operator.command("role")
def operator_role(name: str, role: OperatorRole) -> None:
    """Give an operator another role; it counts at once."""
    by_operator(lambda session, by, _rails, _now: change_role(session, name, role, by=by), may=PEOPLE)


@operator.command("password")
def operator_password() -> None:
    """Set your own password; it is asked for, or read from standard input. Wherever you are signed in ends."""
    password = (
        typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        if sys.stdin.isatty()
        else sys.stdin.readline().rstrip("\r\n")
    )
    by_operator(lambda session, by, _rails, _now: set_password(session, by, password), may=ANYBODY)


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

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> str:
        if keys is None:
            raise InvalidInputError("There are no keys to seal the secret with.")
        if code is None:
            return await begin_totp(session, by, keys)
        await confirm_totp(session, by, code, keys)
        return "Confirmed: signing in takes a code from now on."

    typer.echo(by_operator(work, may=ANYBODY))


@operator.command("audit")
def operator_audit(subject: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """Who did what, newest last."""

    async def work(session: AsyncSession) -> list[list[str]]:
        query = select(OperatorAction).order_by(OperatorAction.id.desc()).limit(500)
        if subject:
            query = query.where(OperatorAction.subject_id == subject)
        rows = list(await session.scalars(query))
        return [
            [f"{row.at:%Y-%m-%d %H:%M:%S}", row.operator, row.action, row.subject_id, json.dumps(row.detail)]
            for row in reversed(rows)
        ]

    show("Audit trail", ["at", "operator", "action", "subject", "detail"], read(work), as_json=as_json)


@agent.command("add")
def agent_add(
    name: str, utility_id: Annotated[str | None, typer.Option(help="Where there are several.")] = None
) -> None:
    """Add an agent and print its id and its key, once."""

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> tuple[str, str]:
        return await agents.add_agent(
            session, operator=by, utility_id=await the_utility(session, utility_id), name=name
        )

    agent_id, key = by_operator(work, may=MONEY)
    typer.echo(f"{agent_id} {key}")


@agent.command("deposit")
def agent_deposit(
    agent_id: str, amount: str, reference: Annotated[str, typer.Option(help="The bank's reference; it counts once.")]
) -> None:
    """Book what an agent paid in at the bank."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> str:
        found = await session.get(Agent, agent_id)
        if found is None:
            raise NotFoundError(f"There is no agent {agent_id}.")
        float_minor = await agents.deposit(
            session,
            operator=by,
            agent_id=agent_id,
            amount_minor=minor(amount, found.currency),
            reference=reference,
            now=now,
        )
        return f"float: {money_text(float_minor, found.currency)}"

    typer.echo(by_operator(work, may=MONEY))


@agent.command("disable")
def agent_disable(agent_id: str) -> None:
    """End an agent's access; its float stays on the books."""
    by_operator(
        lambda session, by, _rails, _now: agents.disable_agent(session, operator=by, agent_id=agent_id), may=MONEY
    )


@agent.command("list")
def agent_list(as_json: AsJson = False) -> None:
    """Agents and their floats."""

    async def work(session: AsyncSession) -> list[list[str]]:
        return [
            [row.id, row.name, money_text(await agents.float_minor(session, row), row.currency),
             "disabled" if row.disabled_at else ""]
            for row in (await session.scalars(select(Agent).order_by(Agent.id))).all()
        ]  # fmt: skip

    show("Agents", ["id", "name", "float", ""], read(work), as_json=as_json)


@voucher.command("make")
def voucher_make(
    value: str,
    count: int,
    utility_id: Annotated[str | None, typer.Option(help="Where there are several.")] = None,
    expires: Annotated[datetime | None, typer.Option(help="First day on which they no longer work (UTC).")] = None,
) -> None:
    """Make vouchers that have been paid for; prints the codes, once, one a line."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> list[str]:
        utility = await session.get_one(Utility, await the_utility(session, utility_id))
        _, codes = await vouchers.make_batch(
            session,
            operator=by,
            utility_id=utility.id,
            value_minor=minor(value, utility.currency),
            amount=count,
            now=now,
            expires_at=expires.replace(tzinfo=UTC) if expires else None,
        )
        return codes

    for code in by_operator(work, may=MONEY):
        typer.echo(code)
