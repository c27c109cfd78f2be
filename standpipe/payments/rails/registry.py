"""The rails that are set up, and what customers pay for using each."""

from collections.abc import Iterator, Mapping

from standpipe.payments.rails.port import PaymentMethod, Rail, RailUnavailableError
from standpipe.payments.split import NO_FEE, FeeRule
from standpipe.platform.errors import AmountOutOfRangeError, InvalidInputError
from standpipe.platform.language import phrase


class Rails(dict[str, Rail]):
    """Providers by name. ``service_fees``: by method id, what the customer pays for paying that way."""

    def __init__(self, rails: Mapping[str, Rail], service_fees: Mapping[str, FeeRule] | None = None) -> None:
        super().__init__(rails)
        self.service_fees = dict(service_fees or {})


def fee_rule(rails: Mapping[str, Rail], method_id: str) -> FeeRule:
    """The service fee of a method; none where no rule is set."""
    return rails.service_fees.get(method_id, NO_FEE) if isinstance(rails, Rails) else NO_FEE


def methods_in(rails: Mapping[str, Rail], currency: str) -> Iterator[tuple[Rail, PaymentMethod]]:
    """Every way to pay in a currency."""
    for rail in rails.values():
        for method in rail.methods(currency):
            yield rail, method


def find_method(rails: Mapping[str, Rail], currency: str, method_id: str) -> tuple[Rail, PaymentMethod] | None:
    """The method with this id in this currency, with its provider."""
    found = (pair for pair in methods_in(rails, currency) if pair[1].id == method_id)
    return next(found, None)


def check_amount(method: PaymentMethod, amount_minor: int, currency: str, field: tuple[str, ...]) -> None:
    """Raises AmountOutOfRangeError, InvalidInputError for an amount that a method cannot take."""
    if not method.minimum_minor <= amount_minor <= method.maximum_minor:
        raise AmountOutOfRangeError(method.minimum_minor, method.maximum_minor, currency, field)
    if amount_minor % method.step_minor:
        raise InvalidInputError(phrase("{method} takes whole amounts only.", method=phrase(method.label)), field)


def rail_of(rails: Mapping[str, Rail], name: str) -> Rail:
    """The rail of a payment. Raises RailUnavailableError where it is turned off now: its payments can wait."""
    if name not in rails:
        raise RailUnavailableError(name, "it is not set up")
    return rails[name]
