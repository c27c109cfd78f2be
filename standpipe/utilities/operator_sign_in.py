"""Operators' sign-in: name, password and a one-time code (TOTP, RFC 6238), for a token that lives eight hours.

An unknown name, a wrong password and a wrong code cost the same work and get the same answer. Tries are limited by
address, by name and address, and, far wider, by name: a stranger cannot keep an operator out. Real time throughout.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pyotp
from pyotp.exceptions import OTPVerificationError
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.limits import Limit, count_try, private_key
from standpipe.platform.addresses import subscriber
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError
from standpipe.platform.language import phrase
from standpipe.platform.units import is_storable
from standpipe.utilities.models import Operator, OperatorRole, OperatorSession
from standpipe.utilities.operators import end_sessions, hash_key, record
from standpipe.utilities.passwords import check_password, hash_password, rehash_password

TOKEN_PREFIX = "opt_"  # noqa: S105 - how tokens begin.
TOKEN_TTL_S = 8 * 3600
CODE_DIGITS = 6
DRIFT_STEPS = 1
ISSUER = "Standpipe"
ADDRESS_LIMITS = (Limit(10, 600), Limit(40, 3600))
NAME_AND_ADDRESS_LIMITS = (Limit(5, 600), Limit(15, 3600))
NAME_LIMITS = (Limit(60, 3600),)
_MAX_NAME = 80
_WRONG = phrase("The name, the password or the code is wrong.")


class Sealer(Protocol):
    """Seals what is kept; a key ring."""

    def seal(self, key: bytes) -> str:
        """The secret as it is stored."""
        ...

    def open(self, sealed: str) -> bytes:
        """The secret itself."""
        ...


@dataclass(frozen=True, slots=True)
class SignedIn:
    """An operator who has signed in. ``token_hash`` names the session."""

    name: str
    role: OperatorRole
    token_hash: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Known:
    """Credentials to compare with: empty for a name that nobody has."""

    id: str = ""
    password_hash: str | None = None


async def set_password(session: AsyncSession, name: str, password: str) -> None:
    """Give an operator a password; wherever they are signed in ends. Raises InvalidInputError for a weak one."""
    row = await _lock(session, name)
    if name.casefold() in password.casefold():
        raise InvalidInputError(phrase("The password must not hold the name."), ("password",))
    row.password_hash = await hash_password(password)
    await end_sessions(session, row.id)
    await record(session, operator=name, action="operator.password", subject_id=row.id, detail={})


async def begin_totp(session: AsyncSession, name: str, sealer: Sealer) -> str:
    """Make a secret for the operator's authenticator: its ``otpauth`` address, shown once.

    It counts once ``confirm_totp`` has seen a code of it; one from before counts no more, and sessions end.
    """
    row = await _lock(session, name)
    secret = pyotp.random_base32()
    row.totp_sealed, row.totp_step, row.totp_confirmed_at = sealer.seal(secret.encode()), None, None
    await end_sessions(session, row.id)
    await record(session, operator=name, action="operator.totp-begin", subject_id=row.id, detail={})
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=ISSUER)


async def confirm_totp(session: AsyncSession, name: str, code: str, sealer: Sealer) -> None:
    """Let the secret count from now on. Raises InvalidInputError for a wrong code, or where none waits for one."""
    row = await _lock(session, name)
    if row.totp_sealed is None or row.totp_confirmed_at is not None:
        raise InvalidInputError(phrase("There is nothing to confirm; begin with `standpipe operator totp`."), ("code",))
    step = _step_of(sealer.open(row.totp_sealed).decode(), code)
    if step is None:
        raise InvalidInputError(phrase("The code is wrong; is the clock of this phone right?"), ("code",))
    row.totp_step, row.totp_confirmed_at = step, func.now()
    await record(session, operator=name, action="operator.totp-confirm", subject_id=row.id, detail={})


async def sign_in(
    sessions: Sessions, *, name: str, password: str, code: str, address: str | None, sealer: Sealer, secret: str
) -> tuple[str, SignedIn]:
    """A token and whom it stands for. ``secret`` keys the hashes of addresses.

    Raises NotAuthenticatedError, the same for whatever is wrong, and RateLimitedError.
    """
    name = name if is_storable(name) and len(name) <= _MAX_NAME else ""
    address = subscriber(address)
    where = private_key(address, secret)
    async with sessions.begin() as session:
        await count_try(session, kind="operator-address", key=where, limits=ADDRESS_LIMITS)
        both = private_key(f"{name}\n{address}", secret)
        await count_try(session, kind="operator-name-address", key=both, limits=NAME_AND_ADDRESS_LIMITS)
        await count_try(session, kind="operator-name", key=private_key(name, secret), limits=NAME_LIMITS)
        query = select(Operator).where(Operator.name == name, Operator.disabled_at.is_(None))
        row = await session.scalar(query)
        known = _Known() if row is None else _Known(row.id, row.password_hash)
    right = await check_password(known.password_hash, password)
    fresh_hash = await rehash_password(known.password_hash, password) if right and known.password_hash else None
    detail = {"address": where[:16]}
    async with sessions.begin() as session:
        row = await session.scalar(select(Operator).where(Operator.id == known.id).with_for_update())
        step = _proven_step(row, code, sealer)
        # Between the two looks the operator may have been disabled, or have changed the password.
        held = row is not None and row.disabled_at is None and row.password_hash == known.password_hash
        if right and held and row is not None and row.totp_sealed is not None and step is not None:
            row.totp_step, row.password_hash = step, fresh_hash
            # Under the newest of the utility's keys from now on.
            row.totp_sealed = sealer.seal(sealer.open(row.totp_sealed))
            return await _open(session, row, detail)
        await record(session, operator=name if known.id else "?", action="operator.sign-in-failed",
                     subject_id=known.id or "?", detail=detail)  # fmt: skip
    raise NotAuthenticatedError(_WRONG)


async def find_session(session: AsyncSession, token: str) -> SignedIn:
    """Return who a token stands for. Raises NotAuthenticatedError: unknown, ended, or of who is disabled."""
    token_hash = hash_key(token.encode("utf-8", "replace").decode())
    query = (
        select(Operator.name, Operator.role, OperatorSession.expires_at)
        .join(Operator, Operator.id == OperatorSession.operator_id)
        .where(
            OperatorSession.token_hash == token_hash,
            OperatorSession.ended_at.is_(None),
            OperatorSession.expires_at > func.now(),
            Operator.disabled_at.is_(None),
        )
    )
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotAuthenticatedError(phrase("This operator session has ended. Sign in again."))
    name, role, expires_at = found
    return SignedIn(name, OperatorRole(role), token_hash, expires_at)


async def sign_out(session: AsyncSession, token_hash: str) -> None:
    """End a session; again is the same."""
    ended = await session.execute(
        update(OperatorSession)
        .where(OperatorSession.token_hash == token_hash, OperatorSession.ended_at.is_(None))
        .values(ended_at=func.now())
        .returning(OperatorSession.operator_id)
    )
    operator_id = ended.scalar_one_or_none()
    if operator_id is not None:
        row = await session.get_one(Operator, operator_id)
        await record(session, operator=row.name, action="operator.sign-out", subject_id=row.id, detail={})


async def _open(session: AsyncSession, row: Operator, detail: dict[str, str]) -> tuple[str, SignedIn]:
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    expires_at = datetime.now(UTC) + timedelta(seconds=TOKEN_TTL_S)
    session.add(OperatorSession(token_hash=hash_key(token), operator_id=row.id, expires_at=expires_at))
    await record(session, operator=row.name, action="operator.sign-in", subject_id=row.id, detail=detail)
    return token, SignedIn(row.name, OperatorRole(row.role), hash_key(token), expires_at)


async def _lock(session: AsyncSession, name: str) -> Operator:
    row = await session.scalar(select(Operator).where(Operator.name == name).with_for_update())
    if row is None:
        raise InvalidInputError(phrase("There is no operator named {name}.", name=name), ("name",))
    return row


def _proven_step(row: Operator | None, code: str, sealer: Sealer) -> int | None:
    """The time step that the code proves and that was not used before; the same work where there is no secret."""
    confirmed = row is not None and row.totp_sealed is not None and row.totp_confirmed_at is not None
    secret = sealer.open(row.totp_sealed).decode() if row is not None and row.totp_sealed else pyotp.random_base32()
    step = _step_of(secret, code)
    used = -1 if row is None or row.totp_step is None else row.totp_step
    return step if confirmed and step is not None and step > used else None


def _step_of(secret: str, code: str) -> int | None:
    if len(code) != CODE_DIGITS or not (code.isascii() and code.isdecimal()):
        code = "-" * CODE_DIGITS
    try:
        return pyotp.TOTP(secret, digits=CODE_DIGITS).verify_and_get_timecode(code, valid_window=DRIFT_STEPS)
    except OTPVerificationError:
        return None
