"""The payload of mutations that change who shares a household."""

import strawberry

from standpipe.graphql.errors import UserError
from standpipe.graphql.members import HouseholdMember
from standpipe.graphql.mutations.common import WENT_WELL


@strawberry.type(description="A member (of memberRemove: as they were), or why there is none.")
class MemberPayload:
    """Errors as data."""

    member: HouseholdMember | None = strawberry.field(
        default=None, description="Null where it failed, and where the viewer may see them no more."
    )
    replayed: bool = strawberry.field(default=False, description="This key had done it before.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=WENT_WELL)
