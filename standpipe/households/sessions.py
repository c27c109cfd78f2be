"""Sessions: what a sign-in begins, what refresh tokens carry on, and what signing out ends. Real time.

A session is a family of refresh tokens. Each works once, and gives the next one; one that comes again after its
successor has been used ends the session. A token is *used up* only when something that came out of its successor shows
itself, so that an answer lost on the way locks nobody out (docs/decisions/0022-sessions.md).
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.households.models import Customer, CustomerSession, RefreshToken
from standpipe.households.tokens import AccessToken
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.platform.notify import LIVE, notify

REFRESH_PREFIX = "rft_"
TOKEN_BYTES = 32
REPLAY_S = 20
"""Seconds after a token was used up in which a straggler (another tab, an answer overtaken) may still bring it."""
KEEP_ENDED = timedelta(days=30)
MAX_LABEL = 60
MAX_LISTED = 50


class SessionKind(StrEnum):
    """Keepers of tokens: an app, or a browser in cookies that scripts cannot read."""

    APP = "APP"
    WEB = "WEB"


class EndReason(StrEnum):
    """Reasons for which a session ended."""

    SIGNED_OUT = "SIGNED_OUT"
    SIGNED_OUT_EVERYWHERE = "SIGNED_OUT_EVERYWHERE"
    REUSED = "REUSED"
    DELETED = "DELETED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Time that a session may last unused, and at most."""

    idle: timedelta
    absolute: timedelta


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """By kind of session: a browser may stand in a shop, a phone lies in a pocket."""

    app: Lifetime
    web: Lifetime

    def of(self, kind: str) -> Lifetime:
        """The lifetime of this kind."""
        return self.web if kind == SessionKind.WEB else self.app


@dataclass(frozen=True, slots=True)
class Granted:
    """A refresh token to hand out. ``replaces`` is the hash of the one that was given up for it."""

    session_id: str
    customer_id: str
    refresh_token: str
    expires_at: datetime
    replaces: str | None

    @property
    def expires_in_s(self) -> int:
        """Seconds that the refresh token has left."""
        return max(0, int((self.expires_at - datetime.now(UTC)).total_seconds()))


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its customer sees it."""

    id: str
    kind: SessionKind
    label: str
    created_at: datetime
    last_used_at: datetime


def read_label(text: str) -> str:
    """Check the name that a session may be called by. Raises InvalidInputError."""
    label = text.strip()
    if len(label) > MAX_LABEL or not label.isprintable():
        raise InvalidInputError(phrase("A label has at most {most} letters.", most=MAX_LABEL), ("label",))
    return label


async def begin_session(
    session: AsyncSession, *, customer_id: str, kind: SessionKind, label: str, lifetimes: Lifetimes
) -> Granted:
    """A session, with its first refresh token."""
    now, lifetime = datetime.now(UTC), lifetimes.of(kind)
    ends_at = now + lifetime.absolute
    row = CustomerSession(
        id=new_id("ses"), customer_id=customer_id, kind=kind, label=label, last_used_at=now, expires_at=ends_at
    )
    session.add(row)
    await session.flush()
    token = REFRESH_PREFIX + _text(secrets.token_bytes(TOKEN_BYTES))
    return await _grant(session, row, token, min(now + lifetime.idle, ends_at), replaces=None)


async def refresh_session(session: AsyncSession, token: str, *, lifetimes: Lifetimes, secret: str) -> Granted | None:
    """The next refresh token of the family; the same one again for who lost the answer. None where there is none.

    None also for a token that came twice, whose session this ends: the caller must commit in either case.
    """
    found = await _find(session, token)
    if found is None:
        return None
    row, used = found
    now, next_token = datetime.now(UTC), _successor(token, secret)
    if used.used_at is not None and not await _straggler(session, used.token_hash, next_token, secret):
        await _end(session, [row], EndReason.REUSED)
        return None
    if used.used_at is None:
        # Whoever has this token has had the answer that brought it: what came before it is used up.
        others = RefreshToken.token_hash.not_in([used.token_hash, hash_token(next_token)])
        await _use_up(session, RefreshToken.session_id == row.id, others)
    row.last_used_at = now
    ends_at = min(now + lifetimes.of(row.kind).idle, row.expires_at)
    return await _grant(session, row, next_token, ends_at, replaces=used.token_hash)


async def is_signed_in(session: AsyncSession, token: AccessToken) -> bool:
    """Tell, in one statement, if an access token's session still lives; a token without one needs a customer only.

    The first request with a token also says that the answer with it arrived: the refresh token before is used up.
    """
    if token.session_id is None:
        query = select(literal(False)).where(Customer.id == token.customer_id, Customer.deleted_at.is_(None))
    else:
        before = and_(RefreshToken.token_hash == token.replaces, RefreshToken.used_at.is_(None))
        query = (
            select(exists().where(before))
            .select_from(CustomerSession)
            .join(Customer, Customer.id == CustomerSession.customer_id)
            .where(
                CustomerSession.id == token.session_id,
                CustomerSession.customer_id == token.customer_id,
                CustomerSession.ended_at.is_(None),
                CustomerSession.expires_at > func.now(),
                Customer.deleted_at.is_(None),
            )
        )
    arrived = await session.scalar(query)
    if arrived:
        await _use_up(session, RefreshToken.token_hash == token.replaces)
    return arrived is not None


async def end_session(session: AsyncSession, *, customer_id: str, session_id: str) -> None:
    """Sign one session out. Raises NotFoundError for one that is not this customer's; one that has ended stays so."""
    row = await session.get(CustomerSession, session_id, with_for_update=True)
    if row is None or row.customer_id != customer_id:
        raise NotFoundError("No such session.")
    await _end(session, [row], EndReason.SIGNED_OUT)


