"""topUpCancel: stop a top-up that was not paid."""

import strawberry

from standpipe.graphql.base import known_id
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.mutations.top_up_payload import TopUpPayload, top_up_payload
from standpipe.payments import top_ups


@strawberry.input(description="Stop a top-up that was not paid.")
class TopUpCancelInput:
    """The top-up to cancel."""

    top_up_id: strawberry.ID = strawberry.field(
        description="The top-up to stop (top_…): one's own, or any of a household of which one is owner."
    )


@strawberry.mutation(description="Stops a top-up that was not paid; one paid meanwhile is settled instead.")
@expected_failures(TopUpPayload)
async def top_up_cancel(info: Ctx, input: Input[TopUpCancelInput]) -> TopUpPayload | None:
    services = info.context.services
    customer_id = await info.context.require_trusted_customer()
    top_up_id = known_id(input.top_up_id, "top", "No such top-up.")
    await top_ups.cancel(
        services.sessions, services.rails, services.clock, customer_id=customer_id, top_up_id=top_up_id
    )
    return await top_up_payload(info, top_up_id)
