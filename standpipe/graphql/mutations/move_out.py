"""moveOut: a household leaves a meter."""

from dataclasses import asdict
from datetime import date
from typing import Any

import strawberry

from standpipe.billing import tenancy
from standpipe.billing.supply_terms import Closing
from standpipe.graphql.base import Money, known_id, money
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.mutations.common import KEY, NULL_WHERE_FAILED, WENT_WELL, Input
from standpipe.payments import request_keys
from standpipe.platform.database import Conn


@strawberry.input(description=f"Say that the household has left a meter. For owners. {KEY}")
class MoveOutInput:
    """The household's other meters stay."""

    idempotency_key: strawberry.ID = strawberry.field(description="A UUID made when the screen opens.")
    meter_id: strawberry.ID = strawberry.field(description="The meter left.")
    day: date = strawberry.field(
        description="The first day that is not theirs any more: today, or one of the last 7, by the meter's clock."
    )


@strawberry.type(description="What a meter's account stands at when its household leaves. No money has moved.")
class FinalBalance:
    """For the office to give back or to ask for."""

    day: date = strawberry.field(description="The first day that is not theirs any more.")
    wallet: Money = strawberry.field(description="The household's credit.")
    on_its_way: Money = strawberry.field(description="Of the credit, what had not reached the meter.")
    standing: Money = strawberry.field(description="Standing charges due.")
    arrears: Money = strawberry.field(description="Owed from before.")
    emergency: Money = strawberry.field(description="Emergency credit in use.")


@strawberry.type(description="The final account, or why there is none.")
class MoveOutPayload:
    """Errors as data."""

    final_balance: FinalBalance | None = strawberry.field(default=None, description=NULL_WHERE_FAILED)
    replayed: bool = strawberry.field(default=False, description="This key had moved them out before.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=WENT_WELL)


@strawberry.mutation(description="Moves the household out: final account, and access ends for all its members.")
@expected_failures(MoveOutPayload)
async def move_out(info: Ctx, input: Input[MoveOutInput]) -> MoveOutPayload | None:
    context, services = info.context, info.context.services
    customer_id = await context.require_trusted_customer()
    meter_id = known_id(input.meter_id, "mtr", "No such meter.")

    async def act(conn: Conn) -> dict[str, Any]:
        closing = await tenancy.move_out(
            conn, customer_id=customer_id, meter_id=meter_id, day=input.day, now=services.clock.now()
        )
        return {"day": input.day.isoformat(), "closing": asdict(closing)}

    result, replayed = await request_keys.once(
        services.sessions,
        customer_id=customer_id,
        key=str(input.idempotency_key),
        mutation="moveOut",
        order={"meter_id": meter_id, "day": input.day.isoformat()},
        act=act,
    )
    context.forget_meters()
    return MoveOutPayload(final_balance=_final(result, context.language), replayed=replayed)


def _final(result: dict[str, Any], language: str) -> FinalBalance:
    closing = Closing(**result["closing"])
    return FinalBalance(
        day=date.fromisoformat(result["day"]),
        wallet=money(closing.wallet_minor, closing.currency, language),
        on_its_way=money(closing.on_its_way_minor, closing.currency, language),
        standing=money(closing.standing_minor, closing.currency, language),
        arrears=money(closing.arrears_minor, closing.currency, language),
        emergency=money(closing.emergency_minor, closing.currency, language),
    )
