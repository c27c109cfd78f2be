"""Mutations. Payloads are nullable and carry expected failures as data."""

from collections.abc import Mapping
from functools import partial

import strawberry

from standpipe.customers.sign_in import normalise_phone
from standpipe.graphql.accounts import AccountMutation
from standpipe.graphql.alerts import AlertMutation
from standpipe.graphql.base import MoneyInput, PhoneNumber, Url
from standpipe.graphql.claim_mutations import ClaimMutation
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.devices import DeviceMutation
from standpipe.graphql.errors import user_error
from standpipe.graphql.guests import GuestMutation
from standpipe.graphql.member_mutations import MemberMutation
from standpipe.graphql.money_mutations import MoneyMutation, TopUpPayload
from standpipe.graphql.operators import OperatorMutation
from standpipe.graphql.preferences import PreferencesMutation
from standpipe.graphql.quotes import agreed_of, quote_error
from standpipe.graphql.sign_in import SignInMutation
from standpipe.graphql.top_ups import is_web_address, top_up_of
from standpipe.payments import top_ups
from standpipe.payments.top_ups import TopUpOrder
from standpipe.platform.errors import InvalidInputError, NotFoundError, StandpipeError
from standpipe.platform.ids import is_id
from standpipe.platform.reconnect import once_more
from standpipe.platform.units import to_minor


@strawberry.input(
    description="idempotencyKey: a UUID made when the screen opens; same key and input replays the first answer."
)
class TopUpStartInput:
    """What to pay for which meter, and how."""

    idempotency_key: strawberry.ID
    meter_id: strawberry.ID
    pay: MoneyInput
    method_id: strawberry.ID
    phone: PhoneNumber | None = strawberry.field(
        default=None, description="Who pays, where the method rings a phone; without it, the customer's own number."
    )
    return_url: Url | None = None
    quote_id: strawberry.ID | None = strawberry.field(
        default=None, description="A quote for this amount and method: the top-up gives exactly it, or QUOTE_CHANGED."
    )


@strawberry.input(description="Stop a top-up that was not paid.")
class TopUpCancelInput:
    """Which."""

    top_up_id: strawberry.ID


@strawberry.type
class Mutation(
    SignInMutation,
    AccountMutation,
    MoneyMutation,
    GuestMutation,
    ClaimMutation,
    MemberMutation,
    AlertMutation,
    DeviceMutation,
    PreferencesMutation,
    OperatorMutation,
):
    """Where changing starts."""

    @strawberry.mutation(description="Begins a top-up; follow nextAction to pay.")
    async def top_up_start(self, info: Ctx, input: TopUpStartInput) -> TopUpPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            order = _order(input)
            start = partial(
                top_ups.start,
                context.tools.sessions,
                context.tools.rails,
                context.tools.clock,
                customer_id=customer_id,
                idempotency_key=str(input.idempotency_key),
                order=order,
                agree=lambda: _agreed(context, order),
            )
            # Idempotent by its key, whatever became of a COMMIT.
            top_up_id, replayed = await once_more(start, idempotent=True)
        except StandpipeError as error:
            return TopUpPayload(top_up=None, replayed=False, user_errors=[quote_error(error, context.language)])
        return await _payload(info, top_up_id, replayed=replayed)

    @strawberry.mutation(description="Stops a top-up that was not paid; one paid meanwhile is settled instead.")
    async def top_up_cancel(self, info: Ctx, input: TopUpCancelInput) -> TopUpPayload | None:
        context = info.context
        customer_id = await context.require_trusted_customer()
        try:
            if not is_id(input.top_up_id, "top"):
                raise NotFoundError("No such top-up.")
            await top_ups.cancel(
                context.tools.sessions,
                context.tools.rails,
                context.tools.clock,
                customer_id=customer_id,
                top_up_id=str(input.top_up_id),
            )
        except StandpipeError as error:
            return TopUpPayload(top_up=None, replayed=False, user_errors=[user_error(error, context.language)])
        return await _payload(info, str(input.top_up_id), replayed=False)


def _order(wanted: TopUpStartInput) -> TopUpOrder:
    if wanted.return_url is not None and not is_web_address(wanted.return_url):
        raise InvalidInputError("The return address must be an http(s) or app address.", ("returnUrl",))
    if not is_id(wanted.meter_id, "mtr"):
        raise NotFoundError("No such meter.")
    return TopUpOrder(
        meter_id=str(wanted.meter_id),
        pay_minor=to_minor(wanted.pay.amount, wanted.pay.currency),
        currency=wanted.pay.currency,
        method_id=str(wanted.method_id),
        return_url=wanted.return_url,
        phone=None if wanted.phone is None else normalise_phone(wanted.phone, []),
        quote_id=None if wanted.quote_id is None else str(wanted.quote_id),
    )


async def _agreed(context: Context, order: TopUpOrder) -> Mapping[str, int] | None:
    """What the customer was quoted for this order, if it was ordered by a quote."""
    if order.quote_id is None:
        return None
    view = await context.meters.load(order.meter_id)
    if view is None:
        raise NotFoundError("No such meter.")
    return agreed_of(context, view, order.pay_minor, order.method_id, order.quote_id)


async def _payload(info: Ctx, top_up_id: str, *, replayed: bool) -> TopUpPayload:
    view = await info.context.top_ups.load(top_up_id)
    return TopUpPayload(top_up=top_up_of(view), replayed=replayed, user_errors=[])
