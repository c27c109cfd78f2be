"""Mutations around money other than starting a top-up: vouchers, saved cards, standing orders."""

from typing import TYPE_CHECKING, Any

import strawberry

from standpipe.graphql.base import Money, MoneyInput, money
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import UserError, user_error
from standpipe.graphql.saving import AutoTopUp, SavedCard, load_auto_top_up, load_cards
from standpipe.graphql.top_ups import TopUp, TopUpAction, action_of, top_up_of
from standpipe.payments import auto_top_up, request_keys, saved_methods, vouchers
from standpipe.payments.auto_top_up import AutoMode, StandingOrder
from standpipe.platform.errors import InvalidInputError, NotFoundError, StandpipeError
from standpipe.platform.ids import is_id
from standpipe.platform.units import to_minor
from standpipe.usage import emergency

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

KEY = "idempotencyKey: a UUID made when the screen opens; same key and input replays the first answer."


@strawberry.type(description="A top-up, or why there is none.")
class TopUpPayload:
    """Errors as data."""

    top_up: TopUp | None
    replayed: bool
    user_errors: list[UserError]


@strawberry.input(description=f"Redeem a voucher for a meter. {KEY}")
class VoucherRedeemInput:
    """The code may be typed with or without dashes, in any case."""

    idempotency_key: strawberry.ID
    meter_id: strawberry.ID
    code: str


@strawberry.input(description=f"Begin to keep a card. {KEY}")
class CardSaveStartInput:
    """Follow nextAction; the card appears in viewer.savedCards."""

    idempotency_key: strawberry.ID


@strawberry.type(description="What to do to keep a card, or why it cannot be.")
class CardSavePayload:
    """Errors as data."""

    next_action: TopUpAction | None
    replayed: bool
    user_errors: list[UserError]


@strawberry.input(description="Forget a card, here and at the payment provider.")
class CardForgetInput:
    """Which. Standing orders that use it are turned off."""

    card_id: strawberry.ID


@strawberry.type(description="The cards that remain.")
class CardsPayload:
    """Errors as data."""

    cards: list[SavedCard]
    user_errors: list[UserError]


@strawberry.input(description=f"Set or change the standing order of a meter, and turn it on. {KEY}")
class AutoTopUpSetInput:
    """Amounts in the meter's currency."""

    idempotency_key: strawberry.ID
    meter_id: strawberry.ID
    card_id: strawberry.ID
    threshold_days: int
    mode: AutoMode
    amount: MoneyInput
    daily_cap: MoneyInput


@strawberry.input(description="Turn the standing order of a meter off.")
class AutoTopUpTurnOffInput:
    """A charge under way still counts."""

    meter_id: strawberry.ID


@strawberry.type(description="A standing order, or why there is none.")
class AutoTopUpPayload:
    """Errors as data."""

    auto_top_up: AutoTopUp | None
    replayed: bool
    user_errors: list[UserError]


@strawberry.input(description=f"Switch emergency credit on. {KEY}")
class EmergencyCreditActivateInput:
    """Possible when the credit is low; the next top-up repays it first."""

    idempotency_key: strawberry.ID
    meter_id: strawberry.ID


@strawberry.type(description="What was given, or why nothing was.")
class EmergencyCreditPayload:
    """Errors as data."""

    given: Money | None
    replayed: bool
    user_errors: list[UserError]


