"""The provider protocol: what every payment rail must answer, in neutral frozen types. Pure.

A provider is *asked*, never believed when it tells: a webhook is a hint that names a payment, and ``fetch`` is the
truth that ``settle`` posts. Amounts are in our minor units (ISO 4217); each provider converts at its own edge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from standpipe.errors import StandpipeError


class PaymentStatus(StrEnum):
    """Where the provider says a payment stands. None of these is final for ever: a failed one can still succeed."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class MethodKind(StrEnum):
    """What the customer pays with."""

    CARD = "CARD"
    MOBILE_MONEY = "MOBILE_MONEY"
    WALLET_PAY = "WALLET_PAY"
    VOUCHER = "VOUCHER"
    BANK_REDIRECT = "BANK_REDIRECT"


@dataclass(frozen=True, slots=True)
class PaymentMethod:
    """A way to pay that a customer may choose; limits in minor units of the wallet's currency."""

    id: str
    kind: MethodKind
    label: str
    minimum_minor: int
    maximum_minor: int


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """What we ask a provider to collect. ``reference`` is the top-up's id and the idempotency key at once."""

    reference: str
    amount_minor: int
    currency: str
    description: str
    return_url: str | None


@dataclass(frozen=True, slots=True)
class PaymentTruth:
    """A payment as the provider has it now: running totals, not events."""

    provider_ref: str
    reference: str | None
    status: PaymentStatus
    currency: str
    requested_minor: int
    captured_minor: int
    refunded_minor: int
    failure_code: str | None = None
    failure_message: str | None = None
    next_action: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ProviderNotice:
    """An authenticated notice, reduced to what it is about. ``kind`` "" marks one that names no payment."""

    event_id: str
    kind: str
    provider_ref: str | None = None
    reference: str | None = None
    ignored: str | None = None


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund that the provider took on; what it came to shows in the next ``fetch``."""

    provider_ref: str
    amount_minor: int
    currency: str


class SignatureInvalidError(StandpipeError):
    """The notice does not come from the provider, or is too old or from the future. Nothing of it was stored."""


@dataclass
class ProviderUnavailableError(StandpipeError):
    """No answer, or none that tells the outcome: UNKNOWN, never FAILED. Ask again."""

    provider: str
    reason: str = field(default="")

    def __str__(self) -> str:
        return f"{self.provider} gave no usable answer: {self.reason}"


@dataclass
class ProviderRefusedError(StandpipeError):
    """The provider said no for good: no payment was created, and none will be by asking again."""

    provider: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.provider} refused: {self.code}"


class Provider(Protocol):
    """One payment rail."""

    name: str

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """What a customer may pay with in this currency; empty where the provider does not take it."""
        ...

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """Begin a payment. The same reference again yields the same payment.

        Raises ProviderUnavailableError where the outcome is unknown, ProviderRefusedError where there is none.
        """
        ...

    async def fetch(self, provider_ref: str) -> PaymentTruth:
        """The payment now. Raises ProviderUnavailableError or ProviderRefusedError (there is no such payment)."""
        ...

    async def find(self, reference: str) -> PaymentTruth | None:
        """The payment that carries our reference, or None: for a payment too old to be created again safely (P29)."""
        ...

    async def cancel(self, provider_ref: str) -> PaymentTruth:
        """Stop a payment that the customer has not made; answers what it has become (perhaps SUCCEEDED)."""
        ...

    async def refund(self, provider_ref: str, *, amount_minor: int, currency: str, key: str) -> Refund:
        """Give money back. The same ``key`` again is the same refund. Raises as ``create`` does."""
        ...

    def authenticate(self, headers: Mapping[str, str], body: bytes, now_s: float) -> None:
        """Verify a notice's signature over its raw bytes. Raises SignatureInvalidError; parses nothing before that."""
        ...

    def parse(self, body: bytes) -> ProviderNotice:
        """What an authenticated notice is about. Never raises: what cannot be read is stored as ``ignored``."""
        ...

    async def close(self) -> None:
        """Close the connections to the provider."""
        ...
