"""Keypads of VOLUME meters: enrolled, and the key that their tokens are made under."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.access import locked_by_serial
from standpipe.meters.commands import enqueue
from standpipe.meters.keypad_models import MeterKeypad
from standpipe.meters.models import CommandKind, CreditGrant, Meter, WalletKind
from standpipe.meters.tids import keypad_of, reserve_tid
from standpipe.platform.errors import InvalidInputError
from standpipe.sts.keys import LAST_TID, KeyTerms, is_expired, tid_now
from standpipe.utilities.operators import record


def terms_of(keypad: MeterKeypad, *, key_revision: int | None = None) -> KeyTerms:
    """Return the terms of a keypad's key; ``key_revision``: of another than its present one."""
    return KeyTerms(
        pan=keypad.pan,
        supply_group=keypad.supply_group,
        tariff_index=keypad.tariff_index,
        key_revision=keypad.key_revision if key_revision is None else key_revision,
        key_type=keypad.key_type,
        base_year=keypad.base_year,
        key_expiry=keypad.key_expiry,
    )


async def require_keypad(session: AsyncSession, meter: Meter) -> MeterKeypad:
    """A locked meter's keypad. Raises InvalidInputError where it has none."""
    keypad = await keypad_of(session, meter)
    if keypad is None:
        raise InvalidInputError(f"{meter.serial} has no keypad; `standpipe token enrol` says what it has.")
    return keypad


async def enrol(session: AsyncSession, *, operator: str, serial: str, terms: KeyTerms, now: datetime) -> None:
    """Say that a meter has a keypad, and under which terms its tokens are made. Credit granted from now on has a TID.

    What is on its way is sent anew, as such a meter takes it. Raises NotFoundError, and InvalidInputError for a meter
    that counts in money, for one that has a keypad under other terms, for a PAN that is another meter's, and for a
    base date or key that has run out.
    """
    meter = await locked_by_serial(session, serial)
    if meter.wallet_kind != WalletKind.VOLUME:
        raise InvalidInputError("A token carries water: only a meter whose wallet holds VOLUME takes one.")
    other = await session.scalar(select(MeterKeypad.meter_id).where(MeterKeypad.pan == terms.pan))
    if other not in (None, meter.id):
        raise InvalidInputError(f"Meter PAN {terms.pan} is another meter's.")
    known = await keypad_of(session, meter)
    if known is not None:
        if terms_of(known) != terms:
            raise InvalidInputError(
                f"{serial} has a keypad under other terms; a new key is `standpipe token key-change`."
            )
        return
    _require_usable(terms, now)
    fields = {name: getattr(terms, name) for name in terms.__dataclass_fields__}
    session.add(MeterKeypad(meter_id=meter.id, enrolled_at=now, **fields))
    await session.flush()
    await _take_over(session, meter, now)
    await record(
        session, operator=operator, action="token.enrol", subject_id=meter.id, detail={"serial": serial} | fields
    )


def _require_usable(terms: KeyTerms, now: datetime) -> None:
    tid = tid_now(now, terms.base_year)
    if tid >= LAST_TID:
        raise InvalidInputError(f"TIDs since {terms.base_year} have run out.")
    if is_expired(tid, terms.key_expiry):
        raise InvalidInputError(f"A key with expiry number {terms.key_expiry} has expired.")


async def _take_over(session: AsyncSession, meter: Meter, now: datetime) -> None:
    """Credit granted before, and not confirmed yet, gets its TIDs, and its total goes out with a mark."""
    waiting = await session.scalars(
        select(CreditGrant)
        .where(CreditGrant.meter_id == meter.id, CreditGrant.confirmed_at.is_(None))
        .order_by(CreditGrant.total_after)
        .execution_options(populate_existing=True)
    )
    grants = waiting.all()
    for grant in grants:
        grant.tid = await reserve_tid(session, meter, now)
    if grants:
        await enqueue(session, meter, kind=CommandKind.CREDIT, value=meter.credit_granted)