async def end_session_of_token(session: AsyncSession, token: str) -> str | None:
    """Sign out whoever holds this refresh token; returns the session. None, and nothing done, for an unknown one."""
    found = await _find(session, token)
    if found is None:
        return None
    await _end(session, [found[0]], EndReason.SIGNED_OUT)
    return found[0].id


async def end_sessions(session: AsyncSession, customer_id: str, reason: EndReason) -> int:
    """End all sessions of a customer; returns how many lived."""
    rows = await session.scalars(
        select(CustomerSession)
        .where(CustomerSession.customer_id == customer_id, CustomerSession.ended_at.is_(None))
        .order_by(CustomerSession.id)
        .with_for_update()
    )
    return await _end(session, rows.all(), reason)


async def sessions_of(session: AsyncSession, customer_id: str) -> list[SessionView]:
    """The sessions of a customer that live, the last used first; at most MAX_LISTED."""
    rows = await session.scalars(
        select(CustomerSession)
        .where(CustomerSession.customer_id == customer_id, CustomerSession.ended_at.is_(None), _can_go_on())
        .order_by(CustomerSession.last_used_at.desc(), CustomerSession.id.desc())
        .limit(MAX_LISTED)
    )
    return [
        SessionView(row.id, SessionKind(row.kind), row.label, created_at=row.created_at, last_used_at=row.last_used_at)
        for row in rows
    ]


async def forget_sessions(session: AsyncSession) -> None:
    """End what has expired, delete what ended long ago, and tokens that nobody could use any more."""
    await session.execute(
        update(CustomerSession)
        .where(CustomerSession.ended_at.is_(None), ~_can_go_on())
        .values(ended_at=func.now(), ended_reason=EndReason.EXPIRED)
    )
    await session.execute(delete(CustomerSession).where(CustomerSession.ended_at < func.now() - KEEP_ENDED))
    # Until then a token is kept, used or not: only so is its second use seen.
    await session.execute(delete(RefreshToken).where(RefreshToken.expires_at < func.now()))


def hash_token(token: str) -> str:
    """Hash a refresh token for storage. Tokens are 256 random bits, so a plain hash cannot be searched."""
    return _text(hashlib.sha256(token.encode("utf-8", "replace")).digest())


def _successor(token: str, secret: str) -> str:
    # The same token again for the same answer, without keeping it anywhere: as hard to guess as what it is made of.
    digest = hmac.new(secret.encode(), b"refresh:" + token.encode("utf-8", "replace"), hashlib.sha256)
    return REFRESH_PREFIX + _text(digest.digest())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def _find(session: AsyncSession, token: str) -> tuple[CustomerSession, RefreshToken] | None:
    """A token that could be used, and its living session, which is locked: of two tries at once one waits."""
    mine = RefreshToken.token_hash == hash_token(token)
    row = await session.scalar(
        select(CustomerSession)
        .join(Customer, Customer.id == CustomerSession.customer_id)
        .where(
            exists().where(mine, RefreshToken.session_id == CustomerSession.id, RefreshToken.expires_at > func.now()),
            CustomerSession.ended_at.is_(None),
            CustomerSession.expires_at > func.now(),
            Customer.deleted_at.is_(None),
        )
        .with_for_update(of=CustomerSession)
    )
    return None if row is None else (row, (await session.scalars(select(RefreshToken).where(mine))).one())


async def _straggler(session: AsyncSession, token_hash: str, next_token: str, secret: str) -> bool:
    """Tell whether a token that is used up was so only just, and nobody went on from its successor."""
    onwards = exists().where(RefreshToken.token_hash == hash_token(_successor(next_token, secret)))
    just_now = RefreshToken.used_at > func.now() - timedelta(seconds=REPLAY_S)
    return bool(await session.scalar(select(and_(just_now, ~onwards)).where(RefreshToken.token_hash == token_hash)))


async def _use_up(session: AsyncSession, *where: ColumnElement[bool]) -> None:
    await session.execute(update(RefreshToken).where(RefreshToken.used_at.is_(None), *where).values(used_at=func.now()))


async def _end(session: AsyncSession, rows: Sequence[CustomerSession], reason: EndReason) -> int:
    living = [row for row in rows if row.ended_at is None]
    for row in living:
        row.ended_at, row.ended_reason = func.now(), reason
        await notify(session, LIVE, row.id)
    await session.flush()
    return len(living)


def _can_go_on() -> ColumnElement[bool]:
    """Tell whether a session has time left, and a refresh token to use it with."""
    usable = exists().where(
        RefreshToken.session_id == CustomerSession.id,
        RefreshToken.used_at.is_(None),
        RefreshToken.expires_at > func.now(),
    )
    return and_(CustomerSession.expires_at > func.now(), usable)


async def _grant(
    session: AsyncSession, row: CustomerSession, token: str, expires_at: datetime, *, replaces: str | None
) -> Granted:
    kept = await session.scalar(
        insert(RefreshToken)
        .values(token_hash=hash_token(token), session_id=row.id, expires_at=expires_at)
        .on_conflict_do_update(index_elements=["token_hash"], set_={"expires_at": expires_at})
        .returning(RefreshToken.expires_at)
    )
    return Granted(row.id, row.customer_id, token, kept or expires_at, replaces)
