"""LoRaWAN devices: a radio's DevEUI, as its network server tells it, names the meter; nothing in a payload does."""

import re
from dataclasses import dataclass

import structlog
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meter_gateway.lorawan.tables import DeviceClass, LoraDevice, LoraDownlink
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCredential, WalletKind
from standpipe.platform.database import Connection
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.notify import COMMANDS, notify
from standpipe.utilities.operators import record

_DEV_EUI = re.compile(r"[0-9a-f]{16}")
_log = structlog.get_logger(__name__)


BY_DEV_EUI = text("""
SELECT m.id AS meter_id, m.serial, m.currency, m.wallet_kind, c.sealed_prepaid_key, d.dev_eui, d.device_class
FROM lora_devices d JOIN meters m ON m.id = d.meter_id JOIN meter_credentials c ON c.meter_id = m.id
WHERE d.dev_eui = :dev_eui AND (d.application_id IS NULL OR d.application_id = :application_id)
""")


@dataclass(frozen=True, slots=True)
class LoraIdentity:
    """A meter and its radio."""

    meter: MeterIdentity
    dev_eui: str
    device_class: DeviceClass


async def by_dev_eui(conn: Connection, keys: KeyRing, dev_eui: str, application_id: str) -> LoraIdentity:
    """The meter of a radio that speaks through this application. Raises NotFoundError, also for another's device."""
    row = (await conn.execute(BY_DEV_EUI, {"dev_eui": dev_eui, "application_id": application_id})).one_or_none()
    if row is None:
        raise NotFoundError("No such LoRaWAN device.")
    key = keys.open(row.sealed_prepaid_key)
    meter = MeterIdentity(row.meter_id, row.serial, row.currency, key, WalletKind(row.wallet_kind))
    return LoraIdentity(meter, row.dev_eui, DeviceClass(row.device_class))


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
    # A gateway may remember whose radio this was.
    await notify(session, COMMANDS, meter_id)
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
