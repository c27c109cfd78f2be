"""Commands to an LwM2M meter: command frames, objects read at once, its clock, its price table."""

from dataclasses import replace
from decimal import Decimal

import structlog

from standpipe.meter_gateway.lwm2m import objects
from standpipe.meter_gateway.lwm2m.client_memory import ClientMemory
from standpipe.meter_gateway.lwm2m.peer import OCTET_STREAM, TEXT, MeterPeer, MeterRefusedError
from standpipe.meter_gateway.lwm2m.read_objects import read_objects
from standpipe.meter_gateway.lwm2m.registrations import Known
from standpipe.meter_gateway.lwm2m.senml import Record
from standpipe.meter_gateway.lwm2m.water import Observations
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meter_gateway.prepaid_tables import TableFrame, TablesHeldFrame, id_text
from standpipe.meter_gateway.translation import KINDS, command_frame_of
from standpipe.meters.delivery_state import OutgoingCommand
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.models import CommandKind
from standpipe.meters.price_tables import MeterTable
from standpipe.meters.reports import Diagnostics, HeldTables
from standpipe.platform.clock import Clock
from standpipe.platform.errors import InvalidInputError

CLOCK_PATH = "/3/0/13"
_DEVICE, _SIGNAL_PATH = "/3/0", "/4/0/2"
_TABLE, _TABLES_HELD, _UPTIME, _RESETS = 7, 8, 9, 10
"""Resources of the prepaid object."""
_MAX_ERROR = 62
_MAX_FIRMWARE = 64
_log = structlog.get_logger(__name__)


async def carry(
    peer: MeterPeer, known: Known, memory: ClientMemory, command: OutgoingCommand, object_id: int, clock: Clock
) -> Observations:
    """Carry a command out as far as the radio can; returns what the meter answered beside its status report.

    Raises MeterAsleepError, MeterRefusedError.
    """
    identity = known.identity
    if command.kind in KINDS:
        frame = command_frame_of(command).to_bytes(identity.prepaid_key, identity.serial)
        await peer.write_command(object_id, frame)
        return Observations()
    if command.kind is CommandKind.READ_NOW:
        return await read_objects(peer, known.registration, memory, clock.now(), all_of_them=True)
    if command.kind is CommandKind.CLOCK:
        await peer.write(CLOCK_PATH, str(int(clock.now().timestamp())).encode(), TEXT)
        return Observations()
    if command.kind is CommandKind.DIAGNOSTICS:
        return await _diagnose(peer, memory, command.sequence, object_id)
    try:
        table = MeterTable.from_body(command.body).to_bytes()
    except (ValueError, InvalidInputError) as error:
        raise MeterRefusedError("4.00", str(error)) from error
    frame = TableFrame(command.sequence, command.currency, table).to_bytes(identity.prepaid_key, identity.serial)
    await peer.write(f"/{object_id}/0/{_TABLE}", frame, OCTET_STREAM)
    return await read_tables(peer, identity, object_id)


async def read_tables(peer: MeterPeer, identity: MeterIdentity, object_id: int) -> Observations:
    """Read the price tables that the meter says to hold; nothing where it does not say. Raises MeterAsleepError."""
    try:
        raw = await peer.read_opaque(f"/{object_id}/0/{_TABLES_HELD}")
        held = TablesHeldFrame.from_bytes(raw, identity.prepaid_key, identity.serial)
    except (ParsingError, MeterRefusedError) as error:
        _log.warning("price tables not readable", meter_id=identity.meter_id, reason=str(error))
        return Observations()
    return Observations(tables=HeldTables(id_text(held.in_force), id_text(held.waiting), held.report_counter))


async def _diagnose(peer: MeterPeer, memory: ClientMemory, sequence: int, object_id: int) -> Observations:
    """The device and connectivity objects, and what our own adds. Raises MeterRefusedError where all is refused."""
    records, refusal = await _records(peer, memory, _DEVICE)
    signal, _ = await _records(peer, memory, _SIGNAL_PATH)
    told = {record.name: record.value for record in (*records, *signal)}
    codes = [value for name, value in told.items() if name.startswith(f"{_DEVICE}/11")]
    errors = [int(code) for code in codes if isinstance(code, Decimal) and 0 <= code <= _MAX_ERROR]
    firmware = told.get(f"{_DEVICE}/3")
    battery = _whole(told.get(f"{_DEVICE}/9"))
    found = Diagnostics(
        answers=sequence,
        battery_percent=battery if battery is not None and 0 <= battery <= 100 else None,  # noqa: PLR2004 - percent.
        signal_dbm=_whole(told.get(_SIGNAL_PATH)),
        uptime_s=await _number(peer, f"/{object_id}/0/{_UPTIME}"),
        resets=await _number(peer, f"/{object_id}/0/{_RESETS}"),
        # Code 0 says that there is no error (OMA registry, object 3, resource 11).
        error_bits=sum({1 << code for code in errors if code}) if codes else None,
        firmware=firmware[:_MAX_FIRMWARE] if isinstance(firmware, str) and firmware.isprintable() else None,
    )
    if found.is_empty:
        raise refusal or MeterRefusedError("4.04", "the meter tells nothing of itself")
    return Observations(battery_percent=found.battery_percent, diagnostics=found)


async def _records(
    peer: MeterPeer, memory: ClientMemory, path: str
) -> tuple[tuple[Record, ...], MeterRefusedError | None]:
    try:
        payload, content_format = await peer.read_object(path, memory)
        found = objects.decode(payload, content_format, path)
    except MeterRefusedError as error:
        return (), error
    except ParsingError as error:
        _log.warning("object not readable", path=path, reason=str(error))
        return (), None
    return tuple(replace(record, name="/" + record.name.strip("/")) for record in found), None


async def _number(peer: MeterPeer, path: str) -> int | None:
    try:
        return await peer.read_number(path)
    except (ParsingError, MeterRefusedError):
        return None


def _whole(value: object) -> int | None:
    fits = isinstance(value, Decimal) and value == value.to_integral_value() and abs(value) < 2**31
    return int(value) if fits and isinstance(value, Decimal) else None
