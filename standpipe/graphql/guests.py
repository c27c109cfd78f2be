"""Top-ups by meter number without an account. What is shown here is what any stranger may know."""

from datetime import datetime
from typing import Annotated

import strawberry

from standpipe.graphql.base import CurrencyCode, Money, money
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, user_error
from standpipe.graphql.top_ups import (
    POLL_AFTER_MS,
    STATUS_TEXT,
    TopUpAction,
    TopUpFailure,
    TopUpMethod,
    action_of,
    failure_of,
    method_of,
)
from standpipe.payments import guests
from standpipe.payments.receipt_text import guest_text, number_text
from standpipe.payments.receipts import SALE
from standpipe.payments.top_ups import refresh
from standpipe.payments.views import TERMINAL, TopUpStatus, TopUpView
from standpipe.platform.errors import StandpipeError
from standpipe.platform.ids import is_id
from standpipe.platform.language import to_translate, translate
from standpipe.vending.views import grouped

_DONE_FOR_THE_PAYER = TERMINAL | {TopUpStatus.PAID, TopUpStatus.SENDING_TO_METER, TopUpStatus.TOKEN_ISSUED}
"""The money is there, or will not be. What the meter does with it is the household's to follow."""

_STATUS_TEXT = STATUS_TEXT | {
    # The same words whether credit goes to the meter or dues took it all.
    TopUpStatus.PAID: to_translate("Paid. The money is with the utility, for this meter."),
    TopUpStatus.TOKEN_ISSUED: to_translate("Paid. Pass the token on: it is typed on the meter's keypad."),
}


@strawberry.type(description="A meter, as whoever knows its number may see it.")
class GuestMeter:
    """Nothing of the household but a masked name."""

    number: str = strawberry.field(description="As it is printed on the meter.")
    name: str | None = strawberry.field(
        description="First letters, so that the payer sees that it is the right one: A••• M•••. Null where the meter "
        "takes no money by this way."
    )
    currency: CurrencyCode = strawberry.field(description="The only one that this meter takes.")
    takes_money: bool = strawberry.field(description="Whether guestTopUpStart would take an order for it now.")
    methods: list[TopUpMethod] = strawberry.field(description="Ways to pay, with their limits. No saved cards.")


@strawberry.type(description="A meter, or why there is none.")
class GuestMeterPayload:
    """Errors as data."""

    meter: GuestMeter | None = strawberry.field(description="Null where userErrors says why.")
    user_errors: list[UserError] = strawberry.field(
        description="NOT_FOUND: no meter has this number. RATE_LIMITED: too many looks from this address."
    )


@strawberry.type(description="A number on the receipt, and a short text to keep.")
class GuestReceipt:
    """A guest's receipt: what was paid. What it became is on the household's own receipt."""

    number: str = strawberry.field(description="The utility's own, without gaps.")
    text: str = strawberry.field(description="At most 160 characters.")


@strawberry.type(description="Digits to pass on to the household: they work on the keypad of this meter alone, once.")
class GuestKeypadToken:
    """Without the volume: what is missing from it would tell what the household owes."""

    digits: str = strawberry.field(description="20 digits, without spaces.")
    display: str = strawberry.field(description="In groups of four.")
    issued_at: datetime = strawberry.field(description="When they were made.")


