"""Top-ups as the app sees them."""

from datetime import datetime
from typing import Any

import strawberry

from standpipe.graphql.base import (
    Money,
    Node,
    Url,
    Volume,
    described_enum,
    money,
    volume,
)
from standpipe.graphql.context import Ctx
from standpipe.graphql.receipts import Receipt, receipt_of
from standpipe.payments.rails.port import MethodKind, PaymentMethod
from standpipe.payments.receipts import SALE
from standpipe.payments.views import TopUpStatus, TopUpView
from standpipe.platform.language import to_translate, translate
from standpipe.platform.units import is_storable
from standpipe.vending.views import TokenView, grouped

described_enum(
    TopUpStatus,
    {
        TopUpStatus.CREATED: "Being opened at the payment provider.",
        TopUpStatus.AWAITING_CUSTOMER: "The customer has to pay: follow nextAction.",
        TopUpStatus.PAID: "Paid; the meter gets the credit when it next wakes. Terminal where nothing goes there.",
        TopUpStatus.SENDING_TO_METER: "Sent to the meter, which has not confirmed it yet.",
        TopUpStatus.ON_METER: "The meter has confirmed the credit.",
        TopUpStatus.TOKEN_ISSUED: "The meter could not be reached in time: type the digits of keypadToken.",
        TopUpStatus.FAILED: "The payment did not go through. If it still arrives, it counts.",
        TopUpStatus.CANCELLED: "Stopped before it was paid.",
        TopUpStatus.EXPIRED: "The time to pay has run out.",
        TopUpStatus.REFUNDED: "All that was paid has been given back.",
    },
    name="TopUpStatus",
    description="Where a top-up stands.",
)
described_enum(
    MethodKind,
    {
        MethodKind.CARD: "A bank card.",
        MethodKind.MOBILE_MONEY: "Money kept with a mobile operator, such as M-Pesa or MTN MoMo.",
        MethodKind.WALLET_PAY: "A phone's own wallet, such as Apple Pay or Google Pay.",
        MethodKind.VOUCHER: "A voucher's code; see voucherRedeem.",
        MethodKind.BANK_REDIRECT: "A page of the provider's, for a bank transfer or what else it offers.",
    },
    name="TopUpMethodKind",
    description="What the customer pays with.",
)

POLL_AFTER_MS = 3_000
MAX_URL = 2_048
STATUS_TEXT = {
    TopUpStatus.CREATED: to_translate("Opening the payment."),
    TopUpStatus.AWAITING_CUSTOMER: to_translate("Waiting for your payment."),
    TopUpStatus.PAID: to_translate("Paid. The credit goes to the meter when it next wakes."),
    TopUpStatus.SENDING_TO_METER: to_translate("Sent to the meter; waiting for its answer."),
    TopUpStatus.ON_METER: to_translate("The meter has confirmed the credit."),
    TopUpStatus.TOKEN_ISSUED: to_translate("Type the token on the meter's keypad."),
    TopUpStatus.FAILED: to_translate("The payment did not go through. If it still arrives, it will be credited."),
    TopUpStatus.CANCELLED: to_translate("Cancelled."),
    TopUpStatus.EXPIRED: to_translate("The time to pay has run out."),
    TopUpStatus.REFUNDED: to_translate("Refunded."),
}
_NOTHING_TO_SEND = to_translate("Paid. Nothing of it goes to the meter; the receipt says what it became.")
_DECLINED = to_translate("The payment did not go through.")


@strawberry.interface(description="What the customer does next. Old apps that do not know the type show instructions.")
class TopUpAction:
    """The one thing that every next action has."""

    instructions: str = strawberry.field(
        description="What to do, in a sentence to show, in the language that the request asks for."
    )
    expires_at: datetime | None = strawberry.field(
        default=None, description="Until when it can be done; null where that is not known."
    )


@strawberry.type(description="Open Stripe's payment sheet with these.")
class StripePaymentSheet(TopUpAction):
    """For the Stripe SDK in the app."""

    publishable_key: str = strawberry.field(description="For the Stripe SDK.")
    client_secret: str = strawberry.field(description="Of the PaymentIntent. For this payer only: do not log it.")
    customer_id: str | None = strawberry.field(
        default=None, description="Stripe's id of the payer; null where they have none, as guests."
    )
    customer_session_client_secret: str | None = strawberry.field(
        default=None, description="Lets the sheet show saved cards; null where there is none."
    )


@strawberry.type(description="Open this page.")
class RedirectToUrl(TopUpAction):
    """For any browser."""

    url: Url = strawberry.field(
        description="A page of the payment provider, for any browser; it sends the payer on to returnUrl."
    )


