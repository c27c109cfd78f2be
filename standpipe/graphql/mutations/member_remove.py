"""memberRemove: remove a member, withdraw an invitation, or leave."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.members import member_of
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.mutations.member_payload import MemberPayload
from standpipe.meters import sharing


@strawberry.input(description="Remove a member or withdraw an invitation (owners), or leave (oneself).")
class MemberRemoveInput:
    """A household keeps an owner."""

    member_id: strawberry.ID = strawberry.field(description="mem_… or inv_….")


@strawberry.mutation(description="Removes a member, withdraws an invitation, or leaves.")
@expected_failures(MemberPayload)
async def member_remove(info: Ctx, input: Input[MemberRemoveInput]) -> MemberPayload | None:
    customer_id = await info.context.require_trusted_customer()
    async with info.context.services.sessions.begin() as conn:
        gone = await sharing.remove(conn, customer_id=customer_id, member_id=str(input.member_id))
    info.context.forget_meters()
    return MemberPayload(member=member_of(gone))
