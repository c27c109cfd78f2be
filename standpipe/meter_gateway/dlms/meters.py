"""Meters that speak DLMS: their keys, the counters that must outlive every process, and what their registers held.

An invocation counter used twice under one key gives the key away, and a meter refuses a lower one. So ours are taken
in blocks, committed before the first of a block is used: a gateway that dies loses the rest of its block, and no more.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meter_gateway.dlms.tables import DlmsMeter
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CommandKind, CommandStatus, Meter, MeterCommand, MeterState, WalletKind
from standpipe.platform.errors import InvalidInputError, NotFoundError

MAX_COUNTER = 0xFFFF_FFFF
_KEY_BYTES, _TITLE_BYTES = 16, 8
_OUT = (CommandStatus.SENT, CommandStatus.ACKNOWLEDGED, CommandStatus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class DlmsKeys:
    """Global unicast encryption and authentication key (HLS), or the password (LLS)."""

    encryption: bytes = field(default=b"", repr=False)
    authentication: bytes = field(default=b"", repr=False)
    password: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class DlmsIdentity:
    """A meter that may dial in."""

    meter_id: str
    serial: str
    currency: str
    profile: str
    system_title: bytes
    keys: DlmsKeys
    meter_counter: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What a contact starts from: the numbers of the last statement, the registers' base, and what is on the air."""

    last_sequence: int
    credit_accepted_minor: int
    base_units: int | None
    paid_units: int | None
    profile_read_to: datetime
    on_the_air: tuple["OnTheAir", ...]


@dataclass(frozen=True, slots=True)
class OnTheAir:
    """A command that went out and of whose effect the meter has not told yet."""

    sequence: int
    kind: CommandKind
    value: int
    body: dict[str, Any] | None = None


async def by_title(session: AsyncSession, keys: KeyRing, title: bytes) -> DlmsIdentity:
    """The meter with this system title. Raises NotFoundError."""
    return await _identity(session, keys, DlmsMeter.system_title == title.hex())


async def by_device_name(session: AsyncSession, keys: KeyRing, name: str) -> DlmsIdentity:
    """The meter with this logical device name. Raises NotFoundError."""
    return await _identity(session, keys, DlmsMeter.device_name == name)


async def enrol(
    session: AsyncSession,
    ring: KeyRing,
    *,
    meter_id: str,
    profile: str,
    system_title: bytes,
    device_name: str,
    keys: DlmsKeys,
    takes_frames: bool = False,
) -> None:
    """Let a meter dial in, or give it new keys. ``takes_frames``: its profile carries our own frames, in any unit.

    With a new key the meter's counter may start anew. Ours goes on rising, for an old key may come back, and starts
    anew only where half of its range is used up. Raises InvalidInputError for a title or key of the wrong length, for a
    title or name that another meter has, and for a meter that holds volume behind DLMS's own objects.
    """
    wallet_kind = await session.scalar(select(Meter.wallet_kind).where(Meter.id == meter_id))
    if wallet_kind == WalletKind.VOLUME and not takes_frames:
        raise InvalidInputError("DLMS's own credit objects hold money; this meter holds volume.", ("meter_id",))
    if len(system_title) != _TITLE_BYTES:
        raise InvalidInputError("A system title has 8 bytes.", ("system_title",))
    if {len(keys.encryption), len(keys.authentication)} not in ({_KEY_BYTES}, {0}):
        raise InvalidInputError("Keys of suite 0 have 16 bytes, and there are two or none.", ("keys",))
    sealed = ring.seal(
        json.dumps([keys.encryption.hex(), keys.authentication.hex(), keys.password.hex()]).encode("ascii")
    )
    known = await session.get(DlmsMeter, meter_id, with_for_update=True, populate_existing=True)
    values: dict[str, str | int] = {
        "profile": profile,
        "system_title": system_title.hex(),
        "device_name": device_name,
        "sealed_keys": sealed,
    }
    taken = (DlmsMeter.system_title == system_title.hex()) | (DlmsMeter.device_name == device_name)
    if await session.scalar(select(DlmsMeter.meter_id).where(taken, DlmsMeter.meter_id != meter_id)):
        raise InvalidInputError("Another meter has this system title or device name.", ("system_title",))
    if known is not None and _open(ring, known.sealed_keys).encryption != keys.encryption:
        values["meter_counter"] = -1
        if known.client_counter > MAX_COUNTER // 2:
            values["client_counter"] = 0
    await session.execute(
        insert(DlmsMeter)
        .values(meter_id=meter_id, **values)
        .on_conflict_do_update(index_elements=["meter_id"], set_=values)
    )


async def start_anew(session: AsyncSession, meter_id: str) -> None:
    """A person has looked at a meter whose registers went back: take them as they are from the next contact on."""
    await session.execute(
        update(DlmsMeter).where(DlmsMeter.meter_id == meter_id).values(base_units=None, paid_units=None)
    )


