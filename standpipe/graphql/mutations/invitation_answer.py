"""invitationAnswer: accept or decline an invitation."""

import strawberry

from standpipe.graphql.base import known_id
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.meters import Meter, meter_of
from standpipe.graphql.mutations.common import WENT_WELL, Input
from standpipe.meters import sharing


@strawberry.input(description="Accept or decline an invitation; again, it changes nothing.")
class InvitationAnswerInput:
    """One of viewer.invitations."""

    invitation_id: strawberry.ID = strawberry.field(description="inv_….")
    accept: bool = strawberry.field(description="False: decline.")


@strawberry.type(description="The meters that are open to the viewer now, or why there are none.")
class InvitationPayload:
    """Errors as data."""

    meters: list[Meter] = strawberry.field(
        default_factory=list, description="The household's meters; none where it was declined."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=WENT_WELL)


@strawberry.mutation(description="Accepts or declines an invitation to the viewer's number.")
@expected_failures(InvitationPayload)
async def invitation_answer(info: Ctx, input: Input[InvitationAnswerInput]) -> InvitationPayload | None:
    context = info.context
    customer_id = await context.require_trusted_customer()
    invitation_id = known_id(input.invitation_id, "inv", "No such thing.")
    async with context.services.sessions.begin() as conn:
        meter_ids = await sharing.answer(
            conn, customer_id=customer_id, invitation_id=invitation_id, accept=input.accept
        )
    context.forget_meters()
    views = await context.meters.load_many(meter_ids)
    return InvitationPayload(meters=[meter_of(view) for view in views if view is not None])
