"""LwM2M registrations, kept in the database so that a gateway may die and another may go on.

All instants are real time: a registration's life and a radio's waking hours know nothing of the town's clock.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meter_gateway.lwm2m.tables import MeterRegistration
from standpipe.platform.errors import NotFoundError

MAX_TRANSMIT_WAIT_S = 93
"""RFC 7252 §4.8.2: how long a queue-mode client listens after its last exchange."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A meter's present registration; ``remote`` is where it last spoke from, e.g. ``udp://127.0.0.1:40001``."""

    location: str
    meter_id: str
    remote: str
    queue_mode: bool
    lifetime_s: int
    objects: str
    awake: bool
    lwm2m: str
    """The client's version, e.g. ``1.1``; 1.0 knows no Send."""
    sends: bool
    """It has used Send since it registered."""
    updates: int


async def register(
    session: AsyncSession,
    *,
    meter_id: str,
    remote: str,
    lifetime_s: int,
    queue_mode: bool,
    objects: str,
    lwm2m: str = "1.0",
) -> Registration:
    """A new registration in place of the meter's earlier one. Its location is unguessable."""
    await session.execute(
        delete(MeterRegistration).where(MeterRegistration.remote == remote, MeterRegistration.meter_id != meter_id)
    )
    values = {
        "location": secrets.token_urlsafe(16),
        "remote": remote,
        "lifetime_s": lifetime_s,
        "queue_mode": queue_mode,
        "objects": objects,
        "lwm2m": lwm2m,
        "sends": False,
        "updates": 0,
        "expires_at": func.now() + timedelta(seconds=lifetime_s),
        "awake_until": func.now() + timedelta(seconds=MAX_TRANSMIT_WAIT_S),
    }
    await session.execute(
        insert(MeterRegistration)
        .values(meter_id=meter_id, **values)
        .on_conflict_do_update(index_elements=["meter_id"], set_=values)
    )
    return await by_meter(session, meter_id)


async def update_registration(
    session: AsyncSession, *, location: str, remote: str, lifetime_s: int | None, objects: str | None
) -> Registration:
    """An Update: the meter is alive, perhaps at another address. Raises NotFoundError for one unknown or expired."""
    known = await _read(session, MeterRegistration.location == location)
    lifetime_s = lifetime_s or known.lifetime_s
    await session.execute(
        delete(MeterRegistration).where(MeterRegistration.remote == remote, MeterRegistration.location != location)
    )
    await session.execute(
        update(MeterRegistration)
        .where(MeterRegistration.location == location)
        .values(
            remote=remote,
            lifetime_s=lifetime_s,
            objects=objects or known.objects,
            updates=MeterRegistration.updates + 1,
            expires_at=func.now() + timedelta(seconds=lifetime_s),
            awake_until=func.now() + timedelta(seconds=MAX_TRANSMIT_WAIT_S),
        )
    )
    return await _read(session, MeterRegistration.location == location)


async def deregister(session: AsyncSession, location: str) -> None:
    """Forget a registration; unknown ones are forgotten already."""
    await session.execute(delete(MeterRegistration).where(MeterRegistration.location == location))


async def deregister_meter(session: AsyncSession, meter_id: str) -> None:
    """The same by the meter: its key was taken away."""
    await session.execute(delete(MeterRegistration).where(MeterRegistration.meter_id == meter_id))


async def by_remote(session: AsyncSession, remote: str) -> Registration:
    """Who registered from this address. Raises NotFoundError."""
    return await _read(session, MeterRegistration.remote == remote)


async def by_meter(session: AsyncSession, meter_id: str) -> Registration:
    """Where this meter registered from. Raises NotFoundError."""
    return await _read(session, MeterRegistration.meter_id == meter_id)


async def by_location(session: AsyncSession, location: str) -> Registration:
    """Whose registration this is. Raises NotFoundError."""
    return await _read(session, MeterRegistration.location == location)


async def keep_awake(session: AsyncSession, meter_id: str) -> None:
    """An exchange has just ended: the meter listens for MAX_TRANSMIT_WAIT_S more."""
    await session.execute(
        update(MeterRegistration)
        .where(MeterRegistration.meter_id == meter_id)
        .values(awake_until=func.now() + timedelta(seconds=MAX_TRANSMIT_WAIT_S))
    )


async def sent(session: AsyncSession, meter_id: str, remote: str) -> None:
    """The meter used Send, over ``remote``: it listens there, and needs no asking for its readings."""
    await session.execute(
        update(MeterRegistration)
        .where(MeterRegistration.meter_id == meter_id)
        .values(remote=remote, sends=True, awake_until=func.now() + timedelta(seconds=MAX_TRANSMIT_WAIT_S))
    )


async def fell_asleep(session: AsyncSession, meter_id: str) -> None:
    """The meter did not answer: no more is sent to it before it speaks again."""
    await session.execute(
        update(MeterRegistration).where(MeterRegistration.meter_id == meter_id).values(awake_until=func.now())
    )


async def _read(session: AsyncSession, condition: ColumnElement[bool]) -> Registration:
    row = (
        await session.execute(
            select(MeterRegistration, MeterRegistration.awake_until > func.clock_timestamp())
            .where(condition, MeterRegistration.expires_at > func.now())
            .order_by(MeterRegistration.awake_until.desc())
            .limit(1)
            .execution_options(populate_existing=True)
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("No such registration.")
    found, awake = row
    return Registration(
        location=found.location,
        meter_id=found.meter_id,
        remote=found.remote,
        queue_mode=found.queue_mode,
        lifetime_s=found.lifetime_s,
        objects=found.objects,
        awake=bool(awake) or not found.queue_mode,
        lwm2m=found.lwm2m,
        sends=found.sends,
        updates=found.updates,
    )
