"""guestTopUpStart: begin a top-up by meter number, without an account."""

import strawberry

from standpipe.graphql.base import MoneyInput, PhoneNumber, Url
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, expected_failures
from standpipe.graphql.guests import GuestTopUp
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.top_ups import is_web_address
from standpipe.households.sign_in import normalise_phone
from standpipe.payments import guests
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase
from standpipe.platform.units import to_minor


@strawberry.input(description="Begin a top-up by meter number, without an account.")
class GuestTopUpStartInput:
    """Same key and input replays the first answer."""

    idempotency_key: strawberry.ID = strawberry.field(
        description="Random, 128 bits or more: a UUID made when the screen opens, or 22 characters of base64url."
    )
    number: str = strawberry.field(description="The meter's number; case, spaces and leading zeros do not matter.")
    pay: MoneyInput = strawberry.field(description="In the meter's currency, within the method's limits.")
    method_id: strawberry.ID = strawberry.field(description="One of guestMeter's methods.")
    phone: PhoneNumber | None = strawberry.field(
        default=None, description="Whose phone is to ring, where the method rings one; else it is not kept."
    )
    return_url: Url | None = strawberry.field(default=None, description="Where a payment page sends the payer back to.")


@strawberry.type(description="A guest's top-up and the key to look at it again, or why there is none.")
class GuestTopUpPayload:
    """Errors as data."""

    top_up: GuestTopUp | None = strawberry.field(default=None, description="Null where userErrors says why.")
    guest_key: str | None = strawberry.field(
        default=None, description="Keep it: guestTopUp wants it. Whoever has it may look."
    )
    replayed: bool = strawberry.field(default=False, description="This key had begun it before.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description="Why there is none.")


@strawberry.mutation(description="Begins a top-up by meter number, without an account; follow nextAction to pay.")
@expected_failures(GuestTopUpPayload)
async def guest_top_up_start(info: Ctx, input: Input[GuestTopUpStartInput]) -> GuestTopUpPayload | None:
    context, services = info.context, info.context.services
    top_up_id, replayed = await guests.start(
        services.sessions,
        services.rails,
        services.clock,
        key=str(input.idempotency_key),
        order=_order(input),
        address=services.caller(context.request),
        secret=services.signer.secret,
    )
    return GuestTopUpPayload(
        top_up=GuestTopUp(view=await context.top_ups.load(top_up_id)),
        guest_key=guests.guest_key(services.signer.secret, top_up_id),
        replayed=replayed,
    )


def _order(wanted: GuestTopUpStartInput) -> guests.GuestOrder:
    if wanted.return_url is not None and not is_web_address(wanted.return_url):
        raise InvalidInputError(phrase("The return address must be an http(s) or app address."), ("returnUrl",))
    return guests.GuestOrder(
        number=wanted.number,
        pay_minor=to_minor(wanted.pay.amount, wanted.pay.currency),
        currency=wanted.pay.currency,
        method_id=str(wanted.method_id),
        phone=None if wanted.phone is None else normalise_phone(wanted.phone, []),
        return_url=wanted.return_url,
    )
