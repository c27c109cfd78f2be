"""Idempotency of money mutations: the first answer is stored with its effect, and given again (P28).

One key space per customer for all mutations, so that a key used for one cannot silently pass for another.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.errors import IdempotencyMismatchError, InvalidInputError
from standpipe.payments.models import RequestKey
from standpipe.units import is_storable

MAX_KEY_LENGTH = 128


def hash_of(order: Mapping[str, Any]) -> str:
    """The fingerprint of a mutation's input."""
    return hashlib.sha256(json.dumps(order, sort_keys=True, default=str).encode()).hexdigest()


def check_key(key: str) -> None:
    """Raises InvalidInputError for a key that cannot be kept."""
    if not 0 < len(key) <= MAX_KEY_LENGTH or not is_storable(key):
        raise InvalidInputError(f"The key must have 1 to {MAX_KEY_LENGTH} characters.", ("idempotencyKey",))


async def recall(
    session: AsyncSession, *, customer_id: str, key: str, mutation: str, request_hash: str
) -> dict[str, Any] | None:
    """The first answer to this key, or None. Raises IdempotencyMismatchError where the input was another."""
    check_key(key)
    row = await session.scalar(
        select(RequestKey)
        .where(RequestKey.customer_id == customer_id, RequestKey.key == key)
        .execution_options(populate_existing=True)
    )
    if row is None:
        return None
    if (row.mutation, row.request_hash) != (mutation, request_hash):
        raise IdempotencyMismatchError
    return row.result


async def remember(
    session: AsyncSession, *, customer_id: str, key: str, mutation: str, request_hash: str, result: dict[str, Any]
) -> dict[str, Any] | None:
    """Keep an answer with its effect. None: it is kept. Else another request was first, and this is its answer.

    The insert waits for the other's transaction; a caller that gets an answer must undo its own effect (roll back).
    Raises IdempotencyMismatchError as ``recall`` does.
    """
    fresh = await session.scalar(
        insert(RequestKey)
        .values(customer_id=customer_id, key=key, mutation=mutation, request_hash=request_hash, result=result)
        .on_conflict_do_nothing(index_elements=["customer_id", "key"])
        .returning(RequestKey.key)
    )
    if fresh is not None:
        return None
    return await recall(session, customer_id=customer_id, key=key, mutation=mutation, request_hash=request_hash)
