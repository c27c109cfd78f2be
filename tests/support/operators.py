"""Operators who sign in: made on the command line, signed in by GraphQL."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp
from cryptography.fernet import Fernet
from sqlalchemy import select, update

from standpipe.platform.ids import new_id
from standpipe.utilities.models import Operator, OperatorRole, OperatorSession
from standpipe.utilities.operator_sign_in import TOKEN_PREFIX
from standpipe.utilities.operators import add_operator, hash_key
from tests.support.office import Office, hire
from tests.support.town import Town

OPERATOR_SECRET = Fernet.generate_key().decode()
PASSWORD = "correct horse battery"
SIGN_IN = (
    "mutation($n: String!, $p: String!, $c: String!) { operatorSignIn(input: {name: $n, password: $p, code: $c}) "
    "{ token expiresInS operator { name role } userErrors { __typename code message field retryable } } }"
)
WRONG = {
    "token": None,
    "expiresInS": None,
    "operator": None,
    "userErrors": [
        {
            "__typename": "InputError",
            "code": "INVALID",
            "message": "The name, the password or the code is wrong.",
            "field": None,
            "retryable": True,
        }
    ],
}


@dataclass
class Clerk:
    """An operator with a password and an authenticator."""

    town: Town
    office: Office
    secret: str
    name: str

    def code(self, steps: int = 0) -> str:
        """The authenticator's code of a later step. Today's step is used up where it confirmed the authenticator."""
        return pyotp.TOTP(self.secret).at(time.time() + 30 * steps)

    async def sign_in(self, **other: Any) -> Any:
        return await sign_in(self.town, **({"name": self.name, "code": self.code(1)} | other))

    async def token(self) -> str:
        """A fresh session, however soon after the one before: the step that was used is forgotten."""
        await forget_step(self.town, self.name)
        return str((await self.sign_in())["token"])


async def sign_in(town: Town, *, name: str, code: str, password: str = PASSWORD, address: str | None = None) -> Any:
    body = {"query": SIGN_IN, "variables": {"n": name, "p": password, "c": code}}
    headers = {"content-type": "application/json"} | ({} if address is None else {"x-forwarded-for": address})
    # Spelt in ASCII: httpx itself would refuse half a surrogate pair.
    response = await town.http.post(f"{town.api}/graphql", content=json.dumps(body), headers=headers)
    return response.json()["data"]["operatorSignIn"]


async def forget_step(town: Town, name: str) -> None:
    async with town.sessions.begin() as session:
        await session.execute(update(Operator).where(Operator.name == name).values(totp_step=None))


async def begin(office: Office) -> str:
    """Begin an authenticator; its secret."""
    address = urlsplit((await office.good("operator", "totp")).strip())
    assert (address.scheme, address.netloc) == ("otpauth", "totp")
    return parse_qs(address.query)["secret"][0]


async def make_clerk(town: Town, database_url: str, name: str = "amina", office: Office | None = None) -> Clerk:
    """``office``: one with the operator's key; without, the town's first operator is hired."""
    secrets = {"STANDPIPE_OPERATOR_KEY_SECRETS": OPERATOR_SECRET}
    desk = office or await hire(database_url, town.settings.data_dir, name, **secrets)
    await desk.good("operator", "password", typed=PASSWORD + "\n")
    secret = await begin(desk)
    clerk = Clerk(town, desk, secret, name)
    await desk.good("operator", "totp", "--code", clerk.code())
    return clerk


async def operator_token(town: Town, role: OperatorRole = OperatorRole.ADMIN) -> str:
    """The token of an operator of this role who has signed in, made in the database: a session without its ceremony."""
    token, name = TOKEN_PREFIX + new_id("x"), new_id("amina")
    async with town.sessions.begin() as session:
        await add_operator(session, name, by="test")
        operator = (await session.scalars(select(Operator).where(Operator.name == name))).one()
        operator.role = role
        ends = datetime.now(UTC) + timedelta(hours=1)
        session.add(OperatorSession(token_hash=hash_key(token), operator_id=operator.id, expires_at=ends))
    return token
