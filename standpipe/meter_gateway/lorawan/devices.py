"""LoRaWAN devices: a radio's DevEUI, as its network server tells it, names the meter; nothing in a payload does."""

import re
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import record
from standpipe.meter_gateway.lorawan.tables import DeviceClass, LoraDevice, LoraDownlink
from standpipe.meters import identity
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCredential
from standpipe.platform.errors import InvalidInputError, NotFoundError

_DEV_EUI = re.compile(r"[0-9a-f]{16}")
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


async def bind(
    session: AsyncSession,
    *,
    operator: str,
    serial: str,
    dev_eui: str,
    device_class: DeviceClass,
    region: str,
    application_id: str | None,
) -> None:
    """Say which radio is a meter's, also in place of an earlier one.

    Raises NotFoundError for an unknown meter or one without a prepaid key, InvalidInputError for what is no DevEUI or
    is another meter's.
    """
    dev_eui = re.sub(r"[\s:-]", "", dev_eui).lower()
    if _DEV_EUI.fullmatch(dev_eui) is None:
        raise InvalidInputError("A DevEUI has 16 hexadecimal digits.", ("dev_eui",))
    meter_id = await session.scalar(
        select(Meter.id).join(MeterCredential, MeterCredential.meter_id == Meter.id).where(Meter.serial == serial)
    )
    if meter_id is None:
        raise NotFoundError(f"No meter with the serial {serial} has a prepaid key.")
    if await session.scalar(
        select(LoraDevice.meter_id).where(LoraDevice.dev_eui == dev_eui, LoraDevice.meter_id != meter_id)
    ):
        raise InvalidInputError("This DevEUI is another meter's.", ("dev_eui",))
    values = {
        "dev_eui": dev_eui,
        "device_class": device_class,
        "region": region,
        "application_id": application_id,
        "last_deduplication_id": None,
    }
    await session.execute(
        insert(LoraDevice)
        .values(meter_id=meter_id, **values)
        .on_conflict_do_update(index_elements=["meter_id"], set_=values)
    )
    detail = {"dev_eui": dev_eui, "class": device_class, "application": application_id}
    await record(session, operator=operator, action="lorawan.device", subject_id=meter_id, detail=detail)


async def overview(session: AsyncSession) -> list[list[str]]:
    """For the office, a row a radio: serial, DevEUI, class, region, last uplink, alarms, last downlink, its error."""
    last = (
        select(LoraDownlink)
        .ext(distinct_on(LoraDownlink.meter_id))
        .order_by(LoraDownlink.meter_id, LoraDownlink.id.desc())
        .subquery()
    )
    rows = await session.execute(
        select(Meter.serial, LoraDevice, last.c.state, last.c.last_error, last.c.reason)
        .join(LoraDevice, LoraDevice.meter_id == Meter.id)
        .outerjoin(last, last.c.meter_id == Meter.id)
        .order_by(Meter.serial)
    )
    return [
        [
            serial,
            device.dev_eui,
            device.device_class,
            device.region,
            f"{device.last_uplink_at:%Y-%m-%d %H:%M:%S}" if device.last_uplink_at else "",
            ", ".join(device.alarms),
            state or "",
            error or reason or "",
        ]
        for serial, device, state, error, reason in rows
    ]


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
