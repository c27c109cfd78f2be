"""Pre-shared keys of DTLS: given out once, sealed at rest, replaced by way of a second one.

A meter has a present key and, while it is being replaced, a next one. Both open a session until the meter has used the
next, which then is the present: whether a key that was written to a meter has arrived shows in nothing else.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meter_gateway.lwm2m.tables import MeterDtlsKeys
from standpipe.meters.keys import KeyRing
from standpipe.meters.models import Meter, MeterCredential
from standpipe.platform.database import Connection
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.notify import COMMANDS, notify

KEY_BYTES = 16
MAX_KEY_BYTES = 32
RESEAL_BATCH = 500
WRITTEN = text("""
UPDATE meter_dtls_keys SET next_written_at = now() WHERE meter_id = :meter_id AND next_generation = :generation
""")
DEREGISTER = text("DELETE FROM meter_registrations WHERE meter_id = :meter_id")


@dataclass(frozen=True, slots=True)
class DtlsCredential:
    """Credential of an identity: the keys that open a session in its name, the likeliest first.

    ``names`` tells the keys apart without holding them.
    """

    meter_id: str
    keys: tuple[bytes, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """An issued key, for a person to take to the meter; shown once."""

    serial: str
    identity: str
    key: bytes = field(repr=False)


async def credential_of(session: AsyncSession, ring: KeyRing, identity: str) -> DtlsCredential:
    """The keys of an identity. Raises NotFoundError where nobody has it, or no key with it."""
    row = await _by_identity(session, identity)
    both = (row.sealed_key, row.sealed_next_key)
    # What the meter has acknowledged it will most likely use.
    sealed = tuple(text for text in (both[::-1] if row.next_written_at else both) if text is not None)
    return DtlsCredential(row.meter_id, tuple(ring.open(text) for text in sealed), sealed)


async def bootstrap_credential_of(session: AsyncSession, ring: KeyRing, identity: str) -> DtlsCredential:
    """Load the credential for the bootstrap server, which has keys of its own. Raises NotFoundError."""
    row = await _by_identity(session, identity)
    if row.sealed_bootstrap_key is None:
        raise NotFoundError("No bootstrap key.")
    return DtlsCredential(row.meter_id, (ring.open(row.sealed_bootstrap_key),), (row.sealed_bootstrap_key,))


async def has_key(session: AsyncSession, meter_id: str) -> bool:
    """Tell whether any key opens a session for this meter."""
    row = await session.get(MeterDtlsKeys, meter_id, populate_existing=True)
    return row is not None and (row.sealed_key is not None or row.sealed_next_key is not None)


async def note_use(session: AsyncSession, meter_id: str, name: str) -> None:
    """A key opened a session; when it was the next one, it is the present one from now on."""
    await session.execute(
        update(MeterDtlsKeys)
        .where(MeterDtlsKeys.meter_id == meter_id, MeterDtlsKeys.sealed_next_key == name)
        .values(sealed_key=name, sealed_next_key=None, next_written_at=None)
    )
    await session.execute(
        update(MeterDtlsKeys)
        .where(MeterDtlsKeys.meter_id == meter_id, MeterDtlsKeys.sealed_key == name)
        .values(used_at=func.now())
    )


async def provision(
    session: AsyncSession, ring: KeyRing, serial: str, *, key: bytes | None = None, bootstrap: bool = False
) -> IssuedKey:
    """Give a meter its first key, or its bootstrap key: ``key`` where the factory has chosen it, else a fresh one.

    Raises NotFoundError for an unknown meter, InvalidInputError where it has one already or the key is too short.
    """
    key = secrets.token_bytes(KEY_BYTES) if key is None else key
    if not KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise InvalidInputError(f"A key has {KEY_BYTES} to {MAX_KEY_BYTES} bytes.")
    credential = await _credential(session, serial)
    row = await _locked(session, credential.meter_id)
    if bootstrap:
        if row.sealed_bootstrap_key is not None:
            raise InvalidInputError(f"{serial} has a bootstrap key already; revoke it first.")
        row.sealed_bootstrap_key = ring.seal(key)
    else:
        if row.sealed_key is not None or row.sealed_next_key is not None:
            raise InvalidInputError(f"{serial} has a key already; rotate or revoke it.")
        row.sealed_key = ring.seal(key)
    return IssuedKey(serial, credential.transport_identity, key)


async def rotate(session: AsyncSession, ring: KeyRing, serial: str) -> int:
    """Make the next key and have the gateway write it to the meter; one that is under way already goes on.

    Returns its generation. Raises NotFoundError for an unknown meter, InvalidInputError where it has no key yet.
    """
    credential = await _credential(session, serial)
    row = await _locked(session, credential.meter_id)
    if row.sealed_key is None:
        raise InvalidInputError(f"{serial} has no key in use that could be rotated.")
    _ensure_next(row, ring)
    await notify(session, COMMANDS, credential.meter_id)
    return row.next_generation


async def key_for_bootstrap(session: AsyncSession, ring: KeyRing, meter_id: str) -> IssuedKey:
    """The key that a bootstrap hands over: the next one, until a session was opened with it."""
    row = await _locked(session, meter_id)
    key = ring.open(_ensure_next(row, ring))
    found = (
        await session.execute(
            select(Meter.serial, MeterCredential.transport_identity)
            .join(MeterCredential, MeterCredential.meter_id == Meter.id)
            .where(Meter.id == meter_id)
        )
    ).one()
    return IssuedKey(found.serial, found.transport_identity, key)


async def mark_bootstrapped(session: AsyncSession, meter_id: str) -> None:
    """The meter has taken what the bootstrap server wrote."""
    await session.execute(
        update(MeterDtlsKeys)
        .where(MeterDtlsKeys.meter_id == meter_id)
        .values(bootstrapped_at=func.now(), next_written_at=func.now())
    )


async def mark_written(conn: Connection, meter_id: str, generation: int) -> None:
    """The meter acknowledged the next key. It is not proven before it opens a session."""
    await conn.execute(WRITTEN, {"meter_id": meter_id, "generation": generation})


async def revoke(session: AsyncSession, serial: str) -> None:
    """No key of this meter opens a session any more, and its registration ends. Raises NotFoundError."""
    credential = await _credential(session, serial)
    row = await _locked(session, credential.meter_id)
    row.sealed_key = row.sealed_next_key = row.sealed_bootstrap_key = row.next_written_at = None
    await session.execute(DEREGISTER, {"meter_id": credential.meter_id})
    await notify(session, COMMANDS, credential.meter_id)


async def describe(session: AsyncSession, serial: str) -> MeterDtlsKeys | None:
    """List a meter's keys and when they were used; the keys stay sealed. Raises NotFoundError."""
    credential = await _credential(session, serial)
    return await session.get(MeterDtlsKeys, credential.meter_id)


