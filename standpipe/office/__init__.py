"""The utility's office on the command line: prices, readings, statements, refunds, suspense, agents, vouchers, the
audit trail, supply, storage, keypad tokens, claim codes, trusted documents.

What changes anything wants an operator's key in STANDPIPE_OPERATOR_KEY and leaves its trace. Amounts are typed in major
units, such as 150.00.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import typer

WHERE: Mapping[str, str] = {
    "operator": "people:operator",
    "agent": "people:agent",
    "voucher": "people:voucher",
    "tariff": "prices:tariff",
    "readings": "meters:readings",
    "statement": "bills:statement",
    "arrears": "bills:arrears",
    "refund": "money:refund",
    "suspense": "money:suspense",
    "mpesa": "money:mpesa",
    "reconcile": "books:reconcile",
    "storage": "storage:storage",
    "supply": "supply:supply",
    "lorawan": "radios:lorawan",
    "dlms": "dlms:dlms",
    "meter-key": "keys:meter_key",
    "token": "tokens:token",
    "documents": "documents:documents",
    "claim": "claims:claim",
    "meter-command": "orders:meter_command",
    "valve": "orders:valve",
    "threshold": "orders:threshold",
}
"""Each command or group of commands, and where in this package it is; it is loaded when it is wanted."""


def add(commands: typer.Typer, name: str) -> None:
    """Add a command or a group of the office to a command line."""
    module, _, attribute = WHERE[name].partition(":")
    found: Any = getattr(importlib.import_module(f"standpipe.office.{module}"), attribute)
    if isinstance(found, typer.Typer):
        commands.add_typer(found, name=name)
    else:
        commands.command(name)(found)


def only(name: str) -> typer.Typer:
    """A command line of this alone."""
    commands = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    # With a callback, even a single command keeps its name.
    commands.callback()(_nothing)
    add(commands, name)
    return commands


def _nothing() -> None:
    """Standpipe: the utility's office."""
