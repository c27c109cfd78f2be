"""signOutEverywhere: end all of the viewer's sessions."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError
from standpipe.households.sessions import EndReason, end_sessions


@strawberry.type(description="How many sessions have ended.")
class SignOutEverywherePayload:
    """Errors as data."""

    ended: int = strawberry.field(description="Sessions that lived until now, this one among them.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Why none has.")


@strawberry.mutation(description="Ends all of the viewer's sessions, this one too.")
async def sign_out_everywhere(info: Ctx) -> SignOutEverywherePayload | None:
    customer_id = info.context.require_customer()
    async with info.context.services.sessions.begin() as conn:
        ended = await end_sessions(conn, customer_id, EndReason.SIGNED_OUT_EVERYWHERE)
    return SignOutEverywherePayload(ended=ended)
