"""Tokens as customers see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.models import CreditGrant
from standpipe.vending.models import KeypadToken


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token that can be typed; ``entered_at``: the meter said that it was; ``delivered``: its credit is there."""

    id: str
    digits: str
    volume_ml: int
    issued_at: datetime
    entered_at: datetime | None
    delivered: bool


async def tokens_by_source(session: AsyncSession, source_ids: Sequence[str]) -> dict[str, list[TokenView]]:
    """The tokens issued for these top-ups, oldest first; one statement, however many."""
    rows = await session.execute(
        select(KeypadToken, CreditGrant.source_id, CreditGrant.typed_at, CreditGrant.confirmed_at)
        .join(CreditGrant, CreditGrant.credit_key == KeypadToken.credit_key)
        .where(CreditGrant.source_id.in_(source_ids), KeypadToken.issued_at.is_not(None))
        .order_by(KeypadToken.tid)
    )
    found: dict[str, list[TokenView]] = {source_id: [] for source_id in source_ids}
    for token, source_id, typed_at, confirmed_at in rows:
        if token.digits and token.issued_at is not None:
            delivered = confirmed_at is not None
            view = TokenView(token.id, token.digits[0], token.volume_ml, token.issued_at, typed_at, delivered)
            found[source_id].append(view)
    return found


async def token_by_id(session: AsyncSession, token_id: str) -> KeypadToken | None:
    """One token's row."""
    return await session.get(KeypadToken, token_id)


def grouped(digits: str) -> str:
    """Group digits as people read and type them: 4718 6281 2079 5515 5808."""
    return " ".join(digits[place : place + 4] for place in range(0, len(digits), 4))
