"""Keypad tokens: which meters have a keypad, tokens that an operator asks for, and all there are, to read again."""

from typing import Annotated

import typer

from standpipe.office.desk import AsJson, group, out, perform, show
from standpipe.operations import tokens
from standpipe.platform.units import volume_text
from standpipe.sts.keys import KeyTerms
from standpipe.vending.models import KeypadToken, Purpose
from standpipe.vending.views import grouped

token = group("Keypad tokens (STS).")


@token.command("enrol")
def token_enrol(
    serial: str,
    pan: Annotated[str, typer.Option(help="The meter's primary account number, 18 digits, from its plate.")],
    supply_group: Annotated[str, typer.Option(help="Supply group code, 6 digits.")],
    tariff_index: Annotated[str, typer.Option(help="Two digits.")] = "01",
    key_revision: Annotated[int, typer.Option(help="Revision of the vending key that its key comes from.")] = 1,
    base_year: Annotated[int, typer.Option(help="TIDs count minutes from its beginning.")] = 2014,
    key_expiry: Annotated[int, typer.Option(help="Key expiry number; 255: never.")] = 255,
) -> None:
    """Say that a meter has a keypad. Credit from now on can be typed where the radio does not get through."""
    terms = KeyTerms(
        pan=pan,
        supply_group=supply_group,
        tariff_index=tariff_index,
        key_revision=key_revision,
        base_year=base_year,
        key_expiry=key_expiry,
    )
    perform(tokens.enrol, serial, terms)
    out.print(f"{serial} has a keypad, and tokens under revision {key_revision} of supply group {supply_group}.")


@token.command("clear-tamper")
def token_clear_tamper(serial: str) -> None:
    """Ask for a token that ends the meter's tamper alarm."""
    _request(serial, Purpose.CLEAR_TAMPER)


@token.command("clear-credit")
def token_clear_credit(
    serial: str, sure: Annotated[bool, typer.Option("--sure", help="The customer's water will be gone.")] = False
) -> None:
    """Ask for a token that sets the meter's credit to zero; what was bought is not given back by it."""
    if not sure:
        out.print("This takes the customer's water away. Say --sure.")
        raise typer.Exit(2)
    _request(serial, Purpose.CLEAR_CREDIT)


@token.command("key-change")
def token_key_change(serial: str, revision: Annotated[int, typer.Option(help="Revision of the new key.")]) -> None:
    """Ask for the four tokens that give the meter its next key; say `key-changed` when it has taken them."""
    _request(serial, Purpose.KEY_CHANGE, revision)


@token.command("key-changed")
def token_key_changed(serial: str) -> None:
    """The meter has taken its next key: tokens are made under it from now on."""
    out.print(f"{serial}: tokens are made under revision {perform(tokens.key_changed, serial)} from now on.")


@token.command("retry")
def token_retry(token_id: str) -> None:
    """Ask again for a token that could not be had."""
    perform(tokens.retry, token_id)
    out.print(f"{token_id}: asked for again.")


@token.command("withdraw")
def token_withdraw(
    token_id: str, note: Annotated[str, typer.Option(help="How you know that nobody has its digits; it is kept.")]
) -> None:
    """Give up a token that could not be had: its credit goes by radio alone, and can be given back."""
    perform(tokens.withdraw, token_id, note)
    out.print(f"{token_id}: withdrawn.")


@token.command("list")
def token_list(serial: str, as_json: AsJson = False) -> None:
    """All tokens of a meter, newest first, to be read out again."""
    columns = ["id", "purpose", "volume", "requested", "state", "digits"]
    show(f"Tokens of {serial}", columns, [_row(item) for item in perform(tokens.list_tokens, serial)], as_json=as_json)


def _request(serial: str, purpose: Purpose, key_revision: int | None = None) -> None:
    token_id = perform(tokens.request, serial, purpose, key_revision)
    out.print(f"Asked for: {token_id}. `standpipe token list {serial}` shows its digits once it is made.")


def _row(item: KeypadToken) -> list[str]:
    if item.dead_at is not None:
        state = f"FAILED: {item.last_error}"
    elif item.digits:
        state = "ISSUED"
    else:
        state = "WAITING" if item.due_at is not None else "NOT NEEDED"
    return [
        item.id,
        item.purpose,
        volume_text(item.volume_ml, "en") if item.volume_ml else "",
        item.requested_at.isoformat(timespec="minutes"),
        state,
        " / ".join(grouped(text) for text in item.digits or []),
    ]
