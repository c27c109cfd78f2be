"""Devices that can be pushed to."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from standpipe.households.forgetting import is_present
from standpipe.notifications.models import Delivery, DeliveryStatus, Device
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.platform.units import is_storable

MAX_DEVICES = 20
_MAX_TEXT = 4_096
_MAX_LABEL = 80


@dataclass(frozen=True, slots=True)
class DeviceOrder:
    """An app installation as it describes itself; exactly one push address."""

    installation_id: str
    platform: str
    fcm_token: str | None
    fcm_fid: str | None
    language: str
    time_zone: str
    app_version: str
    label: str = ""
    """Name that the customer gives it; empty leaves what they called it before."""


async def register(session: AsyncSession, *, customer_id: str, order: DeviceOrder, now: datetime) -> Device:
    """Add or refresh a device. A push address that another customer had leaves them: the phone changed hands.

    Raises InvalidInputError for texts that cannot be stored, and past MAX_DEVICES; NotFoundError for a customer who was
    forgotten: an access token outlives them by minutes.
    """
    _check(order)
    if not await is_present(session, customer_id):
        raise NotFoundError("No such customer.")
    # Two sign-ins on one phone at once must not both find its address free.
    address = order.fcm_token or order.fcm_fid
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"push:{address}", 0))))
    await session.execute(
        update(Device)
        .where(
            # Never compared with None: that would match every device without such an address.
            Device.fcm_token == order.fcm_token if order.fcm_token else Device.fcm_fid == order.fcm_fid,
            or_(Device.customer_id != customer_id, Device.installation_id != order.installation_id),
        )
        .values(fcm_token=None, fcm_fid=None, healthy=False)
    )
    values = {
        "platform": order.platform,
        "fcm_token": order.fcm_token,
        "fcm_fid": order.fcm_fid,
        "language": order.language,
        "time_zone": order.time_zone,
        "app_version": order.app_version,
        "healthy": True,
        "last_seen_at": now,
    }
    named = {"label": order.label} if order.label else {}
    device_id = await session.scalar(
        insert(Device)
        .values(id=new_id("dev"), customer_id=customer_id, installation_id=order.installation_id, **values, **named)
        .on_conflict_do_update(index_elements=["customer_id", "installation_id"], set_=values | named)
        .returning(Device.id)
    )
    owned = await session.scalar(select(func.count()).select_from(Device).where(Device.customer_id == customer_id))
    if (owned or 0) > MAX_DEVICES:
        raise InvalidInputError(
            phrase("At most {most} devices; remove one first.", most=MAX_DEVICES), ("installationId",)
        )
    return await session.get_one(Device, device_id, populate_existing=True)


async def devices_of(session: AsyncSession, customer_id: str) -> list[Device]:
    """The customer's devices, those seen last first; there are never many (MAX_DEVICES)."""
    own = select(Device).where(Device.customer_id == customer_id)
    return list(await session.scalars(own.order_by(Device.last_seen_at.desc(), Device.id)))


async def remove(session: AsyncSession, *, customer_id: str, installation_id: str) -> Device | None:
    """Forget a device; None where this customer has no such."""
    device = await session.scalar(
        select(Device).where(Device.customer_id == customer_id, Device.installation_id == installation_id)
    )
    if device is None:
        return None
    await session.execute(
        update(Delivery)
        .where(Delivery.device_id == device.id, Delivery.status == DeliveryStatus.QUEUED)
        .values(status=DeliveryStatus.SUPPRESSED, due_at=None, last_error="device removed", updated_at=func.now())
    )
    # Records lose their device when it goes; the records of one alert to one customer are then alike, and one stays.
    twin = aliased(Delivery)
    alike = and_(
        twin.alert_id == Delivery.alert_id,
        twin.customer_id == Delivery.customer_id,
        twin.channel == Delivery.channel,
        twin.device_id.is_(None),
    )
    await session.execute(delete(Delivery).where(Delivery.device_id == device.id, exists().where(alike)))
    await session.execute(delete(Device).where(Device.id == device.id))
    return device


def _check(order: DeviceOrder) -> None:
    texts = (
        order.installation_id,
        order.fcm_token,
        order.fcm_fid,
        order.language,
        order.time_zone,
        order.app_version,
        order.label,
    )
    if any(text is not None and (not is_storable(text) or len(text) > _MAX_TEXT) for text in texts):
        raise InvalidInputError(phrase("A text is too long, or holds what cannot be stored."), ())
    if len(order.label) > _MAX_LABEL:
        raise InvalidInputError(phrase("A label has at most {most} characters.", most=_MAX_LABEL), ("label",))
    if not order.installation_id:
        raise InvalidInputError(phrase("The installation id is empty."), ("installationId",))
    if bool(order.fcm_token) == bool(order.fcm_fid):
        raise InvalidInputError(
            phrase("Give exactly one FCM token or installation id; web push is not offered yet."), ("push",)
        )