@strawberry.type(description="The payer's phone rings; the PIN is typed there.")
class StkPush(TopUpAction):
    """For mobile money."""

    phone_masked: str = strawberry.field(description="The number that rings, with most digits hidden.")


@strawberry.type(description="Open Stripe's sheet to keep a card.")
class StripeCardSetup(TopUpAction):
    """For the Stripe SDK in the app."""

    publishable_key: str = strawberry.field(description="For the Stripe SDK.")
    client_secret: str = strawberry.field(description="Of the SetupIntent. For this customer only: do not log it.")
    customer_id: str | None = strawberry.field(
        default=None, description="Stripe's id of the customer who keeps the card."
    )
    customer_session_client_secret: str | None = strawberry.field(
        default=None, description="Lets the sheet show saved cards; null where there is none."
    )


@strawberry.type(description="A way to pay.")
class TopUpMethod:
    """Limits are in the meter's currency."""

    id: strawberry.ID = strawberry.field(description="For `methodId`.")
    kind: MethodKind = strawberry.field(description="What the customer pays with, for an icon.")
    label: str = strawberry.field(description="Its name, to show; a brand stays as it is.")
    minimum: Money = strawberry.field(description="The least in one payment, in the meter's currency.")
    maximum: Money = strawberry.field(description="The most in one payment, in the meter's currency.")
    phone_required: bool = strawberry.field(
        description="It rings a phone; topUpStart without `phone` takes the customer's own."
    )


def method_of(method: PaymentMethod, currency: str, language: str) -> TopUpMethod:
    """A payment method for its reader."""
    return TopUpMethod(
        id=strawberry.ID(method.id),
        kind=method.kind,
        label=translate(method.label, language),
        minimum=money(method.minimum_minor, currency, language),
        maximum=money(method.maximum_minor, currency, language),
        phone_required=method.phone_required,
    )


@strawberry.type(description="A step that a top-up has reached.")
class TopUpEvent:
    """Status and when."""

    status: TopUpStatus = strawberry.field(description="The step: any status but REFUNDED.")
    at: datetime = strawberry.field(description="When it was reached.")


@strawberry.type(description="Why a payment did not go through.")
class TopUpFailure:
    """``code`` is the provider's."""

    code: str = strawberry.field(description='The payment provider\'s own code; "unknown" where it gave none.')
    message: str = strawberry.field(description="For people.")
    retryable: bool = strawberry.field(description="Whether another try makes sense.")


def failure_of(view: TopUpView, language: str) -> TopUpFailure | None:
    """Say why a payment failed, in the reader's language; None for one that did not.

    A card's bank may have said why in words of its own; they stay as they are.
    """
    if view.status is not TopUpStatus.FAILED:
        return None
    message = translate(view.failure_message or _DECLINED, language)
    return TopUpFailure(code=view.failure_code or "unknown", message=message, retryable=True)


@strawberry.type(description="20 digits for the keypad of one meter; they work there once.")
class KeypadToken:
    """By IEC 62055-41."""

    digits: str = strawberry.field(description="Without spaces.")
    display: str = strawberry.field(description="In groups of four.")
    volume: Volume = strawberry.field(description="The water that it puts onto the meter.")
    issued_at: datetime = strawberry.field(description="When the digits were made.")
    entered_at: datetime | None = strawberry.field(
        description="When the meter said that it was typed; null too where its credit came by radio."
    )


def _token(view: TokenView, language: str) -> KeypadToken:
    return KeypadToken(
        digits=view.digits,
        display=grouped(view.digits),
        volume=volume(view.volume_ml, language),
        issued_at=view.issued_at,
        entered_at=view.entered_at,
    )