@strawberry.type(description="A top-up, as the guest who began it may see it.")
class GuestTopUp:
    """A top-up for its payer: the payment, and the digits to pass on. Neither credit nor debts nor balance."""

    view: strawberry.Private[TopUpView]

    @strawberry.field(description="As in topUpStart; ask for it again with the guest key.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self.view.id)

    @strawberry.field(description="Where it stands.")
    def status(self) -> TopUpStatus:
        return self.view.status

    @strawberry.field(description="The status in words for the payer.")
    def status_text(self, info: Ctx) -> str:
        return translate(_STATUS_TEXT[self.view.status], info.context.language)

    @strawberry.field(
        description="Nothing more is expected of the payer: it is paid, or will not be. Delivery goes on by itself, "
        "and a token may still come. A payment that failed may still arrive, and then counts."
    )
    def terminal(self) -> bool:
        return self.view.status in _DONE_FOR_THE_PAYER

    @strawberry.field(description="What the payer was asked to pay.")
    def pay(self, info: Ctx) -> Money:
        return money(self.view.pay_minor, self.view.currency, info.context.language)

    @strawberry.field(description="Of it, our service fee for this way to pay.")
    def fee(self, info: Ctx) -> Money:
        return money(self.view.fee_agreed_minor, self.view.currency, info.context.language)

    @strawberry.field(description="What has been given back to the payer, by refunds and disputes.")
    def given_back(self, info: Ctx) -> Money:
        return money(self.view.taken_back_minor, self.view.currency, info.context.language)

    @strawberry.field(description="How to pay; null once that is done.")
    def next_action(self, info: Ctx) -> TopUpAction | None:
        return action_of(self.view.next_action, info.context.language)

    @strawberry.field(description="Why a payment did not go through.")
    def failure(self, info: Ctx) -> TopUpFailure | None:
        return failure_of(self.view, info.context.language)

    @strawberry.field(description="Set where the meter could not be reached in time: pass these digits on.")
    async def keypad_token(self, info: Ctx) -> GuestKeypadToken | None:
        tokens = [token for token in await info.context.tokens.load(self.view.id) if not token.delivered]
        if not tokens:
            return None
        digits = tokens[0].digits
        return GuestKeypadToken(digits=digits, display=grouped(digits), issued_at=tokens[0].issued_at)

    @strawberry.field(description="The newest receipt of what was paid; null until there is one.")
    async def receipt(self, info: Ctx) -> GuestReceipt | None:
        sales = [view for view in await info.context.receipts.load(self.view.id) if view.kind == SALE]
        if not sales:
            return None
        return GuestReceipt(number=number_text(sales[-1]), text=guest_text(sales[-1], info.context.language))

    @strawberry.field(description="Poll interval; null when terminal.")
    def poll_after_ms(self) -> int | None:
        return None if self.view.status in _DONE_FOR_THE_PAYER else POLL_AFTER_MS


@strawberry.type
class GuestQuery:
    """Part of Query."""

    @strawberry.field(description="The meter that a payer without an account means. Looks are counted per address.")
    async def guest_meter(
        self,
        info: Ctx,
        number: Annotated[
            str,
            strawberry.argument(
                description="As it is printed on the meter; case, spaces and leading zeros do not matter."
            ),
        ],
    ) -> GuestMeterPayload:
        context = info.context
        services = context.services
        try:
            found = await guests.look(
                services.sessions,
                services.rails,
                number=number,
                address=services.caller(context.request),
                secret=services.signer.secret,
                now=services.clock.now(),
            )
        except StandpipeError as error:
            return GuestMeterPayload(meter=None, user_errors=[user_error(error, context.language)])
        meter = GuestMeter(
            number=found.number,
            name=found.name,
            currency=CurrencyCode(found.currency),
            takes_money=found.takes_money,
            methods=[method_of(method, found.currency, context.language) for method in found.methods],
        )
        return GuestMeterPayload(meter=meter, user_errors=[])

    @strawberry.field(description="A guest's top-up; null for every id that this key does not open. Send it by POST.")
    async def guest_top_up(
        self,
        info: Ctx,
        id: Annotated[strawberry.ID, strawberry.argument(description="As guestTopUpStart gave it (top_…).")],
        guest_key: Annotated[str, strawberry.argument(description="As guestTopUpStart gave it.")],
    ) -> GuestTopUp | None:
        services, top_up_id = info.context.services, str(id)
        if not guests.key_opens(services.signer.secret, top_up_id, guest_key) or not is_id(top_up_id, "top"):
            return None
        async with services.sessions() as conn:
            if not await guests.is_guests(conn, top_up_id):
                return None
        await refresh(services.sessions, services.rails, services.clock, top_up_id)
        return GuestTopUp(view=await info.context.top_ups.load(top_up_id))
