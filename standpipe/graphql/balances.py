"""A meter's three balances as the app sees them: by our books, on the meter, on the way; and how long they last."""

from datetime import date, datetime

import strawberry

from standpipe.billing.emergency import emergency_offer_minor
from standpipe.billing.overview import MeterView
from standpipe.graphql.base import Money, Volume, money, volume
from standpipe.meters.models import WalletKind


@strawberry.type(description="How long the credit lasts.")
class Forecast:
    """Days at high, usual and low use."""

    days_low: float = strawberry.field(description="Days until empty if much water is used; at most 366.")
    days_likely: float = strawberry.field(
        description="Days until empty at the average of the last 28 whole days (of 7 at least); at most 366."
    )
    days_high: float = strawberry.field(description="Days until empty if little water is used; at most 366.")
    empty_on: date = strawberry.field(description="The day on which daysLikely ends, in the meter's time zone.")
    litres_left: Volume = strawberry.field(
        description="Water that the credit buys from here on at this period's prices. Of a meter that holds volume: "
        "what it holds, and what is on its way."
    )


@strawberry.type(description="ledger = onMeter (as last reported) + inFlight - usedSinceReport")
class Balance:
    """Three balances, shown apart."""

    ledger: Money = strawberry.field(description="What our books say.")
    on_meter: Money | None = strawberry.field(
        description="What the meter last said; null until it has spoken, and of a meter that holds volume."
    )
    on_meter_as_of: datetime | None = strawberry.field(description="When it said so.")
    in_flight: Money = strawberry.field(description="Credit on its way to the meter.")
    on_meter_volume: Volume | None = strawberry.field(
        description="What a meter that holds volume last said; null until it has spoken, and of one that holds money."
    )
    in_flight_volume: Volume | None = strawberry.field(
        description="Volume on its way to the meter; null of one that holds money."
    )
    arrears: Money = strawberry.field(
        description="Owed from before, or for credit whose payment was taken back; each top-up repays a share."
    )
    standing_due: Money = strawberry.field(
        description="Standing charges that have fallen due, whatever the valve does; the next top-up pays them."
    )
    emergency_credit: Money = strawberry.field(description="Emergency credit in use; the next top-up repays it first.")
    emergency_credit_available: Money = strawberry.field(
        description="What emergencyCreditActivate would give now; zero where it would refuse."
    )
    used_since_report: Money | None = strawberry.field(description="Booked use that the meter has not reported on.")
    lasts: Forecast | None = strawberry.field(description="Null while there are under 7 days of use.")


def balance_of(view: MeterView, language: str) -> Balance:
    """The three balances."""
    lasts, in_volume = view.lasts, view.wallet_kind is WalletKind.VOLUME
    on_meter_minor = None if in_volume else view.on_meter
    in_flight_minor = 0 if in_volume else view.in_flight
    known = on_meter_minor is not None
    used_minor = (on_meter_minor or 0) + in_flight_minor - view.ledger_minor
    return Balance(
        ledger=money(view.ledger_minor, view.currency, language),
        on_meter=money(on_meter_minor or 0, view.currency, language) if known else None,
        on_meter_as_of=view.on_meter_as_of,
        in_flight=money(in_flight_minor, view.currency, language),
        on_meter_volume=volume(view.on_meter, language) if in_volume and view.on_meter is not None else None,
        in_flight_volume=volume(view.in_flight, language) if in_volume else None,
        arrears=money(view.dues.debt_minor, view.currency, language),
        standing_due=money(view.dues.standing_minor, view.currency, language),
        emergency_credit=money(view.dues.emergency_minor, view.currency, language),
        emergency_credit_available=money(emergency_offer_minor(view), view.currency, language),
        used_since_report=money(used_minor, view.currency, language) if known else None,
        lasts=None
        if lasts is None
        else Forecast(
            days_low=round(lasts.days_low, 1),
            days_likely=round(lasts.days_likely, 1),
            days_high=round(lasts.days_high, 1),
            empty_on=lasts.empty_on,
            litres_left=volume(lasts.volume_left_ml, language),
        ),
    )
