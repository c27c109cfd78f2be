"""Credit that the radio has not delivered in its time is offered as a token: from then on it may be typed.

The token's TID was reserved with the credit, and every total that goes out by radio says which TIDs are in it. So the
meter takes the water once, whichever way it comes first (decision 21).
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.commands import lock_meter
from standpipe.meters.keypad_models import MeterKeypad
from standpipe.meters.keypads import terms_of
from standpipe.meters.models import CreditGrant
from standpipe.meters.tids import keypad_of
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.ids import new_id
from standpipe.platform.notify import LIVE, WORK, notify
from standpipe.sts.amounts import MAX_EXACT_UNITS, ML_PER_UNIT
from standpipe.vending.models import KeypadToken, Purpose

QUEUE = "keypad_tokens"


async def offer_due(sessions: Sessions, clock: Clock, after: timedelta, *, limit: int = 50) -> int:
    """Offer what has been on its way for longer than ``after``; returns how many tokens were asked for."""
    async with sessions() as session:
        due = (
            await session.execute(
                select(CreditGrant.credit_key, CreditGrant.meter_id)
                .where(*_to_offer(), CreditGrant.granted_at < clock.now() - after)
                .order_by(CreditGrant.granted_at)
                .limit(limit)
            )
        ).all()
    offered = 0
    for credit_key, meter_id in due:
        async with sessions.begin() as session:
            offered += await offer(session, meter_id, credit_key, clock)
    return offered


async def offer(session: AsyncSession, meter_id: str, credit_key: str, clock: Clock) -> bool:
    """Ask for the token of one step of a meter's credit; False where it is not needed, or was asked for before."""
    meter = await lock_meter(session, meter_id)
    keypad = await keypad_of(session, meter)
    grant = await session.scalar(
        select(CreditGrant)
        .where(CreditGrant.credit_key == credit_key, *_to_offer())
        .execution_options(populate_existing=True)
    )
    if grant is None or keypad is None:
        return False
    grant.offered_at = clock.now()
    session.add(
        KeypadToken(
            id=new_id("tok"),
            meter_id=meter_id,
            purpose=Purpose.CREDIT,
            credit_key=credit_key,
            tid=grant.tid,
            volume_ml=grant.amount - grant.revoked,
            terms=described(keypad),
            requested_at=clock.now(),
        )
    )
    await session.flush()
    await notify(session, WORK, QUEUE)
    await notify(session, LIVE, meter_id)
    return True


def described(keypad: MeterKeypad, *, key_revision: int | None = None) -> dict[str, Any]:
    """The terms of a keypad's key as a row keeps them; ``key_revision``: of another than its present one."""
    terms = terms_of(keypad, key_revision=key_revision)
    return {name: getattr(terms, name) for name in terms.__dataclass_fields__}


def _to_offer() -> tuple[Any, ...]:
    left_ml = CreditGrant.amount - CreditGrant.revoked
    return (
        CreditGrant.tid.is_not(None),
        CreditGrant.confirmed_at.is_(None),
        CreditGrant.offered_at.is_(None),
        left_ml > 0,
        # A token counts in 0.1 m³, and rounds up beyond 1,638.3 m³; what it cannot say exactly goes by radio alone.
        func.mod(left_ml, ML_PER_UNIT) == 0,
        left_ml <= MAX_EXACT_UNITS * ML_PER_UNIT,
    )
