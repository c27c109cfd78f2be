"""Idempotency of money mutations: the first answer is stored with its effect, and given again (P28).

One key space per customer for all mutations, so that a key used for one cannot silently pass for another.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.models import RequestKey
from standpipe.platform.database import Sessions
from standpipe.platform.errors import IdempotencyMismatchError, InvalidInputError
from standpipe.platform.language import phrase
from standpipe.platform.units import is_storable

MAX_KEY_LENGTH = 128


def hash_of(order: Mapping[str, Any]) -> str:
    """The fingerprint of a mutation's input."""
    return hashlib.sha256(json.dumps(order, sort_keys=True, default=str).encode()).hexdigest()


def check_key(key: str) -> None:
    """Raises InvalidInputError for a key that cannot be kept."""
    if not 0 < len(key) <= MAX_KEY_LENGTH or not is_storable(key):
        raise InvalidInputError(
            phrase("The key must have 1 to {most} characters.", most=MAX_KEY_LENGTH), ("idempotencyKey",)
        )


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
    return None if row is None else same_answer(row, mutation, request_hash)


def same_answer(row: Any, mutation: str, request_hash: str) -> dict[str, Any]:
    """Return what a kept key answered. Raises IdempotencyMismatchError where it was used for another input."""
    if (row.mutation, row.request_hash) != (mutation, request_hash):
        raise IdempotencyMismatchError
    result: dict[str, Any] = row.result
    return result


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


class _FirstWasAnotherError(Exception):
    """Another request with this key was first: what this one did is rolled back."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("another request was first")
        self.result = result


async def once(
    sessions: Sessions,
    *,
    customer_id: str,
    key: str,
    mutation: str,
    order: Mapping[str, Any],
    act: Callable[[AsyncSession], Awaitable[dict[str, Any]]],
) -> tuple[dict[str, Any], bool]:
    """Do a mutation once per key; returns its result and whether an earlier request with this key had done it.

    ``act`` works in the transaction that also keeps its result. Raises IdempotencyMismatchError, and what ``act``
    raises: then nothing is kept, and the key may be used again.
    """
    request_hash = hash_of(order)
    same = {"customer_id": customer_id, "key": key, "mutation": mutation, "request_hash": request_hash}
    async with sessions() as session:
        known = await recall(session, **same)
    if known is not None:
        return known, True
    try:
        async with sessions.begin() as session:
            result = await act(session)
            first = await remember(session, **same, result=result)
            if first is not None:
                raise _FirstWasAnotherError(first)  # noqa: TRY301 - leaving the block is what rolls back.
    except _FirstWasAnotherError as other:
        return other.result, True
    return result, False
