"""Diagnostics and the price table of a DLMS meter: asked for, written, and recognised when read back."""

from datetime import UTC, datetime
from typing import Any

from standpipe.meter_gateway.delivery import CommandRefusedError
from standpipe.meter_gateway.dlms.apdu import Attribute
from standpipe.meter_gateway.dlms.axdr import Data, Tag
from standpipe.meter_gateway.dlms.client import AccessRefusedError, DlmsClient
from standpipe.meter_gateway.dlms.profiles.profile import MeterProfile
from standpipe.meter_gateway.dlms.tariff import held_by, send_tariff
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.meters.price_tables import MeterTable
from standpipe.meters.reports import Diagnostics, HeldTables
from standpipe.platform.errors import InvalidInputError
from standpipe.tariffs.pricing import Block, PriceTable

_CELL_INFO = 6
_SIGNAL_QUALITY = 2
_NO_SIGNAL = 99
_MAX_TEXT = 64
_MAX_NUMBER = 2**32


async def diagnose(
    client: DlmsClient, profile: MeterProfile, sequence: int, battery_percent: int | None
) -> Diagnostics:
    """Return what the profile says that this model can tell.

    Raises CommandRefusedError where that is nothing, NoAnswerError.
    """
    objects = profile.diagnostics
    found = Diagnostics(answers=sequence, battery_percent=battery_percent)
    if objects is not None:
        found = Diagnostics(
            answers=sequence,
            battery_percent=battery_percent,
            signal_dbm=await _signal(client, objects.signal),
            uptime_s=await _number(client, objects.uptime_s),
            resets=await _number(client, objects.resets),
            error_bits=await _number(client, objects.errors),
            firmware=await _text(client, objects.firmware),
        )
    if found.is_empty:
        raise CommandRefusedError(f"{profile.name} tells nothing of itself")
    return found


async def send_table(client: DlmsClient, profile: MeterProfile, currency: str, body: dict[str, Any] | None) -> None:
    """Write a command's table. Raises CommandRefusedError, NoAnswerError."""
    table, active_from = _table_of(body)
    await send_tariff(client, profile, currency, table, active_from)


async def tables_held(
    client: DlmsClient, profile: MeterProfile, currency: str, body: dict[str, Any] | None
) -> HeldTables:
    """Tell if the command's table is in force or waits in the meter: class 113 has no ids, so it is compared whole.

    Raises AccessRefusedError, ParsingError, NoAnswerError.
    """
    try:
        table, active_from = _table_of(body)
        in_force, waits = await held_by(client, profile, currency, table, active_from)
    except CommandRefusedError:
        return HeldTables("", "")
    name = str((body or {}).get("id", ""))
    return HeldTables(name if in_force else "", name if waits else "")


def _table_of(body: dict[str, Any] | None) -> tuple[PriceTable, datetime]:
    try:
        table = MeterTable.from_body(body)
        blocks = tuple(Block(up_to_ml, price) for up_to_ml, price in table.blocks)
        return PriceTable(blocks), datetime.fromtimestamp(table.active_from_s, UTC)
    except (ValueError, InvalidInputError) as error:
        raise CommandRefusedError(str(error)) from error


async def _get(client: DlmsClient, attribute: Attribute) -> Data | None:
    try:
        return await client.get(attribute)
    except (AccessRefusedError, ParsingError):
        return None


async def _number(client: DlmsClient, obis: str | None) -> int | None:
    data = None if obis is None else await _get(client, Attribute(1, obis, 2))
    try:
        return data.integer if data is not None and 0 <= data.integer < _MAX_NUMBER else None
    except ParsingError:
        return None


async def _text(client: DlmsClient, obis: str | None) -> str | None:
    data = None if obis is None else await _get(client, Attribute(1, obis, 2))
    try:
        text = data.octets.decode("utf-8", "replace") if data is not None else ""
    except ParsingError:
        return None
    return text[:_MAX_TEXT] if text and text.isprintable() else None


async def _signal(client: DlmsClient, obis: str | None) -> int | None:
    """Class 47's signal quality: 0 is −113 dBm or less, in steps of 2 dB (3GPP TS 27.007, AT+CSQ); 99: unknown."""
    data = None if obis is None else await _get(client, Attribute(47, obis, _CELL_INFO))
    if data is None or data.tag is not Tag.STRUCTURE or len(data.items) <= _SIGNAL_QUALITY:
        return None
    try:
        quality = data.items[_SIGNAL_QUALITY].integer
    except ParsingError:
        return None
    return 2 * quality - 113 if 0 <= quality < _NO_SIGNAL else None
