"""Top-ups by meter number without an account. What is shown here is what any stranger may know."""

from datetime import datetime

import strawberry

from standpipe.customers.sign_in import normalise_phone
from standpipe.graphql.base import CurrencyCode, Money, MoneyInput, PhoneNumber, Url, money
from standpipe.graphql.context import Context, Ctx
from standpipe.graphql.errors import UserError, user_error
from standpipe.graphql.top_ups import (
    POLL_AFTER_MS,
    STATUS_TEXT,
    TopUpAction,
    TopUpFailure,
    TopUpMethod,
    action_of,
    is_web_address,
    method_of,
)
from standpipe.payments import guests
from standpipe.payments.receipt_text import guest_text, number_text
from standpipe.payments.receipts import SALE
from standpipe.payments.top_ups import refresh
from standpipe.payments.views import TERMINAL, TopUpStatus, TopUpView
from standpipe.platform.errors import InvalidInputError, StandpipeError
from standpipe.platform.ids import is_id
from standpipe.platform.language import to_translate, translate
from standpipe.platform.units import to_minor
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
    """What was paid; what it became is on the household's own receipt."""

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
    """What concerns the payer: the payment, and the digits to pass on. Neither credit nor debts nor balance."""

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
    def failure(self) -> TopUpFailure | None:
        if self.view.status is not TopUpStatus.FAILED:
            return None
        message = self.view.failure_message or "The payment did not go through."
        return TopUpFailure(code=self.view.failure_code or "unknown", message=message, retryable=True)

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

    top_up: GuestTopUp | None = strawberry.field(description="Null where userErrors says why.")
    guest_key: str | None = strawberry.field(description="Keep it: guestTopUp wants it. Whoever has it may look.")
    replayed: bool = strawberry.field(description="This key had begun it before.")
    user_errors: list[UserError] = strawberry.field(description="Why there is none.")


@strawberry.type
class GuestQuery:
    """Part of Query."""

    @strawberry.field(description="The meter that a payer without an account means. Looks are counted per address.")
    async def guest_meter(self, info: Ctx, number: str) -> GuestMeterPayload:
        context = info.context
        tools = context.tools
        try:
            found = await guests.look(
                tools.sessions,
                tools.rails,
                number=number,
                address=tools.caller(context.request),
                secret=tools.signer.secret,
                now=tools.clock.now(),
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
    async def guest_top_up(self, info: Ctx, id: strawberry.ID, guest_key: str) -> GuestTopUp | None:
        tools, top_up_id = info.context.tools, str(id)
        if not guests.key_opens(tools.signer.secret, top_up_id, guest_key) or not is_id(top_up_id, "top"):
            return None
        async with tools.sessions() as session:
            if not await guests.is_guests(session, top_up_id):
                return None
        await refresh(tools.sessions, tools.rails, tools.clock, top_up_id)
        return GuestTopUp(view=await info.context.top_ups.load(top_up_id))


@strawberry.type
class GuestMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="Begins a top-up by meter number, without an account; follow nextAction to pay.")
    async def guest_top_up_start(self, info: Ctx, input: GuestTopUpStartInput) -> GuestTopUpPayload | None:
        context = info.context
        tools = context.tools
        try:
            top_up_id, replayed = await guests.start(
                tools.sessions,
                tools.rails,
                tools.clock,
                key=str(input.idempotency_key),
                order=_order(input),
                address=tools.caller(context.request),
                secret=tools.signer.secret,
            )
        except StandpipeError as error:
            errors = [user_error(error, context.language)]
            return GuestTopUpPayload(top_up=None, guest_key=None, replayed=False, user_errors=errors)
        return await _payload(context, top_up_id, replayed=replayed)


def _order(wanted: GuestTopUpStartInput) -> guests.GuestOrder:
    if wanted.return_url is not None and not is_web_address(wanted.return_url):
        raise InvalidInputError("The return address must be an http(s) or app address.", ("returnUrl",))
    return guests.GuestOrder(
        number=wanted.number,
        pay_minor=to_minor(wanted.pay.amount, wanted.pay.currency),
        currency=wanted.pay.currency,
        method_id=str(wanted.method_id),
        phone=None if wanted.phone is None else normalise_phone(wanted.phone, []),
        return_url=wanted.return_url,
    )


async def _payload(context: Context, top_up_id: str, *, replayed: bool) -> GuestTopUpPayload:
    view = await context.top_ups.load(top_up_id)
    return GuestTopUpPayload(
        top_up=GuestTopUp(view=view),
        guest_key=guests.guest_key(context.tools.signer.secret, top_up_id),
        replayed=replayed,
        user_errors=[],
    )
