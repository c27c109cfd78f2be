"""Sign-in by phone: a one-time code goes to the number; whoever has it gets a token.

Codes are kept as a keyed hash, live ten minutes, work once, and stand five tries. Three codes per number in ten
minutes are the most. The answer never tells whether a number is known.
"""

import hashlib
import hmac
import secrets
from datetime import timedelta

import phonenumbers
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Customer, SignInCode
from standpipe.errors import InvalidInputError, NotAuthenticatedError, RateLimitedError
from standpipe.ids import new_id

CODE_TTL_S = 600
MAX_TRIES = 5
MAX_CODES = 3
CODE_DIGITS = 6


def normalise_phone(text: str, countries: list[str]) -> str:
    """A number in E.164. Raises InvalidInputError for one that cannot be, or whose country is not served."""
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        raise InvalidInputError("Write the number with its country code, like +254712345678.", ("phone",)) from None
    if not phonenumbers.is_possible_number(number):
        raise InvalidInputError("This is not a possible phone number.", ("phone",))
    if countries and phonenumbers.region_code_for_number(number) not in countries:
        raise InvalidInputError("Sign-in is not offered in this number's country.", ("phone",))
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


async def start(session: AsyncSession, *, phone: str, secret: str) -> str:
    """Make a code for a normalised number; the caller sends it once the transaction has committed.

    Raises RateLimitedError after MAX_CODES within CODE_TTL_S.
    """
    # One lock per number: two requests at once must not both count the same two earlier codes.
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"sign-in:{phone}", 0))))
    recent = await session.scalar(
        select(func.count())
        .select_from(SignInCode)
        .where(SignInCode.phone == phone, SignInCode.created_at > func.now() - timedelta(seconds=CODE_TTL_S))
    )
    if (recent or 0) >= MAX_CODES:
        raise RateLimitedError(CODE_TTL_S)
    code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
    session.add(
        SignInCode(
            id=new_id("sic"),
            phone=phone,
            code_hash=_hash(phone, code, secret),
            expires_at=func.now() + timedelta(seconds=CODE_TTL_S),
        )
    )
    return code


async def finish(session: AsyncSession, *, phone: str, code: str, secret: str) -> str | None:
    """The customer id for the right code, None for a wrong one; a first sign-in opens the account.

    The caller must commit in both cases: a wrong try has to count.
    Raises NotAuthenticatedError where no code is open (expired, used, or out of tries).
    """
    row = await session.scalar(
        select(SignInCode)
        .where(
            SignInCode.phone == phone,
            SignInCode.used_at.is_(None),
            SignInCode.expires_at > func.now(),
            SignInCode.tries < MAX_TRIES,
        )
        .order_by(SignInCode.created_at.desc(), SignInCode.id.desc())
        .limit(1)
        .with_for_update()
    )
    if row is None:
        raise NotAuthenticatedError("The code is wrong or has expired. Ask for a new one.")
    row.tries += 1
    if not code.isascii() or not hmac.compare_digest(row.code_hash, _hash(phone, code, secret)):
        return None
    await session.execute(
        update(SignInCode).where(SignInCode.phone == phone, SignInCode.used_at.is_(None)).values(used_at=func.now())
    )
    await session.execute(
        insert(Customer).values(id=new_id("cus"), phone=phone).on_conflict_do_nothing(index_elements=["phone"])
    )
    return (await session.scalars(select(Customer.id).where(Customer.phone == phone))).one()


def _hash(phone: str, code: str, secret: str) -> str:
    return hmac.new(secret.encode(), f"sign-in:{phone}:{code}".encode(), hashlib.sha256).hexdigest()
