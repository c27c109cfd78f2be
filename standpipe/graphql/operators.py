"""Operators: signing in and out, and who is signed in."""

from enum import Enum

import strawberry

from standpipe.customers import operator_sign_in
from standpipe.customers.models import OperatorRole
from standpipe.graphql.context import Ctx, OperatorIdentity
from standpipe.graphql.errors import InputError, UserError, UserErrorCode, user_error
from standpipe.platform.errors import InvalidInputError, NotAuthenticatedError, StandpipeError


@strawberry.enum(name="OperatorRole", description="What an operator may do.")
class Role(Enum):
    """The roles of ``standpipe.customers.operators``, described."""

    ADMIN = strawberry.enum_value("ADMIN", description="Everything, operators and their roles included.")
    FINANCE = strawberry.enum_value("FINANCE", description="Money: refunds, suspense, arrears, agents, vouchers.")
    FIELD = strawberry.enum_value("FIELD", description="Meters, readings, supply, tariffs, radios, keys and tokens.")
    SUPPORT = strawberry.enum_value("SUPPORT", description="Codes by which customers claim meters.")


@strawberry.type(description="Somebody at the utility, who is no customer.")
class Operator:
    """As they see themselves."""

    name: str = strawberry.field(description="The name by which they sign in.")
    role: Role = strawberry.field(description="What they may do.")


@strawberry.input(description="An operator's name, password and one-time code.")
class OperatorSignInInput:
    """All three are needed."""

    name: str = strawberry.field(description="As `standpipe operator add` was told.")
    password: str = strawberry.field(description="As set by `standpipe operator password`.")
    code: str = strawberry.field(description="Six digits from the authenticator; each works once.")


@strawberry.type(description="A token for the Authorization header, or why there is none.")
class OperatorSignInPayload:
    """Errors as data."""

    token: str | None = strawberry.field(description="To be sent as `Authorization: Bearer …`; it is shown once.")
    expires_in_s: int | None = strawberry.field(description="Life of the token in seconds.")
    operator: Operator | None = strawberry.field(description="Who has signed in.")
    user_errors: list[UserError] = strawberry.field(description="The same for whatever of the three is wrong.")


@strawberry.type(description="Whether the operator is signed out.")
class OperatorSignOutPayload:
    """Errors as data."""

    signed_out: bool = strawberry.field(description="True once the token works no more.")
    user_errors: list[UserError] = strawberry.field(description="Expected failures.")


@strawberry.type
class OperatorMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="Signs an operator of the utility in.")
    async def operator_sign_in(self, info: Ctx, input: OperatorSignInInput) -> OperatorSignInPayload | None:
        context, tools = info.context, info.context.tools
        try:
            if tools.operator_keys is None:
                raise InvalidInputError("Operators cannot sign in on this server: it has no keys for it.")
            token, found = await operator_sign_in.sign_in(
                tools.sessions,
                name=input.name,
                password=input.password,
                code=input.code,
                address=tools.caller(context.request),
                sealer=tools.operator_keys,
                secret=tools.signer.secret,
            )
        except NotAuthenticatedError as error:
            wrong = InputError(code=UserErrorCode.INVALID, message=str(error), field=None, retryable=True)
            return OperatorSignInPayload(token=None, expires_in_s=None, operator=None, user_errors=[wrong])
        except StandpipeError as error:
            errors = [user_error(error, context.language)]
            return OperatorSignInPayload(token=None, expires_in_s=None, operator=None, user_errors=errors)
        return OperatorSignInPayload(
            token=token,
            expires_in_s=operator_sign_in.TOKEN_TTL_S,
            operator=Operator(name=found.name, role=Role(found.role.value)),
            user_errors=[],
        )

    @strawberry.mutation(description="Ends the session of the operator's token that this request carries.")
    async def operator_sign_out(self, info: Ctx) -> OperatorSignOutPayload | None:
        info.context.require_operator(*OperatorRole)
        if info.context.operator is not None:
            async with info.context.tools.sessions.begin() as session:
                await operator_sign_in.sign_out(session, info.context.operator.session_hash)
        return OperatorSignOutPayload(signed_out=True, user_errors=[])


def operator_of(identity: OperatorIdentity | None) -> Operator | None:
    """The operator who is signed in."""
    return None if identity is None else Operator(name=identity.name, role=Role(identity.role.value))
