"""The tools that office commands share: the database, the operator, the table."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from standpipe.meters.keys import KeyRing
from standpipe.operations.long_operation import LongDesk, LongOperation
from standpipe.operations.operation import Operation
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError
from standpipe.platform.settings import Settings, load
from standpipe.platform.units import MAX_MINOR, ML_PER_KILOLITRE, to_minor
from standpipe.utilities.operators import actor_of_key
from standpipe.wiring import Database, close_rails, configure_logging, make_rails, migrated_database

P = ParamSpec("P")
R = TypeVar("R")
KEY = "STANDPIPE_OPERATOR_KEY"
out = Console(highlight=False, soft_wrap=True)
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]


def group(words: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=words, no_args_is_help=True, pretty_exceptions_enable=False)


def at_desk(work: Callable[[Settings, Database, Rails], Awaitable[Any]]) -> Any:
    """Run something on the database and the rails that the settings name."""

    async def run() -> Any:
        settings = load()
        configure_logging(settings)
        async with migrated_database(settings) as database:
            rails = make_rails(settings, database.sessions)
            try:
                return await work(settings, database, rails)
            finally:
                await close_rails(rails)

    return asyncio.run(run())


def perform(operation: Operation[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do a use case in a transaction of its own, in the name of the operator whose key is in the environment.

    Raises NotAuthenticatedError and ForbiddenError.
    """

    async def run(settings: Settings, database: Database, rails: Rails) -> R:
        desk = await _desk(settings, database, rails, reads=operation.reads)
        async with desk.begin() as one:
            return await operation(one, *args, **kwargs)

    done: R = at_desk(run)
    return done


def perform_long(operation: LongOperation[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do a long use case in the name of the operator whose key is in the environment.

    Raises NotAuthenticatedError and ForbiddenError.
    """

    async def run(settings: Settings, database: Database, rails: Rails) -> R:
        return await operation(await _desk(settings, database, rails), *args, **kwargs)

    done: R = at_desk(run)
    return done


async def _desk(settings: Settings, database: Database, rails: Rails, *, reads: bool = False) -> LongDesk:
    key, actor = os.environ.get(KEY, ""), None
    if not key and not reads:
        raise NotAuthenticatedError(f"Put your operator key into {KEY}.")
    if key:
        async with database.sessions() as session:
            actor = await actor_of_key(session, key)
    secrets = [secret.get_secret_value() for secret in settings.meter_key_secrets]
    return LongDesk(
        sessions=database.sessions,
        actor=actor,
        clock=settings.clock,
        rails=rails,
        command_deadline_s=settings.command_deadline_h * 3600,
        keys=KeyRing(secrets) if secrets else None,
    )


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """A table for people, or JSON for scripts."""
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2))
        return
    table = Table(title=title, title_justify="left", show_lines=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    out.print(table if rows else f"{title}: nothing.")


def harmless(text: str) -> str:
    """A text that a stranger may have typed, without what would steer a terminal or turn its reading direction."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def amount(text: str) -> Decimal:
    """An amount as a person typed it, in major units. Raises InvalidInputError."""
    try:
        typed = Decimal(text)
    except InvalidOperation:
        typed = Decimal("NaN")
    if not typed.is_finite():
        raise InvalidInputError(f"{text!r} is no amount; write it like 150.00.")
    return typed


def minor(text: str, currency: str) -> int:
    """An amount as a person typed it, in minor units. Raises InvalidInputError."""
    try:
        return to_minor(Decimal(text), currency)
    except InvalidOperation:
        raise InvalidInputError(f"{text!r} is no amount; write it like 150.00.") from None


def register_ml(text: str) -> int:
    """A register as a person typed it, in cubic metres, in millilitres. Raises InvalidInputError."""
    try:
        volume_ml = Decimal(text) * ML_PER_KILOLITRE
        exact = volume_ml == volume_ml.to_integral_value()
    except InvalidOperation:
        exact = False
    if not exact or not 0 <= volume_ml <= MAX_MINOR:
        raise InvalidInputError(f"{text!r} is no volume in cubic metres; write it like 12.345.")
    return int(volume_ml)


def instant(text: str) -> datetime:
    """An instant as a person typed it, with its offset. Raises InvalidInputError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min  # noqa: DTZ901 - without an offset, and so refused below.
    if at.tzinfo is None:
        raise InvalidInputError(f"{text!r} is no instant; write it like 2026-05-01T10:00:00+03:00.")
    return at.astimezone(UTC)


def month_of(text: str) -> date:
    """A month as a person typed it: its first day. Raises InvalidInputError."""
    try:
        if len(text) != len("2026-10"):
            raise ValueError(text)  # noqa: TRY301 - one way to say no.
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise InvalidInputError(f"{text!r} is no month; write it like 2026-10.") from None
