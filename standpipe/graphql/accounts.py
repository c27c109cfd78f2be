"""The customer's account: its end."""

import strawberry

from standpipe.customers import forgetting
from standpipe.graphql.base import PhoneNumber
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, user_error
from standpipe.platform.errors import StandpipeError


@strawberry.input(description="Delete the viewer's account and what is known of them. There is no way back.")
class AccountDeleteInput:
    """Their own number proves that they mean it."""

    confirm: PhoneNumber = strawberry.field(description="The viewer's own phone number, typed by them.")


@strawberry.type(description="Whether the account is deleted, or why it is not.")
class AccountDeletePayload:
    """Errors as data."""

    deleted: bool = strawberry.field(description="All sign-ins have ended; the same number opens a new, empty account.")
    user_errors: list[UserError] = strawberry.field(
        description="FORBIDDEN: the last owner of a household with other members hands over first. INVALID: `confirm` "
        "is not the viewer's number."
    )


@strawberry.type
class AccountMutation:
    """Part of Mutation."""

    @strawberry.mutation(
        description="Deletes the viewer's account. Payments under way still reach their meter; what was paid stays in "
        "the books under a pseudonym."
    )
    async def account_delete(self, info: Ctx, input: AccountDeleteInput) -> AccountDeletePayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            async with context.tools.sessions.begin() as session:
                await forgetting.forget(session, customer_id=customer_id, confirm=input.confirm)
        except StandpipeError as error:
            return AccountDeletePayload(deleted=False, user_errors=[user_error(error, context.language)])
        return AccountDeletePayload(deleted=True, user_errors=[])
