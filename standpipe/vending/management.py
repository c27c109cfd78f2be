"""Tokens that an operator asks for: clear the credit, clear a tamper alarm, change the key. Each leaves its trace."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.operators import record
from standpipe.db.notify import WORK, notify
from standpipe.errors import InvalidInputError
from standpipe.ids import new_id
from standpipe.meters.keypads import meter_by_serial, require_keypad
from standpipe.meters.tids import reserve_tid
from standpipe.vending.models import KeypadToken, Purpose
from standpipe.vending.offers import QUEUE, described


async def request_management(
    session: AsyncSession,
    *,
    operator: str,
    serial: str,
    purpose: Purpose,
    now: datetime,
    key_revision: int | None = None,
) -> str:
    """Ask for a management token; its id. ``key_revision`` is the one that a KEY_CHANGE leads to.

    Raises NotFoundError, and InvalidInputError for a meter without a keypad, a revision that is none, and a new key
    while another is on its way.
    """
    meter = await meter_by_serial(session, serial)
    keypad = await require_keypad(session, meter)
    new_terms = None
    if purpose is Purpose.KEY_CHANGE:
        if key_revision is None or key_revision == keypad.key_revision:
            raise InvalidInputError(f"Name the revision of the new key, another than {keypad.key_revision}.")
        if keypad.next_key_revision not in (None, key_revision):
            raise InvalidInputError(f"Revision {keypad.next_key_revision} is on its way to this meter already.")
        new_terms = described(keypad, key_revision=key_revision)
        keypad.next_key_revision = key_revision
    token = KeypadToken(
        id=new_id("tok"),
        meter_id=meter.id,
        purpose=purpose,
        tid=None if purpose is Purpose.KEY_CHANGE else await reserve_tid(session, meter, now),
        terms=described(keypad),
        new_terms=new_terms,
        requested_at=now,
        operator=operator,
    )
    session.add(token)
    detail = {"serial": serial, "purpose": purpose, "token_id": token.id, "key_revision": key_revision}
    await record(session, operator=operator, action="token.request", subject_id=meter.id, detail=detail)
    await notify(session, WORK, QUEUE)
    return token.id


async def key_changed(session: AsyncSession, *, operator: str, serial: str) -> int:
    """The meter has taken its new key: tokens are made under it from now on. Returns its revision.

    Raises NotFoundError, and InvalidInputError where none is on its way.
    """
    meter = await meter_by_serial(session, serial)
    keypad = await require_keypad(session, meter)
    if keypad.next_key_revision is None:
        raise InvalidInputError("No new key is on its way to this meter.")
    keypad.key_revision, keypad.next_key_revision = keypad.next_key_revision, None
    detail = {"serial": serial, "key_revision": keypad.key_revision}
    await record(session, operator=operator, action="token.key-changed", subject_id=meter.id, detail=detail)
    return keypad.key_revision


async def tokens_of(session: AsyncSession, serial: str) -> Sequence[KeypadToken]:
    """All tokens of a meter, newest first; to read them again is to reprint them. Raises NotFoundError."""
    meter = await meter_by_serial(session, serial)
    rows = await session.scalars(
        select(KeypadToken).where(KeypadToken.meter_id == meter.id).order_by(KeypadToken.id.desc())
    )
    return rows.all()
