"""The commands that this package adds to ``standpipe`` (entry points ``standpipe.commands`` in its pyproject.toml)."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from standpipe.office.desk import at_desk
from standpipe.payments.rails.registry import Rails
from standpipe.platform.settings import Settings
from standpipe.roles import Tied, run, start
from standpipe.wiring import Database
from standpipe_demo.demo import run_demo, world_of
from standpipe_demo.simulator.run import run_world
from standpipe_demo.synthetic.utility import Scale
from standpipe_demo.synthetic.utility import generate as make_utility


def demo() -> None:
    """Run everything on this machine: database, town, server, worker, gateway, meters, provider, phone."""
    run(run_demo(start()), tied=False)


def simulate(tied: Tied = False) -> None:
    """Run simulated meters, stand-ins of every payment provider and the fake phone on the demo's data."""
    run(run_world(world_of(start())), tied=tied)


def generate(
    meters: Annotated[int, typer.Option(help="How many synthetic meters there are to be.", min=1, max=9999)] = 500,
    years: Annotated[int, typer.Option(help="Years of hourly readings of each.", min=1, max=20)] = 5,
    seed: Annotated[int, typer.Option(help="Another number is another use of water.")] = 1,
    at_once: Annotated[int, typer.Option(help="Meters at once.", min=1, max=8)] = 2,
    more: Annotated[bool, typer.Option("--more", help="Go on where there are synthetic meters already.")] = False,
) -> None:
    """Make a synthetic utility to measure with. Not for a database that serves customers."""
    scale = Scale(meters=meters, months=12 * years, seed=seed, at_once=at_once)

    async def work(settings: Settings, database: Database, _rails: Rails) -> int:
        with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("Meters", total=meters)
            return await make_utility(
                database.sessions,
                scale,
                settings.clock.now(),
                more=more,
                progress=lambda done, _total: bar.update(task, completed=done),
            )

    typer.echo(f"{at_desk(work)} meters made; there are {meters}.")
