"""The utility's office on the command line: refunds, suspense, agents, vouchers, statements, the audit trail.

What moves money wants an operator's key in STANDPIPE_OPERATOR_KEY and leaves its trace. Amounts are typed in major
units, such as 150.00.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Operator, OperatorAction, Utility
from standpipe.customers.operators import add_operator, authenticate_operator, disable_operator
from standpipe.errors import InvalidInputError, NotAuthenticatedError, NotFoundError
from standpipe.ids import new_id
from standpipe.payments import agents, refunds, suspense_work, vouchers
from standpipe.payments.models import Refund, TopUp
from standpipe.payments.providers.mpesa import MpesaProvider
from standpipe.payments.rails import Rails
from standpipe.payments.reconcile import Difference, Report, make_report
from standpipe.payments.settlement_files import read_statement
from standpipe.payments.settlements import ImportResult, import_lines, pull
from standpipe.payments.vend_models import Agent
from standpipe.settings import Settings, load
from standpipe.units import money_text, to_minor
from standpipe.wiring import Database, close_providers, configure_logging, make_providers, migrated_database

KEY = "STANDPIPE_OPERATOR_KEY"
_out = Console(highlight=False, soft_wrap=True)
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]


def _group(words: str) -> typer.Typer:
    return typer.Typer(help=words, no_args_is_help=True, pretty_exceptions_enable=False)


operator = _group("Operators, each with a key of their own.")
refund = _group("Refunds: asked for by one operator, approved by another.")
suspense = _group("Money that waits for a person.")
agent = _group("Cash agents and their floats.")
voucher = _group("Vouchers.")
reconcile = _group("Providers' statements, and the three-way report.")
mpesa = _group("M-Pesa's own set-up.")
GROUPS = {
    "operator": operator,
    "refund": refund,
    "suspense": suspense,
    "agent": agent,
    "voucher": voucher,
    "reconcile": reconcile,
    "mpesa": mpesa,
}
Desk = tuple[Settings, Database, Rails]


def _at_desk(work: Callable[[Settings, Database, Rails], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        settings = load()
        configure_logging(settings)
        async with migrated_database(settings) as database:
            providers = make_providers(settings, database.sessions)
            try:
                return await work(settings, database, providers)
            finally:
                await close_providers(providers)

    return asyncio.run(run())


def _by_operator(work: Callable[[AsyncSession, str, Rails, datetime], Awaitable[Any]]) -> Any:
    """One transaction in an operator's name. Raises NotAuthenticatedError."""

    async def run(settings: Settings, database: Database, providers: Rails) -> Any:
        key = os.environ.get(KEY, "")
        if not key:
            raise NotAuthenticatedError(f"Put your operator key into {KEY}.")
        async with database.sessions.begin() as session:
            name = await authenticate_operator(session, key)
            return await work(session, name, providers, settings.clock.now())

    return _at_desk(run)


