"""Operators: added, given roles, ended; their own password and second factor; the audit trail."""

from collections.abc import Sequence

from sqlalchemy import select

from standpipe.meters.keys import KeyRing
from standpipe.operations.operation import Desk, operation
from standpipe.utilities import operators
from standpipe.utilities.models import Operator, OperatorAction, OperatorRole
from standpipe.utilities.operator_sign_in import begin_totp, confirm_totp
from standpipe.utilities.operator_sign_in import set_password as keep_password
from standpipe.utilities.operators import ANYBODY, PEOPLE

MAX_AUDIT_LINES = 500


@operation("operators.add", may=PEOPLE)
async def add(desk: Desk, name: str, role: OperatorRole) -> str:
    """Add an operator; returns the key, which is shown once. Raises InvalidInputError for a name that is taken."""
    return await operators.add_operator(desk.session, name, by=desk.by, role=role)


@operation("operators.add_first", may=PEOPLE, reads=True)
async def add_first(desk: Desk, name: str) -> str | None:
    """Add the first operator, an ADMIN, in nobody's name; None where there is one already.

    Declared as reading, since nobody can be named before there is anybody; its audit line names the new operator.
    """
    if await desk.session.scalar(select(Operator.id).limit(1)) is not None:
        return None
    return await operators.add_operator(desk.session, name, by=name)


@operation("operators.disable", may=PEOPLE)
async def disable(desk: Desk, name: str) -> None:
    """End an operator's access. Raises InvalidInputError for an unknown name, or the only ADMIN."""
    await operators.disable_operator(desk.session, name, by=desk.by)


@operation("operators.set_role", may=PEOPLE)
async def set_role(desk: Desk, name: str, role: OperatorRole) -> None:
    """Give an operator another role. Raises InvalidInputError for an unknown name, or the only ADMIN."""
    await operators.change_role(desk.session, name, role, by=desk.by)


@operation("operators.set_password", may=ANYBODY)
async def set_password(desk: Desk, password: str) -> None:
    """Set one's own password. Raises InvalidInputError for one that is too weak."""
    await keep_password(desk.session, desk.by, password)


@operation("operators.begin_totp", may=ANYBODY)
async def begin_second_factor(desk: Desk, keys: KeyRing) -> str:
    """Begin one's own second factor; returns its address for an authenticator, shown once."""
    return await begin_totp(desk.session, desk.by, keys)


@operation("operators.confirm_totp", may=ANYBODY)
async def confirm_second_factor(desk: Desk, keys: KeyRing, code: str) -> None:
    """Confirm one's own second factor by a code. Raises InvalidInputError."""
    await confirm_totp(desk.session, desk.by, code, keys)


@operation("audit.list", may=ANYBODY, reads=True)
async def audit_trail(desk: Desk, subject_id: str | None = None) -> Sequence[OperatorAction]:
    """Read the newest audit lines, oldest of them first; of one subject, or of all."""
    query = select(OperatorAction).order_by(OperatorAction.id.desc()).limit(MAX_AUDIT_LINES)
    if subject_id:
        query = query.where(OperatorAction.subject_id == subject_id)
    return list(await desk.session.scalars(query))[::-1]
