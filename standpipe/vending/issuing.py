"""The queue of tokens asked for: the issuer is called outside transactions, and its digits are kept."""

from datetime import datetime

import structlog
from sqlalchemy import update

from standpipe.engine.queue import claim, finish, hold, retry
from standpipe.meters.models import CreditGrant
from standpipe.outbox.facts import TokenIssued, publish
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, by_statement
from standpipe.platform.notify import LIVE, notify
from standpipe.sts.amounts import ML_PER_UNIT
from standpipe.sts.keys import KeyTerms
from standpipe.vending.issuer import TokenIssuer, TokenRequest
from standpipe.vending.models import KeypadToken, Purpose

MAX_ATTEMPTS = 12
_log = structlog.get_logger(__name__)


async def issue_tokens(sessions: Sessions, issuer: TokenIssuer, clock: Clock, *, limit: int = 20) -> int:
    """Have what waits issued; returns how many were claimed. A token that cannot be had is tried again, then waits
    for a person; its credit goes on by radio all the while.
    """
    async with by_statement(sessions) as session:
        due = [row.id for row in await claim(session, KeypadToken, limit=limit)]
    async with hold(sessions, KeypadToken, due) as held:
        for token_id in due:
            error = None
            try:
                await _issue(sessions, issuer, token_id, clock)
            except Exception as caught:
                error = f"{type(caught).__name__}: {caught}"
                _log.warning("token not issued", token_id=token_id, error=error)
            await held.let_go(token_id)
            if error is not None:
                await _try_later(sessions, token_id, error)
    return len(due)


async def _try_later(sessions: Sessions, token_id: str, error: str) -> None:
    async with sessions.begin() as session:
        row = await session.get_one(KeypadToken, token_id, with_for_update=True, populate_existing=True)
        if not await retry(session, row, error, max_attempts=MAX_ATTEMPTS):
            _log.error("token not issued: a person must look", token_id=token_id, error=error)


async def _issue(sessions: Sessions, issuer: TokenIssuer, token_id: str, clock: Clock) -> None:
    async with sessions() as session:
        row = await session.get_one(KeypadToken, token_id)
        grant = None if row.credit_key is None else await session.get_one(CreditGrant, row.credit_key)
    needed = grant is None or grant.confirmed_at is None
    asked = request_of(row)
    digits = await issuer.issue(asked) if needed else None
    async with sessions.begin() as session:
        row = await session.get_one(KeypadToken, token_id, with_for_update=True, populate_existing=True)
        if request_of(row) != asked or row.due_at is None:
            # The meter has got another key meanwhile, and other digits are due; or it was given up.
            return
        finish(row)
        if digits is None or row.digits is not None:
            return
        now: datetime = clock.now()
        row.digits, row.issued_at = list(digits), now
        if row.credit_key is None:
            return
        await session.execute(
            update(CreditGrant).where(CreditGrant.credit_key == row.credit_key).values(token_issued_at=now)
        )
        await publish(session, TokenIssued(row.id, row.meter_id, asked.terms.key_revision))
        await notify(session, LIVE, row.meter_id)


def request_of(row: KeypadToken) -> TokenRequest:
    """Build the issuer's request from a row: a function of the row alone. Under another key it is another request."""
    terms = KeyTerms(**row.terms)
    return TokenRequest(
        id=f"{row.id}:{terms.key_revision}",
        purpose=Purpose(row.purpose),
        terms=terms,
        tid=row.tid,
        units=row.volume_ml // ML_PER_UNIT,
        new_terms=None if row.new_terms is None else KeyTerms(**row.new_terms),
    )
