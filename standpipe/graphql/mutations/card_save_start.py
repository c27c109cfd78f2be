"""cardSaveStart: begin to keep a card at the payment provider."""

import strawberry

from standpipe.graphql.context import Ctx
from standpipe.graphql.errors import USER_ERRORS, UserError, expected_failures
from standpipe.graphql.mutations.common import KEY, KEY_FIELD, REPLAYED, Input
from standpipe.graphql.top_ups import TopUpAction, action_of
from standpipe.payments import saved_methods


@strawberry.input(description=f"Begin to keep a card. {KEY}")
class CardSaveStartInput:
    """Follow nextAction; the card appears in viewer.savedCards."""

    idempotency_key: strawberry.ID = strawberry.field(description=KEY_FIELD)


@strawberry.type(description="What to do to keep a card, or why it cannot be.")
class CardSavePayload:
    """Errors as data."""

    next_action: TopUpAction | None = strawberry.field(
        default=None, description="How the customer enters the card; null where userErrors says why."
    )
    replayed: bool = strawberry.field(default=False, description=REPLAYED)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=USER_ERRORS)


@strawberry.mutation(description="Begins to keep a card at the payment provider.")
@expected_failures(CardSavePayload)
async def card_save_start(info: Ctx, input: Input[CardSaveStartInput]) -> CardSavePayload | None:
    services = info.context.services
    customer_id = await info.context.require_trusted_customer()
    action, replayed = await saved_methods.begin(
        services.sessions, services.rails, services.clock, customer_id=customer_id, key=str(input.idempotency_key)
    )
    return CardSavePayload(next_action=action_of(action, info.context.language), replayed=replayed)
