"""The payload of mutations that make or change a top-up."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import USER_ERRORS, UserError
from standpipe.graphql.meters import TopUp, top_up_of
from standpipe.graphql.mutations.common import REPLAYED


@strawberry.type(description="A top-up, or why there is none.")
class TopUpPayload:
    """Errors as data."""

    top_up: TopUp | None = strawberry.field(
        default=None, description="The top-up as it stands now; null where userErrors says why."
    )
    replayed: bool = strawberry.field(default=False, description=REPLAYED)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=USER_ERRORS)


async def top_up_payload(info: Ctx, top_up_id: str, *, replayed: bool = False) -> TopUpPayload:
    """Read the top-up for the answer of a mutation that went well."""
    view = await info.context.top_ups.load(top_up_id)
    return TopUpPayload(top_up=top_up_of(view), replayed=replayed)
