"""``standpipe trigger``, for app developers: makes a whole flow happen for a meter, at a stand-in for a provider.

It begins a top-up as the customer would, does at the sandbox or at Stripe's stand-in what a payer or a bank would do,
and waits until Standpipe has noticed. No real provider is ever asked.
"""

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated

import httpx
import typer
from sqlalchemy import select

from standpipe.households.models import HouseholdRole, Membership
from standpipe.meters.models import Meter
from standpipe.office.desk import at_desk, minor, out
from standpipe.operations.find import meter_of
from standpipe.payments import starting, top_ups
from standpipe.payments.models import Payment
from standpipe.payments.rails.registry import Rails
from standpipe.payments.starting import TopUpOrder
from standpipe.payments.views import TopUpStatus, top_ups_by_id
from standpipe.platform.database import Sessions
from standpipe.platform.errors import AmountOutOfRangeError, InvalidInputError, MeterBlockedError, NotFoundError
from standpipe.platform.ids import new_id
from standpipe.platform.setting_groups import StripeSettings
from standpipe.platform.settings import Settings
from standpipe.wiring import Database
from standpipe_demo import seed

LOOK_EVERY_S = 0.2
_PAID = frozenset({TopUpStatus.PAID, TopUpStatus.SENDING_TO_METER, TopUpStatus.TOKEN_ISSUED, TopUpStatus.ON_METER})
_FAILED = frozenset({TopUpStatus.FAILED})
_GIVEN_BACK = frozenset({TopUpStatus.REFUNDED})
_AT_STRIPE = {"approve": "succeed", "decline": "fail", "refund": "refund", "dispute": "chargeback"}


class Trigger(StrEnum):
    """Events that can be made to happen."""

    PAID = "topup.paid"
    ON_METER = "topup.on_meter"
    FAILED = "topup.failed"
    EXPIRED = "topup.expired"
    CANCELLED = "topup.cancelled"
    PAID_LATE = "topup.paid_late"
    PAID_TOLD_THRICE = "topup.paid_told_thrice"
    PAID_UNTOLD = "topup.paid_untold"
    REFUNDED = "topup.refunded"
    DISPUTED = "topup.disputed"


class Standin(StrEnum):
    """Stand-ins where an event happens."""

    SANDBOX = "sandbox"
    STRIPE = "stripe"


FLOWS: dict[Trigger, tuple[tuple[str, frozenset[TopUpStatus]], ...]] = {
    Trigger.PAID: (("approve", _PAID),),
    Trigger.ON_METER: (("approve", frozenset({TopUpStatus.ON_METER})),),
    Trigger.FAILED: (("decline", _FAILED),),
    Trigger.EXPIRED: (("expire", frozenset({TopUpStatus.EXPIRED})),),
    Trigger.CANCELLED: (("cancel", frozenset({TopUpStatus.CANCELLED})),),
    Trigger.PAID_LATE: (("decline", _FAILED), ("approve", _PAID)),
    Trigger.PAID_TOLD_THRICE: (("duplicate", _PAID),),
    Trigger.PAID_UNTOLD: (("lose", _PAID),),
    Trigger.REFUNDED: (("approve", _PAID), ("refund", _GIVEN_BACK)),
    Trigger.DISPUTED: (("approve", _PAID), ("dispute", _GIVEN_BACK)),
}
"""Steps of each event, one after the other, and what the top-up has to show before the next."""


