"""Operators, agents and vouchers."""

import json
import os
from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Operator, OperatorAction, Utility
from standpipe.customers.operators import add_operator, authenticate_operator, disable_operator
from standpipe.errors import NotFoundError
from standpipe.office.desk import KEY, AsJson, at_desk, by_operator, group, minor, read, show, the_utility
from standpipe.payments import agents, vouchers
from standpipe.payments.rails import Rails
from standpipe.payments.vend_models import Agent
from standpipe.settings import Settings
from standpipe.units import money_text
from standpipe.wiring import Database

operator = group("Operators, each with a key of their own.")
agent = group("Cash agents and their floats.")
voucher = group("Vouchers.")


@operator.command("add")
def operator_add(name: str) -> None:
    """Add an operator and print the key, once. The first needs nobody's key; every other an operator's."""

    async def run(_settings: Settings, database: Database, _providers: Rails) -> str:
        async with database.sessions.begin() as session:
            first = await session.scalar(select(Operator.id).limit(1)) is None
            by = name if first else await authenticate_operator(session, os.environ.get(KEY, ""))
            return await add_operator(session, name, by=by)

    typer.echo(at_desk(run))


@operator.command("disable")
def operator_disable(name: str) -> None:
    """End an operator's access."""
    by_operator(lambda session, by, _rails, _now: disable_operator(session, name, by=by))


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

    agent_id, key = by_operator(work)
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

    typer.echo(by_operator(work))


@agent.command("disable")
def agent_disable(agent_id: str) -> None:
    """End an agent's access; its float stays on the books."""
    by_operator(lambda session, by, _rails, _now: agents.disable_agent(session, operator=by, agent_id=agent_id))


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

    for code in by_operator(work):
        typer.echo(code)
