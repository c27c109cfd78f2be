"""emergencyCreditActivate: switch emergency credit on; it goes to the meter like a top-up."""

from typing import Any

import strawberry

from standpipe.billing import emergency
from standpipe.graphql.base import Money, known_id, money
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import USER_ERRORS, UserError, expected_failures
from standpipe.graphql.mutations.common import KEY, KEY_FIELD, METER_FIELD, REPLAYED, Input
from standpipe.payments import request_keys
from standpipe.platform.database import Conn


@strawberry.input(description=f"Switch emergency credit on. {KEY}")
class EmergencyCreditActivateInput:
    """Possible when the credit is low; the next top-up repays it first."""

    idempotency_key: strawberry.ID = strawberry.field(description=KEY_FIELD)
    meter_id: strawberry.ID = strawberry.field(description=METER_FIELD)


@strawberry.type(description="What was given, or why nothing was.")
class EmergencyCreditPayload:
    """Errors as data."""

    given: Money | None = strawberry.field(
        default=None, description="What was added to the credit; null where userErrors says why."
    )
    replayed: bool = strawberry.field(default=False, description=REPLAYED)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=USER_ERRORS)


@strawberry.mutation(description="Switches emergency credit on; it goes to the meter like a top-up.")
@expected_failures(EmergencyCreditPayload)
async def emergency_credit_activate(
    info: Ctx, input: Input[EmergencyCreditActivateInput]
) -> EmergencyCreditPayload | None:
    services = info.context.services
    customer_id = await info.context.require_trusted_customer()
    meter_id = known_id(input.meter_id, "mtr", "No such meter.")

    async def act(conn: Conn) -> dict[str, Any]:
        given = await emergency.activate(conn, customer_id=customer_id, meter_id=meter_id, now=services.clock.now())
        return {"amount_minor": given.amount_minor, "currency": given.currency}

    result, replayed = await request_keys.once(
        services.sessions,
        customer_id=customer_id,
        key=str(input.idempotency_key),
        mutation="emergencyCreditActivate",
        order={"meter_id": meter_id},
        act=act,
    )
    given = money(result["amount_minor"], result["currency"], info.context.language)
    return EmergencyCreditPayload(given=given, replayed=replayed)