@dataclass(slots=True)
class _Play:
    """One top-up, and where what happens to it is made to happen."""

    settings: Settings
    sessions: Sessions
    rails: Rails
    customer_id: str
    top_up_id: str
    standin: Standin
    seen: TopUpStatus | None = None

    async def do(self, action: str) -> None:
        """Do what a payer, a bank or the customer does. Raises InvalidInputError where the stand-in cannot."""
        if action == "cancel":
            out.print("The customer: cancel")
            await top_ups.cancel(
                self.sessions,
                self.rails,
                self.settings.clock,
                customer_id=self.customer_id,
                top_up_id=self.top_up_id,
            )
            return
        url = await self._url(action)
        out.print(f"POST {url}")
        try:
            async with httpx.AsyncClient(timeout=10) as http:
                answer = await http.post(url)
        except httpx.HTTPError as error:
            raise InvalidInputError(f"Nobody answers at {url}: is `standpipe demo` running?") from error
        if answer.status_code != HTTPStatus.OK:
            raise InvalidInputError(f"{url} says {answer.status_code}: {answer.text[:200]}")

    async def wait(self, wanted: frozenset[TopUpStatus], wait_s: float) -> None:
        """Until the top-up shows one of these. Raises InvalidInputError where it does not in time."""
        until_s = time.monotonic() + wait_s
        while True:
            async with self.sessions() as session:
                view = (await top_ups_by_id(session, [self.top_up_id]))[self.top_up_id]
            if view.status is not self.seen:
                self.seen = view.status
                out.print(f"{self.top_up_id}: {self.seen}")
            if self.seen in wanted:
                return
            if time.monotonic() > until_s:
                raise InvalidInputError(
                    f"After {wait_s:g} s it is still {self.seen}: are `standpipe serve` and `standpipe worker` running?"
                )
            await asyncio.sleep(LOOK_EVERY_S)

    async def _url(self, action: str) -> str:
        if self.standin is Standin.SANDBOX:
            return f"{self.settings.sandbox.url}/v1/references/{self.top_up_id}/{action}"
        if action not in _AT_STRIPE:
            raise InvalidInputError(f"Stripe's stand-in cannot {action}; take --method sandbox.")
        async with self.sessions() as session:
            intent_id = (await session.get_one(Payment, self.top_up_id)).rail_ref
        return f"{self.settings.stripe.api_base}/_control/payment_intents/{intent_id}/{_AT_STRIPE[action]}"


def trigger(
    event: Annotated[Trigger, typer.Argument(help="What is to happen.")],
    meter: Annotated[str | None, typer.Option(help="A serial; without it, the meter of the demo's customer.")] = None,
    amount: Annotated[str, typer.Option(help="In major units.")] = "200.00",
    method: Annotated[Standin, typer.Option(help="At which stand-in for a payment provider.")] = Standin.SANDBOX,
    wait_s: Annotated[float, typer.Option("--wait-s", min=1, help="For each step to be noticed.")] = 60,
) -> None:
    """Development only: make a top-up fail, be paid, be refunded…, and wait until it shows."""

    async def run(settings: Settings, database: Database, rails: Rails) -> None:
        _require_standin(settings, method)
        found, customer_id = await _payer(database.sessions, meter)
        order = TopUpOrder(found.id, minor(amount, found.currency), found.currency, method)
        try:
            top_up_id, _ = await starting.start(
                *(database.sessions, rails, settings.clock),
                customer_id=customer_id,
                idempotency_key=new_id("key"),
                order=order,
            )
        except (AmountOutOfRangeError, MeterBlockedError) as error:
            raise InvalidInputError(f"{amount} {found.currency} for {found.serial}: {error}") from error
        out.print(f"{top_up_id}: a top-up of {amount} {found.currency} for {found.serial} by {method}")
        play = _Play(settings, database.sessions, rails, customer_id, top_up_id, method)
        await play.wait(frozenset({TopUpStatus.AWAITING_CUSTOMER}), wait_s)
        for action, wanted in FLOWS[event]:
            await play.do(action)
            await play.wait(wanted, wait_s)

    at_desk(run)


def _require_standin(settings: Settings, method: Standin) -> None:
    """Raises InvalidInputError where only a real provider is configured."""
    if method is Standin.SANDBOX and settings.sandbox.url is None:
        raise InvalidInputError("There is no sandbox here; with the demo: source .data/demo.env")
    real = StripeSettings().api_base
    if method is Standin.STRIPE and settings.stripe.api_base == real:
        raise InvalidInputError(
            "That is the real Stripe, where nothing is triggered; with the demo: source .data/demo.env"
        )


async def _payer(sessions: Sessions, serial: str | None) -> tuple[Meter, str]:
    """A meter and an owner of its household. Raises NotFoundError."""
    async with sessions() as session:
        if serial is None:
            found = await session.get_one(Meter, await seed.demo_meter_id(sessions))
        else:
            found = await meter_of(session, serial)
        customer_id = await session.scalar(
            select(Membership.customer_id)
            .where(Membership.household_id == found.household_id, Membership.role == HouseholdRole.OWNER)
            .order_by(Membership.joined_at)
            .limit(1)
        )
    if customer_id is None:
        raise NotFoundError(f"Nobody owns the household of {found.serial}.")
    return found, customer_id
