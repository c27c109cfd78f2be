"""autoTopUpSet: set or change a meter's standing order, and turn it on."""

import strawberry

from standpipe.graphql.base import MoneyInput, known_id
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.mutations.auto_top_up_payload import AutoTopUpPayload
from standpipe.graphql.mutations.common import KEY, KEY_FIELD, METER_FIELD, Input
from standpipe.graphql.saving import load_auto_top_up
from standpipe.payments import auto_top_up
from standpipe.payments.auto_top_up import AutoMode, StandingOrder
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase
from standpipe.platform.units import to_minor


@strawberry.input(description=f"Set or change the standing order of a meter, and turn it on. {KEY}")
class AutoTopUpSetInput:
    """Amounts in the meter's currency."""

    idempotency_key: strawberry.ID = strawberry.field(description=KEY_FIELD)
    meter_id: strawberry.ID = strawberry.field(description=METER_FIELD)
    card_id: strawberry.ID = strawberry.field(
        description="One of viewer.savedCards; it pays until the order is changed."
    )
    threshold_days: int = strawberry.field(description="1 to 30: charge when the credit is forecast to last no longer.")
    mode: AutoMode = strawberry.field(description="A meter that holds volume takes FIXED only.")
    amount: MoneyInput = strawberry.field(
        description="In the meter's currency, within what the card may be charged. What it means: `mode`."
    )
    daily_cap: MoneyInput = strawberry.field(
        description="In the meter's currency, at least `amount`: the most in a day of its time zone."
    )


@strawberry.mutation(description="Sets the standing order of a meter.")
@expected_failures(AutoTopUpPayload)
async def auto_top_up_set(info: Ctx, input: Input[AutoTopUpSetInput]) -> AutoTopUpPayload | None:
    services = info.context.services
    customer_id = await info.context.require_trusted_customer()
    order = _standing_order(input)
    replayed = await auto_top_up.set_order_once(
        services.sessions,
        services.rails,
        services.clock,
        customer_id=customer_id,
        key=str(input.idempotency_key),
        order=order,
    )
    return AutoTopUpPayload(auto_top_up=await load_auto_top_up(info, order.meter_id), replayed=replayed)


def _standing_order(wanted: AutoTopUpSetInput) -> StandingOrder:
    if wanted.amount.currency != wanted.daily_cap.currency:
        raise InvalidInputError(phrase("Amount and cap must be in one currency."), ("dailyCap", "currency"))
    return StandingOrder(
        meter_id=known_id(wanted.meter_id, "mtr", "No such meter."),
        saved_method_id=known_id(wanted.card_id, "pmt", "No such card."),
        currency=wanted.amount.currency,
        threshold_days=wanted.threshold_days,
        mode=wanted.mode,
        amount_minor=to_minor(wanted.amount.amount, wanted.amount.currency),
        daily_cap_minor=to_minor(wanted.daily_cap.amount, wanted.daily_cap.currency),
    )
