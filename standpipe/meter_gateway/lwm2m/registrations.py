"""LwM2M registrations, kept in the database so that a gateway may die and another may go on.

Each way to a registration brings all that a contact begins with (``Known``), in the one statement that it is. All
instants are real time: a registration's life and a radio's waking hours know nothing of the service clock.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import TextClause, text

from standpipe.engine.unit_of_work import Order, SetWriter, UnitOfWork
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import WalletKind
from standpipe.platform.database import Connection
from standpipe.platform.errors import NotAuthenticatedError, NotFoundError

MAX_TRANSMIT_WAIT_S = 93
"""RFC 7252 §4.8.2: how long a queue-mode client listens after its last exchange."""
_WAIT = timedelta(seconds=MAX_TRANSMIT_WAIT_S)

_KNOWN = """
SELECT r.location, r.meter_id, r.remote, r.queue_mode, r.lifetime_s, r.objects,
    r.awake_until > clock_timestamp() OR NOT r.queue_mode AS awake, r.lwm2m, r.sends, r.updates,
    m.serial, m.currency, m.wallet_kind, c.sealed_prepaid_key,
    k.sealed_key IS NOT NULL OR k.sealed_next_key IS NOT NULL AS may_stay,
    CASE WHEN k.sealed_key IS NOT NULL THEN k.sealed_next_key END AS sealed_next_key, k.next_generation,
    EXISTS (SELECT FROM meter_commands w WHERE w.meter_id = m.id
        AND w.status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')) AS waits,
    EXISTS (SELECT FROM meter_commands w WHERE w.meter_id = m.id AND w.kind = 'TARIFF' AND w.attempts > 0
        AND w.status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')) AS asks_tables
FROM {registrations} r JOIN meters m ON m.id = r.meter_id JOIN meter_credentials c ON c.meter_id = m.id
    LEFT JOIN meter_dtls_keys k ON k.meter_id = m.id
"""
_NEWEST = "WHERE {condition} AND r.expires_at > now() ORDER BY r.awake_until DESC LIMIT 1"
# A meter that has a key of any kind is heard over DTLS alone, and only such a one is heard over DTLS.
_REGISTER = """
WITH allowed AS (
    SELECT c.meter_id FROM meter_credentials c LEFT JOIN meter_dtls_keys k ON k.meter_id = c.meter_id
    WHERE c.transport_identity = :identity AND :has_proven =
        (coalesce(k.sealed_key, k.sealed_next_key, k.sealed_bootstrap_key) IS NOT NULL)),
dropped AS (
    DELETE FROM meter_registrations r USING allowed WHERE r.remote = :remote AND r.meter_id <> allowed.meter_id),
made AS (
    INSERT INTO meter_registrations AS r
        (location, meter_id, remote, queue_mode, lifetime_s, objects, lwm2m, sends, updates, expires_at, awake_until)
    SELECT :location, meter_id, :remote, :queue_mode, :lifetime_s, :objects, :lwm2m, false, 0, now() + :lifetime,
        now() + :wait
    FROM allowed
    ON CONFLICT (meter_id) DO UPDATE SET location = excluded.location, remote = excluded.remote,
        queue_mode = excluded.queue_mode, lifetime_s = excluded.lifetime_s, objects = excluded.objects,
        lwm2m = excluded.lwm2m, sends = false, updates = 0, expires_at = excluded.expires_at,
        awake_until = excluded.awake_until
    RETURNING *)
"""
_UPDATE = """
WITH touched AS (
    UPDATE meter_registrations r SET remote = :remote,
        lifetime_s = coalesce(CAST(:lifetime_s AS bigint), r.lifetime_s),
        objects = coalesce(CAST(:objects AS text), r.objects), updates = r.updates + 1,
        expires_at = now() + make_interval(secs => coalesce(CAST(:lifetime_s AS bigint), r.lifetime_s)),
        awake_until = now() + :wait
    WHERE r.location = :location AND r.expires_at > now() AND (r.meter_id = CAST(:proven AS text)
        OR CAST(:proven AS text) IS NULL AND r.remote NOT LIKE 'dtls://%')
    RETURNING *),
dropped AS (
    DELETE FROM meter_registrations r USING touched t WHERE r.remote = t.remote AND r.location <> t.location)
"""
REGISTER = text(_REGISTER + _KNOWN.format(registrations="made"))
UPDATE = text(_UPDATE + _KNOWN.format(registrations="touched"))
BY_METER = text(_KNOWN.format(registrations="meter_registrations") + _NEWEST.format(condition="r.meter_id = :key"))
BY_REMOTE = text(_KNOWN.format(registrations="meter_registrations") + _NEWEST.format(condition="r.remote = :key"))
DEREGISTER = text("""
DELETE FROM meter_registrations r WHERE r.location = :location AND r.expires_at > now()
    AND (r.meter_id = CAST(:proven AS text) OR CAST(:proven AS text) IS NULL AND r.remote NOT LIKE 'dtls://%')
RETURNING r.meter_id
""")
FELL_ASLEEP = text("UPDATE meter_registrations SET awake_until = now() WHERE meter_id = :meter_id")
KEEP_AWAKE = text("UPDATE meter_registrations SET awake_until = now() + :wait WHERE meter_id = :meter_id")
SENT = text("""
UPDATE meter_registrations r SET remote = s.remote, sends = true, awake_until = now() + :wait
FROM unnest(CAST(:meter_ids AS text[]), CAST(:remotes AS text[])) AS s(meter_id, remote)
WHERE r.meter_id = s.meter_id
""")


@dataclass(frozen=True, slots=True)
class Registration:
    """A meter's present registration; ``remote`` is where it last spoke from, e.g. ``udp://127.0.0.1:40001``.

    ``lwm2m``: the client's version, e.g. ``1.1``; 1.0 knows no Send. ``sends``: it has used Send since it registered.
    """

    location: str
    meter_id: str
    remote: str
    queue_mode: bool
    lifetime_s: int
    objects: str
    awake: bool
    lwm2m: str
    sends: bool
    updates: int


@dataclass(frozen=True, slots=True)
class Known:
    """All that a contact begins with. ``waits``: commands whose end is not known; ``asks_tables``: a price table went
    out among them. ``may_stay``: some key still opens DTLS sessions. ``next_key``: a key on its way to the meter.
    """

    registration: Registration
    identity: MeterIdentity
    waits: bool
    asks_tables: bool
    may_stay: bool
    next_generation: int
    next_key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewRegistration:
    """A meter's wish to register, by the transport's word for it. ``has_proven``: its transport proves who it is."""

    identity: str
    has_proven: bool
    remote: str
    lifetime_s: int
    queue_mode: bool
    objects: str
    lwm2m: str = "1.0"


async def register(conn: Connection, ring: KeyRing, wish: NewRegistration) -> Known:
    """A new registration in place of the meter's earlier one. Its location is unguessable.

    Raises NotAuthenticatedError where nobody has that identity, or it may not be used over this transport.
    """
    fields = {name: getattr(wish, name) for name in NewRegistration.__dataclass_fields__}
    lasts = {"lifetime": timedelta(seconds=wish.lifetime_s), "wait": _WAIT, "location": secrets.token_urlsafe(16)}
    row = (await conn.execute(REGISTER, fields | lasts)).one_or_none()
    if row is None:
        raise NotAuthenticatedError("unknown endpoint, or not over this transport")
    return _known(ring, row)


async def update_registration(
    conn: Connection,
    ring: KeyRing,
    *,
    location: str,
    proven: str | None,
    remote: str,
    lifetime_s: int | None = None,
    objects: str | None = None,
) -> Known:
    """The meter is awake, perhaps at another address. ``proven``: the meter that its transport says it is.

    Raises NotFoundError, also for another meter's location.
    """
    fields = {"location": location, "proven": proven, "remote": remote, "lifetime_s": lifetime_s, "objects": objects}
    row = (await conn.execute(UPDATE, fields | {"wait": _WAIT})).one_or_none()
    if row is None:
        raise NotFoundError("No such registration.")
    return _known(ring, row)


async def deregister(conn: Connection, location: str, proven: str | None) -> str:
    """Forget a registration; returns whose it was. Raises NotFoundError, also for another meter's."""
    meter_id: str | None = await conn.scalar(DEREGISTER, {"location": location, "proven": proven})
    if meter_id is None:
        raise NotFoundError("No such registration.")
    return meter_id


async def by_remote(conn: Connection, ring: KeyRing, remote: str) -> Known:
    """Return the registration that was made from this address. Raises NotFoundError."""
    return await _read(conn, ring, BY_REMOTE, remote)


async def by_meter(conn: Connection, ring: KeyRing, meter_id: str) -> Known:
    """Return this meter's registration. Raises NotFoundError."""
    return await _read(conn, ring, BY_METER, meter_id)


async def keep_awake(conn: Connection, meter_id: str) -> None:
    """An exchange has just ended: the meter listens for MAX_TRANSMIT_WAIT_S more."""
    await conn.execute(KEEP_AWAKE, {"meter_id": meter_id, "wait": _WAIT})


async def fell_asleep(conn: Connection, meter_id: str) -> None:
    """The meter did not answer: no more is sent to it before it speaks again."""
    await conn.execute(FELL_ASLEEP, {"meter_id": meter_id})


async def _note_sent(work: UnitOfWork, rows: Sequence[tuple[str, str]]) -> None:
    newest = dict(rows)
    await work.conn.execute(SENT, {"meter_ids": list(newest), "remotes": list(newest.values()), "wait": _WAIT})


SENDS: SetWriter[tuple[str, str]] = SetWriter("lwm2m sends", Order.ROWS, _note_sent)
"""A meter (id) used Send over an address: it listens there, and needs no asking for its readings."""


async def _read(conn: Connection, ring: KeyRing, statement: TextClause, key: str) -> Known:
    row = (await conn.execute(statement, {"key": key})).one_or_none()
    if row is None:
        raise NotFoundError("No such registration.")
    return _known(ring, row)


def _known(ring: KeyRing, row: Any) -> Known:
    return Known(
        registration=Registration(*row[:10]),
        identity=MeterIdentity(
            row.meter_id, row.serial, row.currency, ring.open(row.sealed_prepaid_key), WalletKind(row.wallet_kind)
        ),
        waits=row.waits,
        asks_tables=row.asks_tables,
        may_stay=bool(row.may_stay),
        next_generation=row.next_generation or 0,
        next_key=None if row.sealed_next_key is None else ring.open(row.sealed_next_key),
    )
