"""Meters that speak DLMS: their keys, the counters that must outlive every process, and what their registers held.

An invocation counter used twice under one key gives the key away, and a meter refuses a lower one. So ours are taken
in blocks, committed before the first of a block is used: a gateway that dies loses the rest of its block, and no more.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.unit_of_work import Order, SetWriter, UnitOfWork
from standpipe.meter_gateway.dlms.tables import DlmsMeter
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import CommandKind, Meter, WalletKind
from standpipe.platform.database import Engine
from standpipe.platform.errors import InvalidInputError, NotFoundError

MAX_COUNTER = 0xFFFF_FFFF
_KEY_BYTES, _TITLE_BYTES = 16, 8
BEGIN_READING = text("""
WITH numbered AS (
    UPDATE dlms_meters d SET report_number = greatest(d.report_number,
        coalesce((SELECT s.report_counter FROM meter_states s WHERE s.meter_id = d.meter_id), 0)) + 1
    WHERE d.meter_id = :meter_id
    RETURNING d.*)
SELECT d.report_number, d.base_units, d.paid_units, coalesce(d.profile_read_to, m.installed_at) AS profile_read_to,
    coalesce(s.last_sequence, 0) AS last_sequence, coalesce(s.credit_accepted, 0) AS credit_accepted,
    coalesce((SELECT json_agg(json_build_array(c.sequence, c.kind, c.value, c.body) ORDER BY c.sequence)
        FROM meter_commands c
        WHERE c.meter_id = d.meter_id AND c.status IN ('SENT', 'ACKNOWLEDGED', 'UNKNOWN')), '[]')::text AS on_the_air
FROM numbered d JOIN meters m ON m.id = d.meter_id LEFT JOIN meter_states s ON s.meter_id = d.meter_id
""")
KEEP_HEARD = text("""
UPDATE dlms_meters d SET meter_counter = greatest(d.meter_counter, h.counter),
    base_units = coalesce(h.base_units, d.base_units), paid_units = greatest(d.paid_units, h.paid_units),
    profile_read_to = greatest(d.profile_read_to, h.profile_read_to)
FROM unnest(CAST(:meter_id AS text[]), CAST(:counter AS bigint[]), CAST(:base_units AS bigint[]),
    CAST(:paid_units AS bigint[]), CAST(:profile_read_to AS timestamptz[]))
    AS h(meter_id, counter, base_units, paid_units, profile_read_to)
WHERE d.meter_id = h.meter_id
""")


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
    """State that a status report is read against: its number, the last one's, registers' base, what is on the air."""

    report_number: int
    last_sequence: int
    credit_accepted: int
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


@dataclass(frozen=True, slots=True)
class Heard:
    """News of a meter. ``counter``: the highest invocation counter of its own that was believed.

    ``base_units`` and ``paid_units``: what the registers held at a status report; ``profile_read_to``: up to where the
    load profile was taken in. None: as before.
    """

    meter_id: str
    counter: int | None = None
    base_units: int | None = None
    paid_units: int | None = None
    profile_read_to: datetime | None = None


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


async def begin_reading(statements: Engine, meter_id: str) -> Kept:
    """Take the number of a status report that is about to be asked for, and bring what it is read against.

    It is taken before the meter is asked, so that of two reports the one asked for later has the higher number.
    ``statements``: each of its statements is a transaction of its own. Raises NotFoundError.
    """
    async with statements.connect() as conn:
        row = (await conn.execute(BEGIN_READING, {"meter_id": meter_id})).one_or_none()
    if row is None:
        raise NotFoundError("No such meter.")
    on_the_air = (OnTheAir(sequence, CommandKind(kind), *rest) for sequence, kind, *rest in json.loads(row.on_the_air))
    return Kept(
        report_number=row.report_number,
        last_sequence=row.last_sequence,
        credit_accepted=row.credit_accepted,
        base_units=row.base_units,
        paid_units=row.paid_units,
        profile_read_to=row.profile_read_to,
        on_the_air=tuple(on_the_air),
    )


async def _keep_heard(work: UnitOfWork, rows: Sequence[Heard]) -> None:
    fields = ("meter_id", "counter", "base_units", "paid_units", "profile_read_to")
    # Of several of one meter, the newest of each: UPDATE … FROM would take any of them.
    newest: dict[str, Heard] = {}
    for row in rows:
        known = newest.get(row.meter_id, row)
        kept = {name: getattr(row, name) if getattr(row, name) is not None else getattr(known, name) for name in fields}
        newest[row.meter_id] = Heard(**kept | {"counter": max(row.counter or -1, known.counter or -1)})
    columns = {name: [getattr(row, name) for row in newest.values()] for name in fields}
    await work.conn.execute(KEEP_HEARD, columns)


HEARD: SetWriter[Heard] = SetWriter("dlms heard", Order.ROWS, _keep_heard)
"""Kept in the transaction that takes the report in (M5)."""


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
