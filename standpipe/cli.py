"""The command line. What a command of the office does not need is not loaded for it: it answers at once."""

import importlib
import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console
from rich.markup import escape

from standpipe import office
from standpipe.payments.rails.port import RailUnavailableError
from standpipe.platform.errors import (
    ForbiddenError,
    InvalidInputError,
    NotAuthenticatedError,
    NotFoundError,
    SettingsError,
)

_errors = Console(stderr=True)


def main() -> None:
    """Run the command line; a wrong setting is one clear line, not a traceback."""
    try:
        _commands(sys.argv[1] if len(sys.argv) > 1 else "")()
    except SettingsError as error:
        for line in error.lines:
            _errors.print(f"[bold red]standpipe:[/] {escape(line)}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except (*(InvalidInputError, NotFoundError, NotAuthenticatedError, ForbiddenError, RailUnavailableError),) as error:
        _errors.print(f"[bold red]standpipe:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)


def _commands(first: str) -> typer.Typer:
    """Load the command line that knows the first word; all of it where that is none of the office's.

    Packages installed beside ours bring commands too (entry points ``standpipe.commands``), as the demo does.
    """
    if first in office.WHERE:
        return office.only(first)
    commands: typer.Typer = importlib.import_module("standpipe.roles").cli
    ours = {command.name or getattr(command.callback, "__name__", "") for command in commands.registered_commands}
    for plugin in entry_points(group="standpipe.commands"):
        if first not in ours:
            commands.command(plugin.name)(plugin.load())
    return commands


if __name__ == "__main__":
    main()
