"""accountDelete: the end of a customer's account."""

import strawberry

from standpipe.graphql.base import PhoneNumber
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.mutations.common import Input
from standpipe.households import forgetting


@strawberry.input(description="Delete the viewer's account and what is known of them. There is no way back.")
class AccountDeleteInput:
    """Their own number proves that they mean it."""

    confirm: PhoneNumber = strawberry.field(description="The viewer's own phone number, typed by them.")


@strawberry.type(description="Whether the account is deleted, or why it is not.")
class AccountDeletePayload:
    """Errors as data."""

    deleted: bool = strawberry.field(
        default=False, description="All sign-ins have ended; the same number opens a new, empty account."
    )
    user_errors: list[UserError] = strawberry.field(
        default_factory=list,
        description="FORBIDDEN: the last owner of a household with other members hands over first. INVALID: `confirm` "
        "is not the viewer's number.",
    )


@strawberry.mutation(
    description="Deletes the viewer's account. Payments under way still reach their meter; what was paid stays in "
    "the books under a pseudonym."
)
@expected_failures(AccountDeletePayload)
async def account_delete(info: Ctx, input: Input[AccountDeleteInput]) -> AccountDeletePayload | None:
    customer_id = await info.context.require_trusted_customer()
    async with info.context.services.sessions.begin() as conn:
        await forgetting.forget(conn, customer_id=customer_id, confirm=input.confirm)
    return AccountDeletePayload(deleted=True)