def _read(work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
    async def run(_settings: Settings, database: Database, _providers: Rails) -> Any:
        async with database.sessions() as session:
            return await work(session)

    return _at_desk(run)


@operator.command("add")
def operator_add(name: str) -> None:
    """Add an operator and print the key, once. The first needs nobody's key; every other an operator's."""

    async def run(_settings: Settings, database: Database, _providers: Rails) -> str:
        async with database.sessions.begin() as session:
            first = await session.scalar(select(Operator.id).limit(1)) is None
            by = name if first else await authenticate_operator(session, os.environ.get(KEY, ""))
            return await add_operator(session, name, by=by)

    typer.echo(_at_desk(run))


@operator.command("disable")
def operator_disable(name: str) -> None:
    """End an operator's access."""
    _by_operator(lambda session, by, _rails, _now: disable_operator(session, name, by=by))


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

    _show("Audit trail", ["at", "operator", "action", "subject", "detail"], _read(work), as_json=as_json)


@refund.command("request")
def refund_request(
    top_up_id: str,
    amount: str,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    key: Annotated[str | None, typer.Option(help="The same key again is the same request.")] = None,
) -> None:
    """Ask for a refund; somebody else must approve it."""

    async def work(session: AsyncSession, by: str, rails: Rails, now: datetime) -> str:
        top_up = await session.get(TopUp, top_up_id)
        if top_up is None:
            raise NotFoundError(f"There is no top-up {top_up_id}.")
        return await refunds.request_refund(
            session,
            rails,
            operator=by,
            top_up_id=top_up_id,
            amount_minor=_minor(amount, top_up.currency),
            reason=reason,
            request_key=key or new_id("key"),
            now=now,
        )

    typer.echo(_by_operator(work))


@refund.command("approve")
def refund_approve(refund_id: str) -> None:
    """Approve what another operator asked for; the meter's truth decides whether it goes out."""
    state = _by_operator(
        lambda session, by, _rails, now: refunds.approve_refund(session, operator=by, refund_id=refund_id, now=now)
    )
    typer.echo(f"{refund_id}: {state}")


@refund.command("reject")
def refund_reject(refund_id: str) -> None:
    """Turn a request down."""
    _by_operator(
        lambda session, by, _rails, now: refunds.reject_refund(session, operator=by, refund_id=refund_id, now=now)
    )


@refund.command("list")
def refund_list(as_json: AsJson = False) -> None:
    """The newest refunds."""

    async def work(session: AsyncSession) -> list[list[str]]:
        rows = await session.scalars(select(Refund).order_by(Refund.id.desc()).limit(200))
        return [
            [row.id, row.status, money_text(row.amount_minor, row.currency), row.top_up_id, row.requested_by,
             row.approved_by or "", row.failure_code or "", row.reason]
            for row in rows
        ]  # fmt: skip

    columns = ["id", "state", "amount", "top-up", "asked by", "approved by", "failure", "reason"]
    _show("Refunds", columns, _read(work), as_json=as_json)


@suspense.command("list")
def suspense_list(as_json: AsJson = False) -> None:
    """What waits for a person, oldest first."""

    async def work(session: AsyncSession) -> list[list[str]]:
        return [
            [item.id, money_text(item.amount_minor, item.currency), item.provider, item.provider_ref,
             item.account_reference or "", item.payer or "", item.reason]
            for item in await suspense_work.open_items(session)
        ]  # fmt: skip

    columns = ["id", "amount", "provider", "payment", "payer typed", "payer", "reason"]
    _show("Suspense", columns, _read(work), as_json=as_json)


@suspense.command("assign")
def suspense_assign(
    item_id: str, serial: str, note: Annotated[str, typer.Option(help="How you know; it is kept.")]
) -> None:
    """Credit an item to a meter."""
    top_up_id = _by_operator(
        lambda session, by, _rails, now: suspense_work.assign(
            session, operator=by, item_id=item_id, serial=serial, note=note, now=now
        )
    )
    typer.echo(f"{item_id}: credited to {serial} as {top_up_id}")


@suspense.command("returned")
def suspense_returned(item_id: str, note: Annotated[str, typer.Option(help="How and where; it is kept.")]) -> None:
    """Note that an item was given back by hand, in the provider's portal."""
    _by_operator(
        lambda session, by, _rails, now: suspense_work.note_returned(
            session, operator=by, item_id=item_id, note=note, now=now
        )
    )


@agent.command("add")
def agent_add(
    name: str, utility_id: Annotated[str | None, typer.Option(help="Where there are several.")] = None
) -> None:
    """Add an agent and print its id and its key, once."""

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> tuple[str, str]:
        return await agents.add_agent(session, operator=by, utility_id=await _utility(session, utility_id), name=name)

    agent_id, key = _by_operator(work)
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
            amount_minor=_minor(amount, found.currency),
            reference=reference,
            now=now,
        )
        return f"float: {money_text(float_minor, found.currency)}"

    typer.echo(_by_operator(work))


@agent.command("disable")
def agent_disable(agent_id: str) -> None:
    """End an agent's access; its float stays on the books."""
    _by_operator(lambda session, by, _rails, _now: agents.disable_agent(session, operator=by, agent_id=agent_id))


@agent.command("list")
def agent_list(as_json: AsJson = False) -> None:
    """Agents and their floats."""

    async def work(session: AsyncSession) -> list[list[str]]:
        return [
            [row.id, row.name, money_text(await agents.float_minor(session, row), row.currency),
             "disabled" if row.disabled_at else ""]
            for row in (await session.scalars(select(Agent).order_by(Agent.id))).all()
        ]  # fmt: skip

    _show("Agents", ["id", "name", "float", ""], _read(work), as_json=as_json)


@voucher.command("make")
def voucher_make(
    value: str,
    count: int,
    utility_id: Annotated[str | None, typer.Option(help="Where there are several.")] = None,
    expires: Annotated[datetime | None, typer.Option(help="First day on which they no longer work (UTC).")] = None,
) -> None:
    """Make vouchers that have been paid for; prints the codes, once, one a line."""

    async def work(session: AsyncSession, by: str, _rails: Rails, now: datetime) -> list[str]:
        utility = await session.get_one(Utility, await _utility(session, utility_id))
        _, codes = await vouchers.make_batch(
            session,
            operator=by,
            utility_id=utility.id,
            value_minor=_minor(value, utility.currency),
            amount=count,
            now=now,
            expires_at=expires.replace(tzinfo=UTC) if expires else None,
        )
        return codes

    for code in _by_operator(work):
        typer.echo(code)


