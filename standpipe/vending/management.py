"""Tokens that an operator asks for: clear the credit, clear a tamper alarm, change the key. Each leaves its trace."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, null, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.access import locked_by_serial
from standpipe.meters.commands import lock_meter
from standpipe.meters.keypads import require_keypad
from standpipe.meters.models import CreditGrant
from standpipe.meters.tids import reserve_tid
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.notify import WORK, notify
from standpipe.utilities.operators import record
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
    meter = await locked_by_serial(session, serial)
    keypad = await require_keypad(session, meter)
    new_terms = None
    if purpose is Purpose.KEY_CHANGE:
        if key_revision is None or key_revision == keypad.key_revision:
            raise InvalidInputError(f"Name the revision of the new key, another than {keypad.key_revision}.")
        if keypad.next_key_revision is not None:
            await _drop_unmade_change(session, meter.id, keypad.next_key_revision)
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

    Credit that is offered and not there yet has its token made anew; the TID stays, so that it counts once.

    Raises NotFoundError, and InvalidInputError where none is on its way.
    """
    meter = await locked_by_serial(session, serial)
    keypad = await require_keypad(session, meter)
    if keypad.next_key_revision is None:
        raise InvalidInputError("No new key is on its way to this meter.")
    keypad.key_revision, keypad.next_key_revision = keypad.next_key_revision, None
    await _ask_anew(session, meter.id, described(keypad))
    detail = {"serial": serial, "key_revision": keypad.key_revision}
    await record(session, operator=operator, action="token.key-changed", subject_id=meter.id, detail=detail)
    return keypad.key_revision


async def tokens_of(session: AsyncSession, serial: str) -> Sequence[KeypadToken]:
    """All tokens of a meter, newest first; to read them again is to reprint them. Raises NotFoundError."""
    meter = await locked_by_serial(session, serial)
    rows = await session.scalars(
        select(KeypadToken).where(KeypadToken.meter_id == meter.id).order_by(KeypadToken.id.desc())
    )
    return rows.all()


async def try_again(session: AsyncSession, *, operator: str, token_id: str) -> None:
    """Ask for a token anew that could not be had. Raises NotFoundError, and InvalidInputError for any other."""
    token = await _failed(session, token_id)
    token.due_at, token.dead_at, token.attempts = func.now(), None, 0
    await record(
        session, operator=operator, action="token.retry", subject_id=token.meter_id, detail={"token": token_id}
    )
    await notify(session, WORK, QUEUE)


async def withdraw(session: AsyncSession, *, operator: str, token_id: str, note: str) -> None:
    """Nobody has the digits of a token that could not be had: its credit goes by radio alone, and can be given back.

    Raises NotFoundError, and InvalidInputError for any other token, or without a note.
    """
    if not note.strip():
        raise InvalidInputError("Say how you know that nobody has its digits; it is kept.", ("note",))
    known = await session.get(KeypadToken, token_id)
    if known is not None:
        # The meter first, as everywhere (lock order: ledger/posting.py).
        await lock_meter(session, known.meter_id)
    token = await _failed(session, token_id)
    if token.credit_key is not None:
        left = update(CreditGrant).where(CreditGrant.credit_key == token.credit_key)
        await session.execute(left.values(offered_at=None, tid=None))
    detail = {"token": token_id, "credit_key": token.credit_key, "note": note}
    token.credit_key = token.dead_at = None
    token.last_error = f"withdrawn by {operator}"
    await record(session, operator=operator, action="token.withdraw", subject_id=token.meter_id, detail=detail)


async def _failed(session: AsyncSession, token_id: str) -> KeypadToken:
    token = await session.get(KeypadToken, token_id, with_for_update=True, populate_existing=True)
    if token is None:
        raise NotFoundError(f"There is no token {token_id}.")
    if token.dead_at is None or token.digits:
        raise InvalidInputError("Only a token that could not be had is asked for again, or withdrawn.")
    return token


async def _drop_unmade_change(session: AsyncSession, meter_id: str, key_revision: int) -> None:
    """A change that nobody can have typed makes room for another. Raises InvalidInputError for one that was made."""
    changes = await session.scalars(
        select(KeypadToken)
        .where(KeypadToken.meter_id == meter_id, KeypadToken.purpose == Purpose.KEY_CHANGE)
        .order_by(KeypadToken.id.desc())
        .limit(1)
        .with_for_update()
    )
    pending = changes.one()
    if pending.digits:
        raise InvalidInputError(f"Revision {key_revision} is on its way to this meter already.")
    pending.due_at = pending.dead_at = None
    pending.last_error = "another revision was asked for instead"


async def _ask_anew(session: AsyncSession, meter_id: str, terms: dict[str, Any]) -> None:
    waiting = await session.scalars(
        select(KeypadToken)
        .join(CreditGrant, CreditGrant.credit_key == KeypadToken.credit_key)
        .where(KeypadToken.meter_id == meter_id, CreditGrant.confirmed_at.is_(None))
        .with_for_update(of=KeypadToken)
    )
    for token in waiting.all():
        token.terms, token.digits, token.issued_at = terms, null(), None
        token.due_at, token.dead_at, token.attempts, token.last_error = func.now(), None, 0, None
    await session.flush()
    await notify(session, WORK, QUEUE)
