"""cardForget: a card is forgotten, here and at the payment provider."""

import strawberry

from standpipe.graphql.base import known_id
from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import USER_ERRORS, UserError, expected_failures
from standpipe.graphql.mutations.common import Input
from standpipe.graphql.saving import SavedCard, load_cards
from standpipe.payments import saved_methods


@strawberry.input(description="Forget a card, here and at the payment provider.")
class CardForgetInput:
    """The card to forget. Automatic top-ups that use it are turned off."""

    card_id: strawberry.ID = strawberry.field(
        description="One of viewer.savedCards. Standing orders that use it are turned off."
    )


@strawberry.type(description="The cards that remain.")
class CardsPayload:
    """Errors as data."""

    cards: list[SavedCard] = strawberry.field(
        default_factory=list, description="What the viewer has now; empty too where it failed."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=USER_ERRORS)


@strawberry.mutation(description="Forgets a card.")
@expected_failures(CardsPayload)
async def card_forget(info: Ctx, input: Input[CardForgetInput]) -> CardsPayload | None:
    services = info.context.services
    customer_id = await info.context.require_trusted_customer()
    card_id = known_id(input.card_id, "pmt", "No such card.")
    await saved_methods.forget(services.sessions, services.rails, customer_id=customer_id, saved_method_id=card_id)
    return CardsPayload(cards=await load_cards(info))
