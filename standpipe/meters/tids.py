"""Token identifiers: minutes that nobody else has, for one meter, given away under its lock (IEC 62055-41 §6.3.5)."""

from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.keypad_models import MeterKeypad
from standpipe.meters.models import Meter, WalletKind
from standpipe.sts.keys import LAST_TID, is_expired, is_reserved, tid_now

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeypadTids:
    """Terms of a keypad that decide on its identifiers."""

    base_year: int
    key_expiry: int
    last_tid: int


def next_tid(keypad: KeypadTids, meter_id: str, now: datetime) -> int | None:
    """This minute's TID, or the one after the last; None where no minutes are left.

    A payment never fails for want of a TID: its credit then goes by radio alone.
    """
    tid = max(tid_now(now, keypad.base_year), keypad.last_tid + 1)
    if is_reserved(tid):
        tid += 1
    if tid > LAST_TID or is_expired(tid, keypad.key_expiry):
        _log.error("the base date or the key of this meter's tokens has run out", meter_id=meter_id)
        return None
    return tid


async def reserve_tid(session: AsyncSession, meter: Meter, now: datetime) -> int | None:
    """``next_tid`` of a locked meter, given away. None: no keypad, or no minutes left."""
    keypad = await keypad_of(session, meter)
    if keypad is None:
        return None
    tid = next_tid(KeypadTids(keypad.base_year, keypad.key_expiry, keypad.last_tid), meter.id, now)
    if tid is not None:
        keypad.last_tid = tid
        await session.flush()
    return tid


async def tid_mark(session: AsyncSession, meter: Meter) -> int | None:
    """All credit tokens of a locked meter that there can be so far have a TID up to this. None: it has no keypad."""
    keypad = await keypad_of(session, meter)
    return None if keypad is None else keypad.last_tid


async def keypad_of(session: AsyncSession, meter: Meter) -> MeterKeypad | None:
    """A meter's keypad; only meters that hold volume have one."""
    if meter.wallet_kind != WalletKind.VOLUME:
        return None
    found: MeterKeypad | None = await session.scalar(
        select(MeterKeypad).where(MeterKeypad.meter_id == meter.id).execution_options(populate_existing=True)
    )
    return found
