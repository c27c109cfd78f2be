"""Saved cards and standing orders as the app sees them."""

from datetime import datetime

import strawberry

from standpipe.graphql.base import Money, Node, money
from standpipe.graphql.context import Ctx
from standpipe.payments.auto_top_up import AutoMode, AutoView, order_of_meter
from standpipe.payments.saved_methods import cards_of, refresh_setups
from standpipe.payments.vend_models import SavedMethod

strawberry.enum(
    AutoMode, name="AutoTopUpMode", description="FIXED: always the amount. UP_TO: what brings the balance up to it."
)


@strawberry.type(description="A card that the customer keeps at the payment provider.")
class SavedCard(Node):
    """Its last digits; the rest is at the provider."""

    brand: str
    last4: str
    expires: str | None = strawberry.field(description="YYYY-MM.")


@strawberry.type(description="A standing order that tops a meter up before its water runs out.")
class AutoTopUp(Node):
    """One per meter."""

    enabled: bool
    paused_reason: str | None = strawberry.field(
        description="Why it is off: customer, declined (too often in a row), card (it no longer works), moved."
    )
    threshold_days: int = strawberry.field(description="It charges when the credit lasts no longer than this.")
    mode: AutoMode
    amount: Money
    daily_cap: Money
    failures: int = strawberry.field(description="Declines in a row.")
    not_before: datetime | None = strawberry.field(description="After a decline it waits until then.")
    under_way: bool = strawberry.field(description="A charge is being made now.")
    card: SavedCard | None = strawberry.field(description="Only its owner sees the card.")


def card_of(row: SavedMethod) -> SavedCard:
    """A card for its owner."""
    return SavedCard(id=strawberry.ID(row.id), brand=row.brand, last4=row.last4, expires=row.expires)


def auto_top_up_of(view: AutoView, customer_id: str, language: str) -> AutoTopUp:
    """A standing order for a member of the household."""
    order, card = view.order, view.card
    return AutoTopUp(
        id=strawberry.ID(order.id),
        enabled=order.enabled,
        paused_reason=order.paused_reason,
        threshold_days=order.threshold_days,
        mode=AutoMode(order.mode),
        amount=money(order.amount_minor, order.currency, language),
        daily_cap=money(order.daily_cap_minor, order.currency, language),
        failures=order.failures,
        not_before=order.not_before,
        under_way=order.awaiting_top_up_id is not None,
        card=card_of(card) if card.customer_id == customer_id else None,
    )


async def load_auto_top_up(info: Ctx, meter_id: str) -> AutoTopUp | None:
    """The standing order of a meter that came out of the customer's own."""
    customer_id = info.context.require_customer()
    async with info.context.tools.sessions() as session:
        view = await order_of_meter(session, meter_id)
    return None if view is None else auto_top_up_of(view, customer_id, info.context.language)


async def load_cards(info: Ctx) -> list[SavedCard]:
    """The customer's cards; asks about one that was just saved and of which nobody has told us."""
    tools, customer_id = info.context.tools, info.context.require_customer()
    await refresh_setups(tools.sessions, tools.rails, tools.clock, customer_id=customer_id)
    async with tools.sessions() as session:
        return [card_of(row) for row in await cards_of(session, customer_id)]
