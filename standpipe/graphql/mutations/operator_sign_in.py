"""operatorSignIn: an operator's name, password and one-time code for a token."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures, invalid
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.operators import Operator, Role
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError
from standpipe.platform.language import phrase
from standpipe.utilities import operator_sign_in as operators


@strawberry.input(description="An operator's name, password and one-time code.")
class OperatorSignInInput:
    """All three are needed."""

    name: str = strawberry.field(description="As `standpipe operator add` was told.")
    password: str = strawberry.field(description="As set by `standpipe operator password`.")
    code: str = strawberry.field(description="Six digits from the authenticator; each works once.")


@strawberry.type(description="A token for the Authorization header, or why there is none.")
class OperatorSignInPayload:
    """Errors as data."""

    token: str | None = strawberry.field(
        default=None, description="To be sent as `Authorization: Bearer …`; it is shown once."
    )
    expires_in_s: int | None = strawberry.field(default=None, description="Life of the token in seconds.")
    operator: Operator | None = strawberry.field(default=None, description="Who has signed in.")
    user_errors: list[UserError] = strawberry.field(
        default_factory=list, description="The same for whatever of the three is wrong."
    )


@strawberry.mutation(description="Signs an operator of the utility in.")
@expected_failures(OperatorSignInPayload)
async def operator_sign_in(info: Ctx, input: Input[OperatorSignInInput]) -> OperatorSignInPayload | None:
    services = info.context.services
    if services.operator_keys is None:
        raise InvalidInputError(phrase("Operators cannot sign in on this server: it has no keys for it."))
    try:
        token, found = await operators.sign_in(
            services.sessions,
            name=input.name,
            password=input.password,
            code=input.code,
            address=services.caller(info.context.request),
            sealer=services.operator_keys,
            secret=services.signer.secret,
        )
    except NotAuthenticatedError as error:
        return OperatorSignInPayload(
            user_errors=[invalid(error.text_in(info.context.language), info.context.language, retryable=True)]
        )
    return OperatorSignInPayload(
        token=token,
        expires_in_s=operators.TOKEN_TTL_S,
        operator=Operator(name=found.name, role=Role(found.role.value)),
    )
