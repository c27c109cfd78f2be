"""What each role may do on the command line, and how an operator gets a password."""

from pathlib import Path

import pytest
from sqlalchemy import select

from standpipe.platform.database import Sessions
from standpipe.platform.errors import ForbiddenError
from standpipe.utilities.models import Operator, OperatorAction, OperatorRole
from standpipe.utilities.operators import (
    ANYBODY,
    CLAIM_CODES,
    FIELD_WORK,
    MONEY,
    PEOPLE,
    add_operator,
    authenticate_operator,
)
from tests.support.office import Office, hire

WORK = {
    "FINANCE": ("refund", "approve", "rfd_x"),
    "FIELD": ("meter-command", "S1", "read-now"),
    "ADMIN": ("operator", "disable", "zuri"),
}


async def colleague(office: Office, name: str, role: str) -> Office:
    key = (await office.good("operator", "add", name, "--role", role)).strip()
    return Office(office.database_url, office.folder, key, office.more)


async def test_each_role_may_do_its_own_work_and_no_other(database_url: str, tmp_path: Path) -> None:
    amina = await hire(database_url, tmp_path)
    staff = {role: await colleague(amina, role.lower(), role) for role in ("FINANCE", "FIELD", "SUPPORT")}
    for owner, words in WORK.items():
        for role, person in staff.items():
            said = await person.refused(*words)
            assert (f"is {role} and may not do this; it takes" in said) is (role != owner), (role, words, said)
        assert "may not do this" not in await amina.refused(*words)


@pytest.mark.parametrize(
    ("may", "allowed"),
    [
        (PEOPLE, {"ADMIN"}),
        (MONEY, {"ADMIN", "FINANCE"}),
        (FIELD_WORK, {"ADMIN", "FIELD"}),
        (CLAIM_CODES, {"ADMIN", "FIELD", "SUPPORT"}),
        (ANYBODY, {"ADMIN", "FINANCE", "FIELD", "SUPPORT"}),
    ],
)
async def test_work_is_open_to_its_roles_alone(
    sessions: Sessions, may: tuple[OperatorRole, ...], allowed: set[str]
) -> None:
    async with sessions.begin() as session:
        for role in OperatorRole:
            key = await add_operator(session, f"an {role}", by="root", role=role)
            if role in allowed:
                assert await authenticate_operator(session, key, may=may) == f"an {role}"
            else:
                with pytest.raises(ForbiddenError, match=f"is {role} and may not do this"):
                    await authenticate_operator(session, key, may=may)


async def test_a_role_is_given_and_taken_and_an_admin_stays(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    amina = await hire(database_url, tmp_path)
    assert "the only ADMIN left" in await amina.refused("operator", "role", "amina", "FIELD")
    assert "the only ADMIN left" in await amina.refused("operator", "disable", "amina")
    joseph = await colleague(amina, "joseph", "SUPPORT")
    assert "it takes ADMIN" in await joseph.refused("operator", "role", "joseph", "ADMIN")
    assert "no operator named nobody" in await amina.refused("operator", "role", "nobody", "FIELD")
    assert (await amina.run("operator", "role", "joseph", "KING")).returncode == 2
    await amina.good("operator", "role", "joseph", "ADMIN")
    await joseph.good("operator", "role", "amina", "FIELD")
    assert "it takes ADMIN" in await amina.refused("operator", "add", "zuri")
    async with sessions() as session:
        roles = {row.name: row.role for row in await session.scalars(select(Operator))}
        details = await session.scalars(select(OperatorAction.detail).where(OperatorAction.action == "operator.role"))
        assert [detail["to"] for detail in details] == ["ADMIN", "FIELD"]
    assert roles == {"amina": "FIELD", "joseph": "ADMIN"}


async def test_a_password_is_ones_own_and_no_short_word(database_url: str, sessions: Sessions, tmp_path: Path) -> None:
    amina = await hire(database_url, tmp_path)
    for weak in ("short", "Amina's water", "tab\tin the middle"):
        said = await amina.refused("operator", "password", typed=weak + "\n")
        assert "password" in said.lower()
    assert "not known" in await Office(database_url, tmp_path, "opk_wrong").refused(
        "operator", "password", typed="a good long password\n"
    )
    assert "STANDPIPE_OPERATOR_KEY" in await Office(database_url, tmp_path).refused("operator", "password")
    async with sessions() as session:
        assert await session.scalar(select(Operator.password_hash)) is None
    # An authenticator's secret is not kept where nothing can seal it.
    done = await amina.run("operator", "totp")
    assert (done.returncode, "STANDPIPE_OPERATOR_KEY_SECRETS" in done.stderr) == (2, True)
