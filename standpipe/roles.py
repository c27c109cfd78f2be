"""Every command of the product: each role apart, and the office's."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from cryptography.fernet import Fernet
from rich.console import Console

from standpipe import office
from standpipe.app import make_app, make_signer, observed
from standpipe.meter_gateway.carriers import run_carriers
from standpipe.platform.errors import SettingsError
from standpipe.platform.migrate import check as check_migrations
from standpipe.platform.migrate import upgrade
from standpipe.platform.notify import COMMANDS, WORK, Listener
from standpipe.platform.ready import Readiness, older_revisions
from standpipe.platform.serving import require_free_tcp
from standpipe.platform.serving import serve as serve_http
from standpipe.platform.settings import Settings, load
from standpipe.wiring import (
    Database,
    close_rails,
    configure_logging,
    database_url,
    make_issuer,
    make_rails,
    make_sender,
    migrated_database,
    traced,
)
from standpipe.worker import run_worker

cli = typer.Typer(
    help="Standpipe: the customer backend for prepaid water meters. Settings come from the environment "
    "(docs/settings.md).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name in office.WHERE:
    office.add(cli, name)
Tied = Annotated[bool, typer.Option("--tied", hidden=True, help="End when standard input closes.")]
_errors = Console(stderr=True)


@cli.command()
def serve(tied: Tied = False) -> None:
    """Serve HTTP: GraphQL, webhooks, the return page."""
    settings = _start_role()
    make_signer(settings)
    require_free_tcp(settings.http_host, settings.http_port, "STANDPIPE_HTTP_PORT")
    run(_serve(settings), tied=tied)


@cli.command()
def worker(tied: Tied = False) -> None:
    """Work the queues: inbox, payment poller, outbox, deliveries."""
    run(_worker(_start_role()), tied=tied)


@cli.command()
def gateway(tied: Tied = False) -> None:
    """Speak with meters: LwM2M over CoAP, DLMS with those that dial in, and LoRaWAN through ChirpStack."""
    run(_gateway(_start_role()), tied=tied)


@cli.command()
def migrate(
    check: Annotated[bool, typer.Option("--check", help="Also fail where models and database differ.")] = False,
) -> None:
    """Bring the database to the newest revision."""
    asyncio.run(_migrate(start(), check=check))


@cli.command(name="new-key")
def new_key() -> None:
    """Print a fresh Fernet key for STANDPIPE_METER_KEY_SECRETS."""
    typer.echo(Fernet.generate_key().decode())


def start() -> Settings:
    settings = load()
    configure_logging(settings)
    return settings


def _start_role() -> Settings:
    settings = start()
    if settings.metrics_port is not None:
        require_free_tcp(settings.metrics_host, settings.metrics_port, "STANDPIPE_METRICS_PORT")
    return settings


def run(role: Coroutine[Any, Any, None], *, tied: bool) -> None:
    """Run a role until it ends, Ctrl-C, SIGTERM, or (tied) the parent's end, and let it close what it opened."""

    async def until_told() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(role)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        if tied:
            watch = threading.Thread(target=_wait_for_parent, args=(loop, task), daemon=True)
            watch.start()
        try:
            await task
        except asyncio.CancelledError:
            return

    try:
        asyncio.run(until_told())
    except* SettingsError as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[SettingsError]) -> SettingsError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _wait_for_parent(loop: asyncio.AbstractEventLoop, task: "asyncio.Future[None]") -> None:
    # The parent holds the other end of our standard input; when it dies, however it dies, this read returns.
    while os.read(sys.stdin.fileno(), 1):
        pass
    loop.call_soon_threadsafe(task.cancel)


async def _serve(settings: Settings) -> None:
    with traced(settings, "serve"):
        async with migrated_database(settings) as database:
            app = make_app(settings, database)
            async with observed(settings, database, app.state.readiness):
                await serve_http(app, settings.http_host, settings.http_port)


async def _worker(settings: Settings) -> None:
    sender, issuer = make_sender(settings), make_issuer(settings.keypad)
    async with _working(settings, "worker", WORK) as (database, listener):
        rails = make_rails(settings, database.sessions)
        try:
            offline_after = timedelta(hours=settings.offline_after_h)
            await run_worker(
                *(database.sessions, listener, rails, sender, settings.clock, offline_after),
                issuer=issuer,
                token_after=timedelta(minutes=settings.keypad.token_after_min),
            )
        finally:
            await close_rails(rails)
            for outside in (sender, issuer):
                if outside is not None:
                    await outside.close()


async def _gateway(settings: Settings) -> None:
    async with _working(settings, "gateway", COMMANDS) as (database, listener):
        await run_carriers(settings, database.sessions, listener)


@asynccontextmanager
async def _working(settings: Settings, role: str, channel: str) -> AsyncIterator[tuple[Database, Listener]]:
    """Open what a role without a door for customers stands on: database, one channel, and those who watch it."""
    with traced(settings, role):
        async with migrated_database(settings) as database:
            listener = Listener(database.url, channel)
            await listener.start()
            try:
                readiness = Readiness(database.sessions, listener, older=older_revisions())
                async with observed(settings, database, readiness):
                    yield database, listener
            finally:
                await listener.stop()


async def _migrate(settings: Settings, *, check: bool) -> None:
    async with database_url(settings) as url:
        with _errors.status("Migrating the database…"):
            await upgrade(url)
            if check:
                await check_migrations(url)
    typer.echo("The database is at the newest revision.")
