"""Operators' tokens as bearer tokens."""

from standpipe.graphql.context import OperatorIdentity, Services
from standpipe.graphql.identity import Identity
from standpipe.utilities.operator_sign_in import TOKEN_PREFIX, find_session


async def identify(services: Services, token: str) -> Identity | None:
    """The operator of an operator's token, who is no customer; None for every other kind of token.

    Raises NotAuthenticatedError.
    """
    if not token.startswith(TOKEN_PREFIX):
        return None
    async with services.sessions() as conn:
        found = await find_session(conn, token)
    operator = OperatorIdentity(found.name, found.role, found.token_hash)
    return Identity(int(found.expires_at.timestamp()), operator=operator)
