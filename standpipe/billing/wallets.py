"""Differences between the kinds of wallet, in one place (decisions 13 and 34). Pure.

A MONEY meter deducts by itself, by a price table: its tiers count consumption, and credit that it holds is priced when
its water is used. A VOLUME meter holds water that was priced when it was bought, in whole units: its tiers count
purchases, and what is left of a payment stays in its wallet for the next. ``wallet_of`` gives the rules of a kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from standpipe.billing.forecast import Forecast, forecast, forecast_volume
from standpipe.meters.models import WalletKind
from standpipe.tariffs.pricing import Place, charge_minor, volume_for_ml
from standpipe.tariffs.purchases import cost_of_units_minor, units_for_ml, whole_units_ml
from standpipe.tariffs.terms import Basis


class Wallet(Protocol):
    """The rules of one kind of wallet. Money in minor units, volumes in millilitres."""

    @property
    def basis(self) -> Basis:
        """Basis that its tiers count."""

    @property
    def deducts(self) -> bool:
        """Tell whether the meter deducts its credit itself: it then needs prices, and can have a reserve of money."""

    def counted(self, used: Mapping[date, int], bought: Mapping[date, int]) -> Mapping[date, int]:
        """The volumes by day that its tiers count."""

    def left_minor(self, wallet_minor: int) -> int:
        """Return the part of a wallet's rest that helps to pay the next purchase, in minor units."""

    def bought_for_ml(self, place: Place, amount_minor: int, unit_ml: int) -> int:
        """The most water that an amount buys."""

    def price_of(self, place: Place, volume_ml: int, unit_ml: int) -> tuple[int, int]:
        """Price a volume; return its price, and the volume that is then had."""

    def lasts(
        self, place: Place, wallet_minor: int, left_ml: int | None, daily_ml: Sequence[int], today: date
    ) -> Forecast | None:
        """Forecast how long the present credit lasts at the use of whole days."""


@dataclass(frozen=True, slots=True)
class MoneyWallet:
    """Credit is money, and is taken as water runs."""

    basis: Basis = Basis.CONSUMPTION
    deducts: bool = True

    def counted(self, used: Mapping[date, int], bought: Mapping[date, int]) -> Mapping[date, int]:  # noqa: ARG002
        """Count what was used."""
        return used

    def left_minor(self, wallet_minor: int) -> int:  # noqa: ARG002 - it is in the meter already.
        """Nothing: what is left is in the meter, and is priced when it is used."""
        return 0

    def bought_for_ml(self, place: Place, amount_minor: int, unit_ml: int) -> int:  # noqa: ARG002 - to the millilitre.
        """To the millilitre: one more would cost more than the amount."""
        return volume_for_ml(place.table, place.used_ml, amount_minor, place.carried_minor)

    def price_of(self, place: Place, volume_ml: int, unit_ml: int) -> tuple[int, int]:  # noqa: ARG002 - as above.
        """Just that volume."""
        return charge_minor(place.table, place.used_ml, volume_ml, place.carried_minor), volume_ml

    def lasts(
        self,
        place: Place,
        wallet_minor: int,
        left_ml: int | None,  # noqa: ARG002 - its meter holds money.
        daily_ml: Sequence[int],
        today: date,
    ) -> Forecast | None:
        """By the price of the water to come."""
        return forecast(place, credit_minor=wallet_minor, daily_ml=daily_ml, today=today)


@dataclass(frozen=True, slots=True)
class VolumeWallet:
    """Water is paid for when it is bought; the meter holds its volume."""

    basis: Basis = Basis.PURCHASE
    deducts: bool = False

    def counted(self, used: Mapping[date, int], bought: Mapping[date, int]) -> Mapping[date, int]:  # noqa: ARG002
        """Count what was bought."""
        return bought

    def left_minor(self, wallet_minor: int) -> int:
        """All of it."""
        return max(wallet_minor, 0)

    def bought_for_ml(self, place: Place, amount_minor: int, unit_ml: int) -> int:
        """Whole units only."""
        return units_for_ml(place, amount_minor, unit_ml)

    def price_of(self, place: Place, volume_ml: int, unit_ml: int) -> tuple[int, int]:
        """Rounded up to whole units."""
        return cost_of_units_minor(place, volume_ml, unit_ml), whole_units_ml(volume_ml, unit_ml)

    def lasts(
        self,
        place: Place,  # noqa: ARG002 - its water is paid for.
        wallet_minor: int,  # noqa: ARG002 - what makes no unit runs no tap.
        left_ml: int | None,
        daily_ml: Sequence[int],
        today: date,
    ) -> Forecast | None:
        """By the volume that the meter holds and will yet get."""
        return forecast_volume(left_ml, daily_ml=daily_ml, today=today)


MONEY, VOLUME = MoneyWallet(), VolumeWallet()


def wallet_of(kind: WalletKind | str) -> Wallet:
    """The rules of a kind of wallet."""
    return VOLUME if WalletKind(kind) is WalletKind.VOLUME else MONEY
