"""Forgetting in this room: devices, preferences, what a customer read. Pushes stop."""

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.notifications.devices import remove
from standpipe.notifications.models import AlertRead, Device, NotificationPreference


async def forget(session: AsyncSession, customer_id: str) -> None:
    """Forget a customer; again, nothing more happens. Deliveries stay as records of a pseudonym."""
    installations = await session.scalars(select(Device.installation_id).where(Device.customer_id == customer_id))
    for installation_id in installations.all():
        await remove(session, customer_id=customer_id, installation_id=installation_id)
    await session.execute(delete(NotificationPreference).where(NotificationPreference.customer_id == customer_id))
    await session.execute(delete(AlertRead).where(AlertRead.customer_id == customer_id))