async def reserve_counters(session: AsyncSession, meter_id: str, count: int) -> int:
    """The first of ``count`` invocation counters that nobody else will ever get; commit before using it.

    Raises InvalidInputError where the key has no more of them: it must be changed then.
    """
    end = await session.scalar(
        update(DlmsMeter)
        .where(DlmsMeter.meter_id == meter_id, DlmsMeter.client_counter + count <= MAX_COUNTER + 1)
        .values(client_counter=DlmsMeter.client_counter + count)
        .returning(DlmsMeter.client_counter)
    )
    if end is None:
        raise InvalidInputError("This meter's key has used up its invocation counters.")
    return int(end) - count


async def next_report_number(session: AsyncSession, meter_id: str) -> int:
    """The number of a statement that is about to be asked for.

    It is taken before the meter is asked, so that of two statements the one asked for later has the higher number.
    """
    stated = select(func.coalesce(func.max(MeterState.report_counter), 0)).where(MeterState.meter_id == meter_id)
    number = await session.scalar(
        update(DlmsMeter)
        .where(DlmsMeter.meter_id == meter_id)
        .values(report_number=func.greatest(DlmsMeter.report_number, stated.scalar_subquery()) + 1)
        .returning(DlmsMeter.report_number)
    )
    if number is None:
        raise NotFoundError("No such meter.")
    return int(number)


async def kept(session: AsyncSession, meter_id: str) -> Kept:
    """What a contact starts from. Raises NotFoundError."""
    row = (
        await session.execute(
            select(Meter.installed_at, DlmsMeter, MeterState.last_sequence, MeterState.credit_accepted_minor)
            .join(DlmsMeter, DlmsMeter.meter_id == Meter.id)
            .outerjoin(MeterState, MeterState.meter_id == Meter.id)
            .where(Meter.id == meter_id)
            .execution_options(populate_existing=True)
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("No such meter.")
    installed_at, dlms, last_sequence, accepted_minor = row
    return Kept(
        last_sequence=last_sequence or 0,
        credit_accepted_minor=accepted_minor or 0,
        base_units=dlms.base_units,
        paid_units=dlms.paid_units,
        profile_read_to=dlms.profile_read_to or installed_at,
        on_the_air=await _on_the_air(session, meter_id),
    )


async def keep_registers(session: AsyncSession, meter_id: str, *, base_units: int, paid_units: int) -> None:
    """What the registers held at a statement that was taken in."""
    await session.execute(
        update(DlmsMeter)
        .where(DlmsMeter.meter_id == meter_id)
        .values(base_units=base_units, paid_units=func.greatest(DlmsMeter.paid_units, paid_units))
    )


async def keep_profile_read(session: AsyncSession, meter_id: str, read_to: datetime) -> None:
    """Up to where the load profile has been taken in."""
    await session.execute(
        update(DlmsMeter)
        .where(DlmsMeter.meter_id == meter_id)
        .values(profile_read_to=func.greatest(DlmsMeter.profile_read_to, read_to))
    )


async def keep_counter(session: AsyncSession, meter_id: str, counter: int) -> None:
    """The highest invocation counter of the meter's that was believed, kept with what came under it (M5)."""
    await session.execute(
        update(DlmsMeter)
        .where(DlmsMeter.meter_id == meter_id, DlmsMeter.meter_counter < counter)
        .values(meter_counter=counter)
    )


async def _on_the_air(session: AsyncSession, meter_id: str) -> tuple[OnTheAir, ...]:
    rows = await session.scalars(
        select(MeterCommand)
        .where(MeterCommand.meter_id == meter_id, MeterCommand.status.in_(_OUT))
        .order_by(MeterCommand.sequence)
        .execution_options(populate_existing=True)
    )
    return tuple(OnTheAir(row.sequence, CommandKind(row.kind), row.value, row.body) for row in rows)


async def _identity(session: AsyncSession, keys: KeyRing, condition: ColumnElement[bool]) -> DlmsIdentity:
    row = (
        await session.execute(
            select(Meter, DlmsMeter)
            .join(DlmsMeter, DlmsMeter.meter_id == Meter.id)
            .where(condition)
            .execution_options(populate_existing=True)
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("No meter has this identity.")
    meter, dlms = row
    title = bytes.fromhex(dlms.system_title)
    return DlmsIdentity(
        meter.id, meter.serial, meter.currency, dlms.profile, title, _open(keys, dlms.sealed_keys), dlms.meter_counter
    )


def _open(keys: KeyRing, sealed: str) -> DlmsKeys:
    return DlmsKeys(*(bytes.fromhex(part) for part in json.loads(keys.open(sealed))))
