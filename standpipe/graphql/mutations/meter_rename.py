"""meterRename: call a meter something else."""

import strawberry

from standpipe.graphql.base import known_id
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.meters import Meter, reload_meter
from standpipe.graphql.mutations.common import NULL_WHERE_FAILED, WENT_WELL, Input
from standpipe.meters import sharing


@strawberry.input(description="Call a meter something else. For owners.")
class MeterRenameInput:
    """For all members of the household."""

    meter_id: strawberry.ID = strawberry.field(description="Which meter.")
    label: str = strawberry.field(description="1 to 60 characters.")


@strawberry.type(description="The meter, or why it was not changed.")
class MeterPayload:
    """Errors as data."""

    meter: Meter | None = strawberry.field(default=None, description=NULL_WHERE_FAILED)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=WENT_WELL)


@strawberry.mutation(description="Gives a meter another label.")
@expected_failures(MeterPayload)
async def meter_rename(info: Ctx, input: Input[MeterRenameInput]) -> MeterPayload | None:
    customer_id = await info.context.require_trusted_customer()
    meter_id = known_id(input.meter_id, "mtr", "No such meter.")
    async with info.context.services.sessions.begin() as conn:
        await sharing.rename(conn, customer_id=customer_id, meter_id=meter_id, label=input.label)
    return MeterPayload(meter=await reload_meter(info.context, meter_id))
