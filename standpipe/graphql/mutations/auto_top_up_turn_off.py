"""autoTopUpTurnOff: turn a meter's standing order off."""

import strawberry

from standpipe.graphql.base import known_id
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.mutations.auto_top_up_payload import AutoTopUpPayload
from standpipe.graphql.mutations.common import METER_FIELD, Input
from standpipe.graphql.saving import load_auto_top_up
from standpipe.payments import auto_top_up


@strawberry.input(description="Turn the standing order of a meter off.")
class AutoTopUpTurnOffInput:
    """A charge under way still counts."""

    meter_id: strawberry.ID = strawberry.field(description=METER_FIELD)


@strawberry.mutation(description="Turns the standing order of a meter off.")
@expected_failures(AutoTopUpPayload)
async def auto_top_up_turn_off(info: Ctx, input: Input[AutoTopUpTurnOffInput]) -> AutoTopUpPayload | None:
    services = info.context.services
    customer_id = await info.context.require_trusted_customer()
    meter_id = known_id(input.meter_id, "mtr", "No such meter.")
    async with services.sessions.begin() as conn:
        await auto_top_up.turn_off(conn, customer_id=customer_id, meter_id=meter_id, now=services.clock.now())
    return AutoTopUpPayload(auto_top_up=await load_auto_top_up(info, meter_id))
