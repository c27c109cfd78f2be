"""LoRaWAN devices: a radio's DevEUI, as its network server tells it, names the meter; nothing in a payload does."""

from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.errors import NotFoundError
from standpipe.meters import identity
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.keys import KeyRing
from standpipe.meters.lora_models import DeviceClass, LoraDevice

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoraIdentity:
    """A meter and its radio."""

    meter: MeterIdentity
    dev_eui: str
    device_class: DeviceClass


async def by_dev_eui(session: AsyncSession, keys: KeyRing, dev_eui: str, application_id: str) -> LoraIdentity:
    """The meter of a radio that speaks through this application. Raises NotFoundError, also for another's device."""
    known = LoraDevice.application_id.is_(None) | (LoraDevice.application_id == application_id)
    return await _read(session, keys, (LoraDevice.dev_eui == dev_eui) & known)


async def by_meter_id(session: AsyncSession, keys: KeyRing, meter_id: str) -> LoraIdentity:
    """The same, for a meter that we call. Raises NotFoundError for one without a LoRa radio."""
    return await _read(session, keys, LoraDevice.meter_id == meter_id)


async def is_repeated(session: AsyncSession, meter_id: str, deduplication_id: str, heard_at: datetime) -> bool:
    """Note an uplink of a locked meter; True for the one heard last, posted again."""
    device = await session.get_one(LoraDevice, meter_id, populate_existing=True)
    if deduplication_id and device.last_deduplication_id == deduplication_id:
        return True
    device.last_deduplication_id, device.last_uplink_at = deduplication_id or None, heard_at
    return False


async def note_alarms(session: AsyncSession, meter_id: str, alarms: list[str]) -> None:
    """Keep what a locked meter's newest statement complains of."""
    device = await session.get_one(LoraDevice, meter_id)
    if device.alarms != alarms:
        _log.warning("meter's alarms changed", meter_id=meter_id, alarms=alarms)
        device.alarms = alarms


async def _read(session: AsyncSession, keys: KeyRing, condition: ColumnElement[bool]) -> LoraIdentity:
    device = await session.scalar(select(LoraDevice).where(condition))
    if device is None:
        raise NotFoundError("No such LoRaWAN device.")
    meter = await identity.by_meter_id(session, keys, device.meter_id)
    return LoraIdentity(meter, device.dev_eui, DeviceClass(device.device_class))
