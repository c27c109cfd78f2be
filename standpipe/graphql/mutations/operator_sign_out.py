"""operatorSignOut: the end of an operator's session."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError
from standpipe.utilities import operator_sign_in
from standpipe.utilities.models import OperatorRole


@strawberry.type(description="Whether the operator is signed out.")
class OperatorSignOutPayload:
    """Errors as data."""

    signed_out: bool = strawberry.field(description="True once the token works no more.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Expected failures.")


@strawberry.mutation(description="Ends the session of the operator's token that this request carries.")
async def operator_sign_out(info: Ctx) -> OperatorSignOutPayload | None:
    context = info.context
    context.require_operator(*OperatorRole)
    if context.operator is not None:
        async with context.services.sessions.begin() as conn:
            await operator_sign_in.sign_out(conn, context.operator.session_hash)
    return OperatorSignOutPayload(signed_out=True)
