"""Meters that speak DLMS: let them dial in, and look after those whose registers went back."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from standpipe.meter_gateway.dlms.meters import DlmsKeys
from standpipe.meter_gateway.dlms.profiles.profile import CreditMethod, load_profiles
from standpipe.office.desk import AsJson, group, perform, show
from standpipe.operations import radios
from standpipe.platform.errors import InvalidInputError

dlms = group("Meters that dial in over DLMS.")
_FIELDS = ("system_title", "device_name", "encryption_key", "authentication_key", "password")


@dlms.command("profiles")
def dlms_profiles(as_json: AsJson = False) -> None:
    """The models of meter that the gateway knows."""
    rows = [(one.name, one.title, one.credit.method, one.association.mechanism) for one in load_profiles().values()]
    show("Profiles", ("name", "title", "credit", "security"), rows, as_json=as_json)


@dlms.command("enrol")
def dlms_enrol(
    serial: str,
    profile: str,
    file: Annotated[
        Path, typer.Argument(help="JSON: system_title, device_name, and keys or password, in hex but the name.")
    ],
) -> None:
    """Let a meter dial in, or give it new keys. The keys are sealed before they are stored."""
    chosen = load_profiles().get(profile)
    if chosen is None:
        raise InvalidInputError(f"No profile is called {profile}: see `standpipe dlms profiles`.")
    fields = _read(file)
    perform(
        radios.enrol_dlms,
        serial,
        profile=profile,
        system_title=_hex(fields, "system_title"),
        device_name=str(fields.get("device_name") or ""),
        keys=DlmsKeys(*(_hex(fields, name) for name in _FIELDS[2:])),
        takes_frames=chosen.credit.method is CreditMethod.TOKEN,
    )
    typer.echo(f"{serial}: may dial in as {profile}.")


@dlms.command("start-anew")
def dlms_start_anew(
    serial: str, note: Annotated[str, typer.Option(help="What you found at the meter; it is kept.")]
) -> None:
    """Take a meter's registers as they are, after somebody has looked why they went back."""
    perform(radios.start_anew, serial, note)
    typer.echo(f"{serial}: its registers are taken as they are at its next contact.")


def _read(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file}: {error}") from None
    if not isinstance(fields, dict) or set(fields) - set(_FIELDS) or not fields.get("device_name"):
        raise InvalidInputError(f"{file}: an object of {', '.join(_FIELDS)}.")
    return fields


def _hex(fields: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(str(fields.get(name) or ""))
    except ValueError:
        raise InvalidInputError(f"{name} is no hex.") from None
