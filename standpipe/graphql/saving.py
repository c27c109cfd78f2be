"""Saved cards and standing orders as the app sees them."""

from datetime import datetime

import strawberry

from standpipe.graphql.base import Money, Node, described_enum, money
from standpipe.graphql.context import Ctx
from standpipe.payments.auto_top_up import AutoMode, AutoView, order_of_meter
from standpipe.payments.saved_methods import cards_of, refresh_setups
from standpipe.payments.vend_models import SavedMethod

described_enum(
    AutoMode,
    {
        AutoMode.FIXED: "Always the amount; nothing where less than it is left of the daily cap.",
        AutoMode.UP_TO: "What brings the balance up to the amount, within the daily cap; not for VOLUME meters.",
    },
    name="AutoTopUpMode",
    description="FIXED: always the amount. UP_TO: what brings the balance up to it.",
)


@strawberry.type(description="A card that the customer keeps at the payment provider.")
class SavedCard(Node):
    """Its last digits; the rest is at the provider."""

    brand: str = strawberry.field(description='As the payment provider names it, such as "visa".')
    last4: str = strawberry.field(description="The last four digits of its number.")
    expires: str | None = strawberry.field(description="YYYY-MM.")


@strawberry.type(description="A standing order that tops a meter up before its water runs out.")
class AutoTopUp(Node):
    """One per meter."""

    enabled: bool = strawberry.field(description="Whether it charges at all; pausedReason says why not.")
    paused_reason: str | None = strawberry.field(
        description="Why it is off: customer, declined (too often in a row), card (it no longer works), moved."
    )
    threshold_days: int = strawberry.field(description="It charges when the credit lasts no longer than this.")
    mode: AutoMode = strawberry.field(description="How a charge is reckoned from `amount`.")
    amount: Money = strawberry.field(description="FIXED: what each charge is. UP_TO: the balance to reach.")
    daily_cap: Money = strawberry.field(description="The most that it charges in one day of the meter's time zone.")
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
    async with info.context.services.sessions() as conn:
        view = await order_of_meter(conn, meter_id)
    return None if view is None else auto_top_up_of(view, customer_id, info.context.language)


async def load_cards(info: Ctx) -> list[SavedCard]:
    """The customer's cards; asks about one that was just saved and of which nobody has told us."""
    services, customer_id = info.context.services, info.context.require_customer()
    await refresh_setups(services.sessions, services.rails, services.clock, customer_id=customer_id)
    async with services.sessions() as conn:
        return [card_of(row) for row in await cards_of(conn, customer_id)]
