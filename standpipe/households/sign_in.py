"""Sign-in by phone: a one-time code goes to the number; whoever has it signs in.

Codes are kept as a keyed hash, live ten minutes, work once, and stand five tries. Codes sent and codes tried are
limited by number and by the asker's address, and the texts of a day in all. The answer never tells whether a number is
known. Real time.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import phonenumbers
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.limits import Limit, count_try, private_key
from standpipe.households.models import Customer, SignInCode
from standpipe.platform.addresses import subscriber
from standpipe.platform.errors import InvalidInputError, RateLimitedError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase

CODE_TTL_S = 600
MAX_TRIES = 5
CODE_DIGITS = 6
HOUR_S, DAY_S = 3_600, 86_400
CODES_PER_NUMBER = (Limit(3, CODE_TTL_S), Limit(5, HOUR_S))
TRIES_PER_NUMBER = (Limit(10, CODE_TTL_S), Limit(20, HOUR_S))
TRIES_PER_CODE_SENT = 6
"""Times that an address may try for each code that it may have sent: a code's five tries, and a slip."""
KEEP_CODES = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class CodeLimits:
    """Codes that one address may ask for in an hour, and texts with codes that go out in 24 hours, in all."""

    per_address: int = 10
    per_day: int = 1_000


@dataclass(frozen=True, slots=True)
class Asker:
    """An asker: a number, and the address that the request came from (None: it cannot be known, and is shared)."""

    phone: str
    address: str | None

    def keys(self, secret: str) -> tuple[str, str]:
        """Number and address as they are kept: hashed."""
        return private_key(self.phone, secret), private_key(subscriber(self.address), secret)


def normalise_phone(text: str, countries: list[str]) -> str:
    """A number in E.164. Raises InvalidInputError for one that cannot be, or whose country is not served."""
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        raise InvalidInputError(
            phrase("Write the number with its country code, like +254712345678."), ("phone",)
        ) from None
    if not phonenumbers.is_possible_number(number):
        raise InvalidInputError(phrase("This is not a possible phone number."), ("phone",))
    if countries and phonenumbers.region_code_for_number(number) not in countries:
        raise InvalidInputError(phrase("Sign-in is not offered in this number's country."), ("phone",))
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


async def start(session: AsyncSession, asker: Asker, *, limits: CodeLimits, secret: str) -> str:
    """Make a code for a normalised number; the caller sends it once the transaction has committed.

    Raises RateLimitedError at any of the limits; nothing is counted then, if the caller rolls back.
    """
    number, address = asker.keys(secret)
    # Locks are taken in this order by everybody: address, number, the day.
    await count_try(session, kind="sign-in-code-address", key=address, limits=[Limit(limits.per_address, HOUR_S)])
    await count_try(session, kind="sign-in-code", key=number, limits=CODES_PER_NUMBER)
    await _count_text(session, limits.per_day)
    code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
    session.add(
        SignInCode(
            id=new_id("sic"),
            phone=asker.phone,
            code_hash=_hash(asker.phone, code, secret),
            expires_at=func.now() + timedelta(seconds=CODE_TTL_S),
            address=address,
        )
    )
    await session.flush()
    return code


async def finish(session: AsyncSession, asker: Asker, *, code: str, limits: CodeLimits, secret: str) -> str | None:
    """The customer id for the right code; a first sign-in opens the account. None for a wrong code, and for none open.

    The caller must commit in both cases: a wrong try has to count. Raises RateLimitedError.
    """
    number, address = asker.keys(secret)
    per_address = Limit(limits.per_address * TRIES_PER_CODE_SENT, HOUR_S)
    await count_try(session, kind="sign-in-try-address", key=address, limits=[per_address])
    await count_try(session, kind="sign-in-try", key=number, limits=TRIES_PER_NUMBER)
    row = await session.scalar(
        select(SignInCode)
        .where(
            SignInCode.phone == asker.phone,
            SignInCode.used_at.is_(None),
            SignInCode.expires_at > func.now(),
            SignInCode.tries < MAX_TRIES,
        )
        .order_by(SignInCode.created_at.desc(), SignInCode.id.desc())
        .limit(1)
        .with_for_update()
    )
    if row is None:
        return None
    row.tries += 1
    if not code.isascii() or not hmac.compare_digest(row.code_hash, _hash(asker.phone, code, secret)):
        return None
    mine = (SignInCode.phone == asker.phone, SignInCode.used_at.is_(None))
    await session.execute(update(SignInCode).where(*mine).values(used_at=func.now()))
    await session.execute(
        insert(Customer).values(id=new_id("cus"), phone=asker.phone).on_conflict_do_nothing(index_elements=["phone"])
    )
    return (await session.scalars(select(Customer.id).where(Customer.phone == asker.phone))).one()


async def forget_codes(session: AsyncSession) -> None:
    """Delete the codes that no limit counts any more; the worker does it daily."""
    await session.execute(delete(SignInCode).where(SignInCode.created_at < func.now() - KEEP_CODES))


async def _count_text(session: AsyncSession, per_day: int) -> None:
    """Raises RateLimitedError where the texts of 24 hours are spent: codes cost money, whoever asks for them."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("sign-in-texts", 0))))
    first: datetime | None = await session.scalar(
        select(SignInCode.created_at)
        .where(SignInCode.created_at > func.now() - timedelta(seconds=DAY_S))
        .order_by(SignInCode.created_at.desc())
        .offset(per_day - 1)
        .limit(1)
    )
    if first is not None:
        left_s = (first + timedelta(seconds=DAY_S) - datetime.now(UTC)).total_seconds()
        raise RateLimitedError(max(1, int(left_s) + 1))


def _hash(phone: str, code: str, secret: str) -> str:
    return hmac.new(secret.encode(), f"sign-in:{phone}:{code}".encode(), hashlib.sha256).hexdigest()