@strawberry.type
class MoneyMutation:
    """Part of Mutation."""

    @strawberry.mutation(description="Switches emergency credit on; it goes to the meter like a top-up.")
    async def emergency_credit_activate(
        self, info: Ctx, input: EmergencyCreditActivateInput
    ) -> EmergencyCreditPayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()

        async def act(session: "AsyncSession") -> dict[str, Any]:
            given = await emergency.activate(session, customer_id=customer_id, meter_id=meter_id, now=tools.clock.now())
            return {"amount_minor": given.amount_minor, "currency": given.currency}

        try:
            meter_id = _known_id(input.meter_id, "mtr", "No such meter.")
            result, replayed = await request_keys.once(
                tools.sessions,
                customer_id=customer_id,
                key=str(input.idempotency_key),
                mutation="emergencyCreditActivate",
                order={"meter_id": meter_id},
                act=act,
            )
        except StandpipeError as error:
            return EmergencyCreditPayload(given=None, replayed=False, user_errors=[user_error(error, context.language)])
        given = money(result["amount_minor"], result["currency"], context.language)
        return EmergencyCreditPayload(given=given, replayed=replayed, user_errors=[])

    @strawberry.mutation(description="Redeems a voucher: its value becomes credit at once.")
    async def voucher_redeem(self, info: Ctx, input: VoucherRedeemInput) -> TopUpPayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()
        try:
            meter_id = _known_id(input.meter_id, "mtr", "No such meter.")
            async with tools.sessions.begin() as session:
                top_up_id, replayed = await vouchers.redeem(
                    session,
                    customer_id=customer_id,
                    key=str(input.idempotency_key),
                    meter_id=meter_id,
                    code=input.code,
                    now=tools.clock.now(),
                )
            if top_up_id is None:
                raise InvalidInputError("This code does not work. Please check it, letter by letter.", ("code",))
        except StandpipeError as error:
            return TopUpPayload(top_up=None, replayed=False, user_errors=[user_error(error, context.language)])
        view = await context.top_ups.load(top_up_id)
        return TopUpPayload(top_up=top_up_of(view), replayed=replayed, user_errors=[])

    @strawberry.mutation(description="Begins to keep a card at the payment provider.")
    async def card_save_start(self, info: Ctx, input: CardSaveStartInput) -> CardSavePayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()
        try:
            action, replayed = await saved_methods.begin(
                tools.sessions, tools.rails, tools.clock, customer_id=customer_id, key=str(input.idempotency_key)
            )
        except StandpipeError as error:
            return CardSavePayload(next_action=None, replayed=False, user_errors=[user_error(error, context.language)])
        return CardSavePayload(next_action=action_of(action, context.language), replayed=replayed, user_errors=[])

    @strawberry.mutation(description="Forgets a card.")
    async def card_forget(self, info: Ctx, input: CardForgetInput) -> CardsPayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()
        try:
            card_id = _known_id(input.card_id, "pmt", "No such card.")
            await saved_methods.forget(tools.sessions, tools.rails, customer_id=customer_id, saved_method_id=card_id)
        except StandpipeError as error:
            return CardsPayload(cards=[], user_errors=[user_error(error, context.language)])
        return CardsPayload(cards=await load_cards(info), user_errors=[])

    @strawberry.mutation(description="Sets the standing order of a meter.")
    async def auto_top_up_set(self, info: Ctx, input: AutoTopUpSetInput) -> AutoTopUpPayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()
        try:
            order = _standing_order(input)
            replayed = await auto_top_up.set_order_once(
                tools.sessions,
                tools.rails,
                tools.clock,
                customer_id=customer_id,
                key=str(input.idempotency_key),
                order=order,
            )
        except StandpipeError as error:
            return AutoTopUpPayload(auto_top_up=None, replayed=False, user_errors=[user_error(error, context.language)])
        found = await load_auto_top_up(info, order.meter_id)
        return AutoTopUpPayload(auto_top_up=found, replayed=replayed, user_errors=[])

    @strawberry.mutation(description="Turns the standing order of a meter off.")
    async def auto_top_up_turn_off(self, info: Ctx, input: AutoTopUpTurnOffInput) -> AutoTopUpPayload | None:
        context = info.context
        tools, customer_id = context.tools, await context.require_trusted_customer()
        try:
            meter_id = _known_id(input.meter_id, "mtr", "No such meter.")
            async with tools.sessions.begin() as session:
                await auto_top_up.turn_off(session, customer_id=customer_id, meter_id=meter_id, now=tools.clock.now())
        except StandpipeError as error:
            return AutoTopUpPayload(auto_top_up=None, replayed=False, user_errors=[user_error(error, context.language)])
        found = await load_auto_top_up(info, meter_id)
        return AutoTopUpPayload(auto_top_up=found, replayed=False, user_errors=[])


def _known_id(id: strawberry.ID, prefix: str, missing: str) -> str:
    if not is_id(str(id), prefix):
        raise NotFoundError(missing)
    return str(id)


def _standing_order(wanted: AutoTopUpSetInput) -> StandingOrder:
    if wanted.amount.currency != wanted.daily_cap.currency:
        raise InvalidInputError("Amount and cap must be in one currency.", ("dailyCap", "currency"))
    return StandingOrder(
        meter_id=_known_id(wanted.meter_id, "mtr", "No such meter."),
        saved_method_id=_known_id(wanted.card_id, "pmt", "No such card."),
        currency=wanted.amount.currency,
        threshold_days=wanted.threshold_days,
        mode=wanted.mode,
        amount_minor=to_minor(wanted.amount.amount, wanted.amount.currency),
        daily_cap_minor=to_minor(wanted.daily_cap.amount, wanted.daily_cap.currency),
    )