async def reseal(session: AsyncSession, ring: KeyRing, after_meter_id: str) -> Sequence[str]:
    """Seal the next RESEAL_BATCH meters' keys of every kind anew, under the newest secret; their ids, in order."""
    credentials = (
        await session.scalars(
            select(MeterCredential)
            .where(MeterCredential.meter_id > after_meter_id)
            .order_by(MeterCredential.meter_id)
            .limit(RESEAL_BATCH)
            .with_for_update()
        )
    ).all()
    for credential in credentials:
        credential.sealed_prepaid_key = ring.reseal(credential.sealed_prepaid_key)
    ids = [credential.meter_id for credential in credentials]
    rows = await session.scalars(select(MeterDtlsKeys).where(MeterDtlsKeys.meter_id.in_(ids)).with_for_update())
    for row in rows:
        for column in ("sealed_key", "sealed_next_key", "sealed_bootstrap_key"):
            if (sealed := getattr(row, column)) is not None:
                setattr(row, column, ring.reseal(sealed))
    return ids


def _ensure_next(row: MeterDtlsKeys, ring: KeyRing) -> str:
    if row.sealed_next_key is None:
        row.sealed_next_key = ring.seal(secrets.token_bytes(KEY_BYTES))
        row.next_generation += 1
        row.next_written_at = None
    return row.sealed_next_key


async def _by_identity(session: AsyncSession, identity: str) -> MeterDtlsKeys:
    row = await session.scalar(
        select(MeterDtlsKeys)
        .join(MeterCredential, MeterCredential.meter_id == MeterDtlsKeys.meter_id)
        .where(MeterCredential.transport_identity == identity)
    )
    if row is None:
        raise NotFoundError("No keys for this identity.")
    return row


async def _credential(session: AsyncSession, serial: str) -> MeterCredential:
    credential = await session.scalar(
        select(MeterCredential).join(Meter, Meter.id == MeterCredential.meter_id).where(Meter.serial == serial)
    )
    if credential is None:
        raise NotFoundError(f"No meter has the serial {serial}.")
    return credential


async def _locked(session: AsyncSession, meter_id: str) -> MeterDtlsKeys:
    await session.execute(insert(MeterDtlsKeys).values(meter_id=meter_id).on_conflict_do_nothing())
    return await session.get_one(MeterDtlsKeys, meter_id, with_for_update=True, populate_existing=True)
