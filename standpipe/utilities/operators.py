"""Operators: people at the utility, known by a key, what each may do, and the audit trail of what they did.

A role opens what is named here; ADMIN opens everything.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.unit_of_work import Order, SetWriter, UnitOfWork
from standpipe.platform.errors import ForbiddenError, InvalidInputError, NotAuthenticatedError
from standpipe.platform.ids import new_id
from standpipe.utilities.models import Operator, OperatorRole, OperatorSession

KEY_PREFIX = "opk_"
PEOPLE: tuple[OperatorRole, ...] = ()
"""Operators and their roles: ADMIN alone."""
SERVER: tuple[OperatorRole, ...] = ()
"""Storage, and the set-up of rails: ADMIN alone."""
MONEY = (OperatorRole.FINANCE,)
"""Refunds, suspense, arrears, statements, settlement files, agents and vouchers."""
FIELD_WORK = (OperatorRole.FIELD,)
"""Meters, readings, supply, tariffs, radios, keys and tokens."""
CLAIM_CODES = (OperatorRole.SUPPORT, OperatorRole.FIELD)
"""Codes by which customers claim meters."""
ANYBODY = tuple(OperatorRole)
"""One's own password and second factor."""


def hash_key(key: str) -> str:
    """Hash a key for storage. Keys are 192 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(key.encode()).hexdigest()


async def add_operator(session: AsyncSession, name: str, *, by: str, role: OperatorRole = OperatorRole.ADMIN) -> str:
    """A new operator; returns the key, which is shown once. Raises InvalidInputError for a name that is taken."""
    if not name.strip() or len(name) > 80 or not name.isprintable():  # noqa: PLR2004 - a name, no essay.
        raise InvalidInputError("An operator needs a name.", ("name",))
    key = KEY_PREFIX + secrets.token_urlsafe(24)
    fresh = await session.scalar(
        insert(Operator)
        .values(id=new_id("opr"), name=name.strip(), key_hash=hash_key(key), role=role.value)
        .on_conflict_do_nothing()
        .returning(Operator.id)
    )
    if fresh is None:
        raise InvalidInputError(f"There is an operator named {name} already.", ("name",))
    detail = {"name": name.strip(), "role": role.value}
    await record(session, operator=by, action="operator.add", subject_id=fresh, detail=detail)
    return key


async def disable_operator(session: AsyncSession, name: str, *, by: str) -> None:
    """End an operator's access, and where they are signed in. Raises InvalidInputError for an unknown name."""
    row = await _lock(session, name)
    await _keep_an_admin(session, without=row)
    row.disabled_at = func.now()
    await end_sessions(session, row.id)
    await record(session, operator=by, action="operator.disable", subject_id=row.id, detail={"name": name})


async def change_role(session: AsyncSession, name: str, role: OperatorRole, *, by: str) -> None:
    """Give an operator another role; it counts at once, where they are signed in too.

    Raises InvalidInputError for an unknown name, and where nobody would be left who is ADMIN.
    """
    row = await _lock(session, name)
    if role is not OperatorRole.ADMIN:
        await _keep_an_admin(session, without=row)
    detail = {"name": name, "from": row.role, "to": role.value}
    row.role = role.value
    await record(session, operator=by, action="operator.role", subject_id=row.id, detail=detail)


async def end_sessions(session: AsyncSession, operator_id: str) -> None:
    """Sign an operator out everywhere."""
    await session.execute(
        update(OperatorSession)
        .where(OperatorSession.operator_id == operator_id, OperatorSession.ended_at.is_(None))
        .values(ended_at=func.now())
    )


@dataclass(frozen=True, slots=True)
class Actor:
    """An operator who asks for something, as a door has found out."""

    name: str
    role: OperatorRole


async def actor_of_key(session: AsyncSession, key: str) -> Actor:
    """Find the operator who has this key. Raises NotAuthenticatedError."""
    query = select(Operator.name, Operator.role).where(
        Operator.key_hash == hash_key(key.encode("utf-8", "replace").decode()), Operator.disabled_at.is_(None)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotAuthenticatedError("This operator key is not known, or has been disabled.")
    return Actor(str(found.name), OperatorRole(found.role))


def require_role(actor: Actor, may: Sequence[OperatorRole]) -> None:
    """Raises ForbiddenError for an operator who is neither ADMIN nor of a role in ``may``."""
    if actor.role not in (OperatorRole.ADMIN, *may):
        wanted = " or ".join(dict.fromkeys((*may, OperatorRole.ADMIN)))
        raise ForbiddenError(f"{actor.name} is {actor.role} and may not do this; it takes {wanted}.")


async def authenticate_operator(session: AsyncSession, key: str, *, may: Sequence[OperatorRole]) -> str:
    """Find the name of the operator who has this key. Raises NotAuthenticatedError, ForbiddenError."""
    actor = await actor_of_key(session, key)
    require_role(actor, may)
    return actor.name


async def _lock(session: AsyncSession, name: str) -> Operator:
    # All of them, in one order: two changes at once must not each leave the other as the last ADMIN.
    rows = await session.scalars(select(Operator).order_by(Operator.id).with_for_update())
    found = next((row for row in rows if row.name == name), None)
    if found is None:
        raise InvalidInputError(f"There is no operator named {name}.", ("name",))
    return found


async def _keep_an_admin(session: AsyncSession, *, without: Operator) -> None:
    others = select(Operator.id).where(
        Operator.role == OperatorRole.ADMIN, Operator.disabled_at.is_(None), Operator.id != without.id
    )
    if without.role == OperatorRole.ADMIN and await session.scalar(others.limit(1)) is None:
        raise InvalidInputError(f"{without.name} is the only ADMIN left; make another one first.", ("name",))


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One act of an operator."""

    operator: str
    action: str
    subject_id: str
    detail: Mapping[str, Any]


STORE_ACTIONS = text("""
    INSERT INTO operator_actions (operator, action, subject_id, detail)
    SELECT operator, action, subject_id, CAST(detail AS jsonb)
    FROM unnest(CAST(:operators AS text[]), CAST(:actions AS text[]), CAST(:subjects AS text[]),
                CAST(:details AS text[]))
        WITH ORDINALITY AS line(operator, action, subject_id, detail, position)
    ORDER BY position""")


async def _store(work: UnitOfWork, lines: Sequence[AuditLine]) -> None:
    await work.conn.execute(
        STORE_ACTIONS,
        {
            "operators": [line.operator for line in lines],
            "actions": [line.action for line in lines],
            "subjects": [line.subject_id for line in lines],
            "details": [json.dumps(line.detail) for line in lines],
        },
    )


AUDIT: SetWriter[AuditLine] = SetWriter("audit", Order.AUDIT, _store)
"""Writes the audit trail, in the transaction that does the thing."""


async def record(session: AsyncSession, *, operator: str, action: str, subject_id: str, detail: dict[str, Any]) -> None:
    """Write into the audit trail, in the transaction that does the thing."""
    work = await UnitOfWork.of(session)
    work.add(AUDIT, AuditLine(operator, action, subject_id, detail))
    await work.flush()