@reconcile.command("import")
def reconcile_import(
    file: Path, provider: Annotated[str, typer.Option(help="Whose statement it is, e.g. mpesa.")]
) -> None:
    """Take in a statement file (docs/operations.md tells its columns)."""
    try:
        statement = read_statement(provider, file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}") from error

    async def run(settings: Settings, database: Database, providers: Rails) -> ImportResult:
        return await import_lines(
            database.sessions, providers, settings.clock, provider=provider, lines=statement.lines
        )

    taken, refused = _at_desk(run), statement.refused
    _show("Lines", ["state", "lines"], [[state, str(n)] for state, n in sorted(taken.states.items())], as_json=False)
    for sentence in (*refused, *taken.refused):
        _out.print(Text.assemble(("refused ", "red"), _harmless(sentence)))
    if refused or taken.refused or taken.states.get("DIFFERENT"):
        sys.exit(1)


@reconcile.command("pull")
def reconcile_pull(days: Annotated[int | None, typer.Option(min=1, max=365)] = None) -> None:
    """Ask every provider for its statement now."""

    async def run(settings: Settings, database: Database, providers: Rails) -> dict[str, ImportResult]:
        return await pull(database.sessions, providers, settings.clock, until=datetime.now(UTC), days=days)

    results: dict[str, ImportResult] = _at_desk(run)
    rows = [[name, state, str(count)] for name, taken in results.items() for state, count in taken.states.items()]
    _show("Statements", ["provider", "state", "lines"], rows, as_json=False)
    refused = [sentence for taken in results.values() for sentence in taken.refused]
    for sentence in refused:
        _out.print(Text.assemble(("refused ", "red"), _harmless(sentence)))
    if refused:
        sys.exit(1)


@reconcile.command("report")
def reconcile_report(
    missing_after_days: Annotated[int, typer.Option(help="How late a statement may be.", min=0)] = 7,
    as_json: AsJson = False,
) -> None:
    """Provider, ledger and meters side by side. Ends with 1 where they differ."""

    async def run(settings: Settings, database: Database, providers: Rails) -> Report:
        async with database.sessions() as session:
            after = timedelta(days=missing_after_days)
            return await make_report(session, providers, settings.clock.now(), missing_after=after)

    report: Report = _at_desk(run)
    if as_json:
        print(json.dumps(_report_data(report), indent=2))
    else:
        _print_report(report)
    sys.exit(1 if report.differences else 0)


@mpesa.command("register")
def mpesa_register() -> None:
    """Tell M-Pesa where to ask about paybill payments and where to confirm them. Once per paybill."""

    async def run(_settings: Settings, _database: Database, providers: Rails) -> None:
        provider = providers.get("mpesa")
        if not isinstance(provider, MpesaProvider):
            raise InvalidInputError("M-Pesa is not set up: STANDPIPE_MPESA_URL is empty.")
        await provider.register_urls()

    _at_desk(run)


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
    rows = [["payments", *(str(row.payments) for row in report.providers)]]
    for name, slot in measures.items():
        rows.append([name, *(money_text(getattr(row, slot), row.currency) for row in report.providers)])
    heads = [f"{row.provider} {row.currency}" for row in report.providers]
    _show("Providers and ledger", ["", *heads], rows, as_json=False)
    _show(
        "Ledger and meters, in minor units",
        ["granted", "the meters have it", "on its way"],
        [[str(report.meters[f"{name}_minor"]) for name in ("granted", "delivered", "on_its_way")]],
        as_json=False,
    )
    if report.waiting:
        _show("Waiting for a person", ["what", "which", "why"], _listed(report.waiting), as_json=False)
    if report.differences:
        _show("DIFFERENCES", ["what", "which", "why"], _listed(report.differences), as_json=False)
    else:
        _out.print("[bold green]No differences.[/]")


def _listed(found: Sequence[Difference]) -> list[list[str]]:
    return [[one.kind, one.subject, one.detail] for one in found]


def _report_data(report: Report) -> dict[str, Any]:
    slots = [{name: getattr(row, name) for name in row.__slots__} for row in report.providers]
    return {
        "providers": slots,
        "meters": report.meters,
        "differences": _listed(report.differences),
        "waiting": _listed(report.waiting),
    }


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2))
        return
    table = Table(title=title, title_justify="left", show_lines=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_harmless(cell)) for cell in row))
    _out.print(table if rows else f"{title}: nothing.")


def _harmless(text: str) -> str:
    """A text that a stranger may have typed, without what would steer a terminal or turn its reading direction."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _minor(text: str, currency: str) -> int:
    try:
        return to_minor(Decimal(text), currency)
    except InvalidOperation:
        raise InvalidInputError(f"{text!r} is no amount; write it like 150.00.") from None


async def _utility(session: AsyncSession, utility_id: str | None) -> str:
    if utility_id is not None:
        return utility_id
    found = (await session.scalars(select(Utility.id).limit(2))).all()
    if len(found) != 1:
        raise InvalidInputError("Say which utility: --utility-id.")
    return found[0]