@strawberry.type
class TopUpFields(Node):
    """Payment and delivery in one status; ``graphql.meters`` adds the meter that gets the credit."""

    view: strawberry.Private[TopUpView]

    @strawberry.field(description="Payment and delivery in one.")
    def status(self) -> TopUpStatus:
        return self.view.status

    @strawberry.field(description="The status in words for the customer.")
    def status_text(self, info: Ctx) -> str:
        if self.view.nothing_to_send:
            return translate(_NOTHING_TO_SEND, info.context.language)
        return translate(STATUS_TEXT[self.view.status], info.context.language)

    @strawberry.field(description="Nothing more is expected. A payment that failed may still arrive, and then counts.")
    def terminal(self) -> bool:
        return self.view.terminal

    @strawberry.field(description="What the customer was asked to pay.")
    def pay(self, info: Ctx) -> Money:
        return money(self.view.pay_minor, self.view.currency, info.context.language)

    @strawberry.field(description="What has been booked to the meter's wallet so far.")
    def credit(self, info: Ctx) -> Money:
        return money(self.view.credit_minor, self.view.currency, info.context.language)

    @strawberry.field(description="Somebody paid it who is no member, by the meter's number; who is not told.")
    def gift(self) -> bool:
        return self.view.gift

    @strawberry.field(description="When it was begun.")
    def created_at(self) -> datetime:
        return self.view.created_at

    @strawberry.field(description="When payment or delivery last went a step on.")
    def updated_at(self) -> datetime:
        return self.view.updated_at

    @strawberry.field(description="How to pay, or to try again after FAILED; null where there is nothing to do here.")
    def next_action(self, info: Ctx) -> TopUpAction | None:
        return action_of(self.view.next_action, info.context.language)

    @strawberry.field(description="Why it failed; null unless the status is FAILED.")
    def failure(self, info: Ctx) -> TopUpFailure | None:
        return failure_of(self.view, info.context.language)

    @strawberry.field(description="The newest receipt of what was paid; null until there is one.")
    async def receipt(self, info: Ctx) -> Receipt | None:
        views = await info.context.receipts.load(self.view.id)
        sales = [view for view in views if view.kind == SALE]
        return receipt_of(info.context, sales[-1]) if sales else None

    @strawberry.field(description="All receipts, money given back included, in the order of their numbers.")
    async def receipts(self, info: Ctx) -> list[Receipt]:
        return [receipt_of(info.context, view) for view in await info.context.receipts.load(self.view.id)]

    @strawberry.field(
        description="Set when the meter could not be reached in time: type these digits on its keypad. The credit is "
        "the same one, and counts once, whether it is typed or still comes by radio."
    )
    async def keypad_token(self, info: Ctx) -> KeypadToken | None:
        tokens = await info.context.tokens.load(self.view.id)
        waiting = [token for token in tokens if not token.delivered] or tokens
        return _token(waiting[0], info.context.language) if waiting else None

    @strawberry.field(description="All its tokens, in the order in which they are to be typed; nearly always one.")
    async def keypad_tokens(self, info: Ctx) -> list[KeypadToken]:
        return [_token(token, info.context.language) for token in await info.context.tokens.load(self.view.id)]

    @strawberry.field(description="What has been given back to the payer, by refunds and disputes.")
    def given_back(self, info: Ctx) -> Money:
        return money(self.view.taken_back_minor, self.view.currency, info.context.language)

    @strawberry.field(description="Every step so far, oldest first.")
    def timeline(self) -> list[TopUpEvent]:
        return [TopUpEvent(status=event.status, at=event.at) for event in self.view.timeline]

    @strawberry.field(description="Poll interval for clients without a subscription; null when terminal.")
    def poll_after_ms(self) -> int | None:
        return None if self.view.terminal else POLL_AFTER_MS


def action_of(stored: dict[str, Any] | None, language: str) -> TopUpAction | None:
    """Read the next action that a rail left us; one that this release does not know still has its instructions."""
    if stored is None:
        return None

    def say(message: str, **gaps: Any) -> str:
        return translate(message, language).format(**gaps)

    if stored.get("type") == "stripe_payment_sheet":
        return StripePaymentSheet(
            instructions=say(to_translate("Pay by card in the sheet that opens.")),
            publishable_key=stored["publishable_key"],
            client_secret=stored["client_secret"],
            customer_id=stored.get("customer_id"),
            customer_session_client_secret=stored.get("customer_session_client_secret"),
        )
    if stored.get("type") == "stripe_setup":
        return StripeCardSetup(
            instructions=say(to_translate("Enter your card in the sheet that opens. Nothing is charged.")),
            publishable_key=stored["publishable_key"],
            client_secret=stored["client_secret"],
            customer_id=stored.get("customer_ref"),
            customer_session_client_secret=stored.get("customer_session_client_secret"),
        )
    if stored.get("type") == "stk_push":
        return StkPush(
            instructions=say(
                to_translate("Type your PIN on the phone {phone} when it asks."), phone=stored["phone_masked"]
            ),
            phone_masked=stored["phone_masked"],
        )
    if stored.get("type") == "redirect":
        return RedirectToUrl(
            instructions=say(to_translate("Approve the payment on the page that opens.")), url=Url(stored["url"])
        )
    return TopUpAction(instructions=say(to_translate("Follow your payment provider's instructions.")))


def is_web_address(url: str) -> bool:
    """Tell whether a payer may be sent back there: an http(s) or app address."""
    scheme, _, rest = url.partition("://")
    return (
        len(url) <= MAX_URL and bool(rest) and scheme.replace("-", "").replace(".", "").isalnum() and is_storable(url)
    )
