"""The payload of mutations that change a standing order."""

import strawberry

from standpipe.graphql.errors import USER_ERRORS, UserError
from standpipe.graphql.mutations.common import REPLAYED
from standpipe.graphql.saving import AutoTopUp


@strawberry.type(description="A standing order, or why there is none.")
class AutoTopUpPayload:
    """Errors as data."""

    auto_top_up: AutoTopUp | None = strawberry.field(
        default=None, description="The standing order as it is now; null where userErrors says why."
    )
    replayed: bool = strawberry.field(default=False, description=REPLAYED)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=USER_ERRORS)
