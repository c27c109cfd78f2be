"""memberRoleSet: change what a member, or somebody invited, may do."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.members import load_member
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.mutations.member_payload import MemberPayload
from standpipe.households.models import HouseholdRole
from standpipe.meters import sharing


@strawberry.input(description="Change what a member, or somebody invited, may do. For owners.")
class MemberRoleSetInput:
    """A household keeps an owner."""

    member_id: strawberry.ID = strawberry.field(description="mem_… or inv_….")
    role: HouseholdRole = strawberry.field(description="What they may do from now on.")


@strawberry.mutation(description="Changes what somebody may do.")
@expected_failures(MemberPayload)
async def member_role_set(info: Ctx, input: Input[MemberRoleSetInput]) -> MemberPayload | None:
    context = info.context
    customer_id, member_id = await context.require_trusted_customer(), str(input.member_id)
    async with context.services.sessions.begin() as conn:
        await sharing.set_role(conn, customer_id=customer_id, member_id=member_id, role=input.role)
    context.forget_meters()
    return MemberPayload(member=await load_member(context, member_id))
