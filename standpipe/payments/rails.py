"""The rails that are set up, and what customers pay for using each."""

from collections.abc import Iterator, Mapping

from standpipe.payments.provider import PaymentMethod, Provider, ProviderUnavailableError
from standpipe.payments.split import NO_FEE, FeeRule
from standpipe.platform.errors import AmountOutOfRangeError, InvalidInputError


class Rails(dict[str, Provider]):
    """Providers by name. ``service_fees``: by method id, what the customer pays for paying that way."""

    def __init__(self, providers: Mapping[str, Provider], service_fees: Mapping[str, FeeRule] | None = None) -> None:
        super().__init__(providers)
        self.service_fees = dict(service_fees or {})


def fee_rule(providers: Mapping[str, Provider], method_id: str) -> FeeRule:
    """The service fee of a method; none where no rule is set."""
    return providers.service_fees.get(method_id, NO_FEE) if isinstance(providers, Rails) else NO_FEE


def methods_in(providers: Mapping[str, Provider], currency: str) -> Iterator[tuple[Provider, PaymentMethod]]:
    """Every way to pay in a currency."""
    for provider in providers.values():
        for method in provider.methods(currency):
            yield provider, method


def find_method(
    providers: Mapping[str, Provider], currency: str, method_id: str
) -> tuple[Provider, PaymentMethod] | None:
    """The method with this id in this currency, with its provider."""
    found = (pair for pair in methods_in(providers, currency) if pair[1].id == method_id)
    return next(found, None)


def check_amount(method: PaymentMethod, amount_minor: int, currency: str, field: tuple[str, ...]) -> None:
    """Raises AmountOutOfRangeError, InvalidInputError for an amount that a method cannot take."""
    if not method.minimum_minor <= amount_minor <= method.maximum_minor:
        raise AmountOutOfRangeError(method.minimum_minor, method.maximum_minor, currency, field)
    if amount_minor % method.step_minor:
        raise InvalidInputError(f"{method.label} takes whole amounts only.", field)


def provider_of(providers: Mapping[str, Provider], name: str) -> Provider:
    """The provider of a top-up. Raises ProviderUnavailableError where it is turned off now: its payments can wait."""
    if name not in providers:
        raise ProviderUnavailableError(name, "it is not set up")
    return providers[name]
