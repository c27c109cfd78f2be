"""voucherRedeem: a voucher's value becomes credit."""

import strawberry

from standpipe.graphql.base import known_id
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.mutations.common import KEY, KEY_FIELD, METER_FIELD, Input
from standpipe.graphql.mutations.top_up_payload import TopUpPayload, top_up_payload
from standpipe.payments import vouchers
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase


@strawberry.input(description=f"Redeem a voucher for a meter. {KEY}")
class VoucherRedeemInput:
    """The code may be typed with or without dashes, in any case."""

    idempotency_key: strawberry.ID = strawberry.field(description=KEY_FIELD)
    meter_id: strawberry.ID = strawberry.field(description=METER_FIELD)
    code: str = strawberry.field(
        description="As printed; case, spaces and dashes do not matter, and O is read as 0, I and L as 1."
    )


@strawberry.mutation(description="Redeems a voucher: its value becomes credit at once.")
@expected_failures(TopUpPayload)
async def voucher_redeem(info: Ctx, input: Input[VoucherRedeemInput]) -> TopUpPayload | None:
    services = info.context.services
    customer_id = await info.context.require_trusted_customer()
    meter_id = known_id(input.meter_id, "mtr", "No such meter.")
    async with services.sessions.begin() as conn:
        top_up_id, replayed = await vouchers.redeem(
            conn,
            customer_id=customer_id,
            key=str(input.idempotency_key),
            meter_id=meter_id,
            code=input.code,
            now=services.clock.now(),
        )
    # After the commit: the try at a code that does not work is counted.
    if top_up_id is None:
        raise InvalidInputError(phrase("This code does not work. Please check it, letter by letter."), ("code",))
    return await top_up_payload(info, top_up_id, replayed=replayed)
