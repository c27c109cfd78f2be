"""Meters that speak DLMS: let them dial in, and look after those whose registers went back."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import FIELD_WORK, record
from standpipe.meter_gateway.profiles.profile import CreditMethod, load_profiles
from standpipe.meters import dlms as dlms_meters
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter
from standpipe.office.desk import AsJson, by_operator, group, show
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.settings import load, require

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
    settings = load()
    require(settings, "meter_key_secrets")
    ring = KeyRing([secret.get_secret_value() for secret in settings.meter_key_secrets])
    fields = _read(file)

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> None:
        meter_id = await _meter_id(session, serial)
        await dlms_meters.enrol(
            session,
            ring,
            meter_id=meter_id,
            profile=profile,
            system_title=_hex(fields, "system_title"),
            device_name=str(fields.get("device_name") or ""),
            keys=dlms_meters.DlmsKeys(*(_hex(fields, name) for name in _FIELDS[2:])),
            takes_frames=chosen.credit.method is CreditMethod.TOKEN,
        )
        detail = {"profile": profile, "system_title": fields.get("system_title")}
        await record(session, operator=by, action="dlms.enrol", subject_id=meter_id, detail=detail)

    by_operator(work, may=FIELD_WORK)
    typer.echo(f"{serial}: may dial in as {profile}.")


@dlms.command("start-anew")
def dlms_start_anew(
    serial: str, note: Annotated[str, typer.Option(help="What you found at the meter; it is kept.")]
) -> None:
    """Take a meter's registers as they are, after somebody has looked why they went back."""

    async def work(session: AsyncSession, by: str, _rails: Rails, _now: datetime) -> None:
        meter_id = await _meter_id(session, serial)
        await dlms_meters.start_anew(session, meter_id)
        await record(session, operator=by, action="dlms.start-anew", subject_id=meter_id, detail={"note": note})

    by_operator(work, may=FIELD_WORK)
    typer.echo(f"{serial}: its registers are taken as they are at its next contact.")


async def _meter_id(session: AsyncSession, serial: str) -> str:
    meter_id = await session.scalar(select(Meter.id).where(Meter.serial == serial))
    if meter_id is None:
        raise NotFoundError(f"No meter has the serial {serial}.")
    return meter_id


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
