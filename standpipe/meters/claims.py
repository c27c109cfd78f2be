"""Claim codes kept: issued by operators, used once, revoked, and ended when the people at a meter change.

A serial stands on the meter's front for everybody to read, so it proves nothing. A code goes to those who live there:
on paper at the door, or from the office. Expiry is in real time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.limits import Limit, count_try
from standpipe.meters.access import account_number_of, locked_by_serial
from standpipe.meters.claim_codes import hash_code, new_code, show_code
from standpipe.meters.claim_models import ClaimCode
from standpipe.meters.commands import lock_meter
from standpipe.meters.models import Meter
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.utilities.operators import record

MAX_DAYS = 3_650
MAX_LISTED = 500
PER_ACCOUNT = (Limit(10, 3_600), Limit(40, 86_400))
PER_METER = (Limit(20, 3_600), Limit(60, 86_400))
"""Above what one account may try: one stranger cannot keep a meter from those who live there."""
_OPEN = (
    ClaimCode.used_at.is_(None),
    ClaimCode.revoked_at.is_(None),
    or_(ClaimCode.expires_at.is_(None), ClaimCode.expires_at > func.now()),
)


@dataclass(frozen=True, slots=True)
class IssuedClaim:
    """A new code, in groups of four; it is shown once."""

    id: str
    serial: str
    code: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A code as the office sees it: never its digits. ``state``: open, used, revoked or expired."""

    id: str
    serial: str
    state: str
    issued_by: str
    created_at: datetime
    expires_at: datetime | None


async def issue(session: AsyncSession, *, operator: str, serial: str, expires_in_days: int | None) -> IssuedClaim:
    """A code for one meter; those issued before keep working. None: it does not expire.

    Raises NotFoundError, and InvalidInputError for a meter out of service or a number of days outside 1 to MAX_DAYS.
    """
    if expires_in_days is not None and not 1 <= expires_in_days <= MAX_DAYS:
        raise InvalidInputError(phrase("A code lives 1 to {most} days.", most=MAX_DAYS), ("expiresInDays",))
    meter = await locked_by_serial(session, serial)
    if meter.closed_at is not None:
        raise InvalidInputError(phrase("The meter {serial} is out of service.", serial=meter.serial), ("serial",))
    code, claim_id = new_code(), new_id("clm")
    expires_at = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    session.add(
        ClaimCode(id=claim_id, meter_id=meter.id, code_hash=hash_code(code), issued_by=operator, expires_at=expires_at)
    )
    detail = {"serial": meter.serial, "claim": claim_id, "expires_in_days": expires_in_days}
    await record(session, operator=operator, action="claim.issue", subject_id=meter.id, detail=detail)
    return IssuedClaim(claim_id, meter.serial, show_code(code), expires_at)


async def revoke(session: AsyncSession, *, operator: str, claim_id: str) -> None:
    """End one code. Raises NotFoundError where there is none of this id that is open."""
    meter_id = await session.scalar(
        update(ClaimCode)
        .where(ClaimCode.id == claim_id, *_OPEN)
        .values(revoked_at=func.now())
        .returning(ClaimCode.meter_id)
    )
    if meter_id is None:
        raise NotFoundError(f"There is no open code {claim_id}.")
    await record(session, operator=operator, action="claim.revoke", subject_id=meter_id, detail={"claim": claim_id})


async def revoke_all(session: AsyncSession, *, operator: str, serial: str) -> int:
    """End every open code of a meter; returns how many. Raises NotFoundError for the meter."""
    meter = await locked_by_serial(session, serial)
    ended = await end_codes(session, meter.id)
    detail = {"serial": meter.serial, "codes": ended}
    await record(session, operator=operator, action="claim.revoke", subject_id=meter.id, detail=detail)
    return ended


async def end_codes(session: AsyncSession, meter_id: str) -> int:
    """End a meter's open codes, for the people there change; returns how many."""
    ended = await session.scalars(
        update(ClaimCode)
        .where(ClaimCode.meter_id == meter_id, *_OPEN)
        .values(revoked_at=func.now())
        .returning(ClaimCode.id)
    )
    return len(ended.all())


async def list_claims(session: AsyncSession, serial: str | None) -> Sequence[ClaimRow]:
    """The newest MAX_LISTED codes, of one meter or of all, newest first."""
    query = select(ClaimCode, Meter.serial, func.now()).join(Meter, Meter.id == ClaimCode.meter_id)
    if serial is not None:
        query = query.where(Meter.account_number == account_number_of(serial))
    rows = await session.execute(query.order_by(ClaimCode.id.desc()).limit(MAX_LISTED))
    return [
        ClaimRow(row.id, serial_, _state(row, now), row.issued_by, row.created_at, row.expires_at)
        for row, serial_, now in rows
    ]


async def count_claim(session: AsyncSession, *, customer_id: str, serial: str) -> None:
    """Count a try to claim, for the account and for the meter number, be there such a meter or not.

    In a transaction of its own, before the claim: a try that fails must count. Raises RateLimitedError.
    """
    await count_try(session, kind="claim", key=customer_id, limits=PER_ACCOUNT)
    # A hash, for a stranger may have typed anything of any length.
    number = hashlib.sha256(account_number_of(serial).encode()).hexdigest()
    await count_try(session, kind="claim-meter", key=number, limits=PER_METER)


async def use_code(session: AsyncSession, *, customer_id: str, serial: str, code: str) -> Meter:
    """The meter, locked, that this code and this serial name together; the code is used up.

    Raises InvalidInputError, the same for an unknown serial and for a code that is wrong, used, revoked or expired.
    """
    wrong = InvalidInputError(
        phrase("This meter number and this code do not go together. Please check both."), ("code",)
    )
    of_both = (ClaimCode.code_hash == hash_code(code), Meter.account_number == account_number_of(serial))
    meter_id = await session.scalar(
        select(ClaimCode.meter_id).join(Meter, Meter.id == ClaimCode.meter_id).where(*of_both, *_OPEN)
    )
    if meter_id is None:
        raise wrong
    meter = await lock_meter(session, meter_id)
    used = await session.scalar(
        update(ClaimCode)
        .where(ClaimCode.code_hash == hash_code(code), ClaimCode.meter_id == meter.id, *_OPEN)
        .values(used_at=func.now(), used_by=customer_id)
        .returning(ClaimCode.id)
    )
    if used is None:
        # Somebody used it, or the people changed, while we waited for the meter.
        raise wrong
    return meter


def _state(row: ClaimCode, now: datetime) -> str:
    if row.used_at is not None:
        return "used"
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "open"
