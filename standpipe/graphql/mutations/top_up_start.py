"""topUpStart: begin to pay for a meter's credit."""

from collections.abc import Mapping
from functools import partial

import strawberry

from standpipe.graphql.base import MoneyInput, PhoneNumber, Url, known_id
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import expected_failures
from standpipe.graphql.mutations.common import KEY_FIELD, METER_FIELD, Input
from standpipe.graphql.mutations.top_up_payload import TopUpPayload, top_up_payload
from standpipe.graphql.quotes import agreed_of, quote_error
from standpipe.graphql.top_ups import is_web_address
from standpipe.households.sign_in import normalise_phone
from standpipe.payments import starting
from standpipe.payments.starting import TopUpOrder
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.language import phrase
from standpipe.platform.reconnect import once_more
from standpipe.platform.units import to_minor


@strawberry.input(
    description="idempotencyKey: a UUID made when the screen opens; same key and input replays the first answer."
)
class TopUpStartInput:
    """An order: the amount, the meter, and the way to pay."""

    idempotency_key: strawberry.ID = strawberry.field(description=KEY_FIELD)
    meter_id: strawberry.ID = strawberry.field(description=METER_FIELD)
    pay: MoneyInput = strawberry.field(
        description="In the meter's currency, within the method's limits; the fee is within it."
    )
    method_id: strawberry.ID = strawberry.field(description="One of the meter's topUpMethods.")
    phone: PhoneNumber | None = strawberry.field(
        default=None, description="Who pays, where the method rings a phone; without it, the customer's own number."
    )
    return_url: Url | None = strawberry.field(
        default=None, description="Where a payment page sends the payer back to: an http(s) or app address."
    )
    quote_id: strawberry.ID | None = strawberry.field(
        default=None, description="A quote for this amount and method: the top-up gives exactly it, or QUOTE_CHANGED."
    )


@strawberry.mutation(description="Begins a top-up; follow nextAction to pay.")
@expected_failures(TopUpPayload, told=quote_error)
async def top_up_start(info: Ctx, input: Input[TopUpStartInput]) -> TopUpPayload | None:
    context, services = info.context, info.context.services
    customer_id = await context.require_trusted_customer()
    order = _order(input)
    start = partial(
        starting.start,
        services.sessions,
        services.rails,
        services.clock,
        customer_id=customer_id,
        idempotency_key=str(input.idempotency_key),
        order=order,
        agree=lambda: _agreed(context, order),
    )
    # Idempotent by its key, whatever became of a COMMIT.
    top_up_id, replayed = await once_more(start, idempotent=True)
    return await top_up_payload(info, top_up_id, replayed=replayed)


def _order(wanted: TopUpStartInput) -> TopUpOrder:
    if wanted.return_url is not None and not is_web_address(wanted.return_url):
        raise InvalidInputError(phrase("The return address must be an http(s) or app address."), ("returnUrl",))
    return TopUpOrder(
        meter_id=known_id(wanted.meter_id, "mtr", "No such meter."),
        pay_minor=to_minor(wanted.pay.amount, wanted.pay.currency),
        currency=wanted.pay.currency,
        method_id=str(wanted.method_id),
        return_url=wanted.return_url,
        phone=None if wanted.phone is None else normalise_phone(wanted.phone, []),
        quote_id=None if wanted.quote_id is None else str(wanted.quote_id),
    )


async def _agreed(context: Context, order: TopUpOrder) -> Mapping[str, int] | None:
    """Return what the customer was quoted for this order, if it was ordered by a quote."""
    if order.quote_id is None:
        return None
    view = await context.meters.load(order.meter_id)
    if view is None:
        raise NotFoundError("No such meter.")
    return agreed_of(context, view, order.pay_minor, order.method_id, order.quote_id)
