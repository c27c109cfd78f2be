"""Operators: people at the utility, known by a key, and the audit trail of what they did."""

import hashlib
import secrets
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.customers.models import Operator, OperatorAction
from standpipe.errors import InvalidInputError, NotAuthenticatedError
from standpipe.ids import new_id

KEY_PREFIX = "opk_"


def hash_key(key: str) -> str:
    """How a key is kept. Keys are 192 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(key.encode()).hexdigest()


async def add_operator(session: AsyncSession, name: str, *, by: str) -> str:
    """A new operator; returns the key, which is shown once. Raises InvalidInputError for a name that is taken."""
    if not name.strip() or len(name) > 80 or not name.isprintable():  # noqa: PLR2004 - a name, no essay.
        raise InvalidInputError("An operator needs a name.", ("name",))
    key = KEY_PREFIX + secrets.token_urlsafe(24)
    fresh = await session.scalar(
        insert(Operator)
        .values(id=new_id("opr"), name=name.strip(), key_hash=hash_key(key))
        .on_conflict_do_nothing()
        .returning(Operator.id)
    )
    if fresh is None:
        raise InvalidInputError(f"There is an operator named {name} already.", ("name",))
    await record(session, operator=by, action="operator.add", subject_id=fresh, detail={"name": name.strip()})
    return key


async def disable_operator(session: AsyncSession, name: str, *, by: str) -> None:
    """End an operator's access. Raises InvalidInputError for an unknown name."""
    found = await session.scalar(
        update(Operator).where(Operator.name == name).values(disabled_at=func.now()).returning(Operator.id)
    )
    if found is None:
        raise InvalidInputError(f"There is no operator named {name}.", ("name",))
    await record(session, operator=by, action="operator.disable", subject_id=found, detail={"name": name})


async def authenticate_operator(session: AsyncSession, key: str) -> str:
    """The name of the operator who has this key. Raises NotAuthenticatedError."""
    name: str | None = await session.scalar(
        select(Operator.name).where(
            Operator.key_hash == hash_key(key.encode("utf-8", "replace").decode()), Operator.disabled_at.is_(None)
        )
    )
    if name is None:
        raise NotAuthenticatedError("This operator key is not known, or has been disabled.")
    return name


async def record(session: AsyncSession, *, operator: str, action: str, subject_id: str, detail: dict[str, Any]) -> None:
    """Write into the audit trail, in the transaction that does the thing."""
    session.add(OperatorAction(operator=operator, action=action, subject_id=subject_id, detail=detail))
    await session.flush()
