"""The provider protocol: what every payment rail must answer, in neutral frozen types. Pure.

A provider is *asked*, never believed when it tells: a webhook is a hint that names a payment, and ``fetch`` is the
truth that ``settle`` posts. Amounts are in our minor units (ISO 4217); each provider converts at its own edge. What
a rail can and cannot do is data (``Capabilities``), so that nobody asks by the provider's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from standpipe.platform.errors import StandpipeError


class PaymentStatus(StrEnum):
    """States of a payment at its provider. None of these is final for ever: a failed one can still succeed."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class RefundStatus(StrEnum):
    """States of a refund at its provider. A succeeded one can still fail: the bank sends it back."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class DisputeState(StrEnum):
    """INQUIRY moves no money; OPEN has taken it; WON gave it back; LOST is final."""

    INQUIRY = "INQUIRY"
    OPEN = "OPEN"
    WON = "WON"
    LOST = "LOST"


class MethodKind(StrEnum):
    """Kinds of means that the customer pays with."""

    CARD = "CARD"
    MOBILE_MONEY = "MOBILE_MONEY"
    WALLET_PAY = "WALLET_PAY"
    VOUCHER = "VOUCHER"
    BANK_REDIRECT = "BANK_REDIRECT"


class NoticeSubject(StrEnum):
    """Subjects of notices, which decide who works them: ``standpipe.payments.inbox``."""

    PAYMENT = "PAYMENT"
    UNSOLICITED = "UNSOLICITED"
    """Money that nobody ordered here: a paybill payment by meter number."""
    ANSWER = "ANSWER"
    """The late answer to a question that we asked."""
    SAVED_METHOD = "SAVED_METHOD"
    CUSTOMER = "CUSTOMER"
    PAYOUT = "PAYOUT"


CARD_POLLS_S = (30, 60, 120, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
MOBILE_POLLS_S = (10, 20, 30, 60, 120, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 48 * 3600)
"""Real seconds between the payment poller's questions; after the last a person must look. Never given up as failed."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities of a rail. ``reports_refunds``: ``fetch`` tells the total refunded, the dashboard's refunds too."""

    poll_after_s: tuple[int, ...]
    refunds: bool = False
    partial_refunds: bool = False
    reports_refunds: bool = False
    cancels: bool = False
    unsolicited: bool = False
    saved_methods: bool = False
    settlements: bool = False
    create_again_s: int = 23 * 3600
    """Seconds in which one reference safely yields one payment; later we only look (P29)."""


@dataclass(frozen=True, slots=True)
class PaymentMethod:
    """A way to pay that a customer may choose; limits in minor units of the wallet's currency.

    ``step_minor``: amounts must be a multiple of it (M-Pesa moves whole shillings).
    """

    id: str
    kind: MethodKind
    label: str
    minimum_minor: int
    maximum_minor: int
    phone_required: bool = False
    step_minor: int = 1


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """A payment to collect. ``reference`` is the top-up's id and the idempotency key at once.

    ``account_reference`` has at most 12 characters [A-Z0-9] and is the top-up's own, for rails that show or carry
    only so many. ``off_session``: the customer is not there; charge ``saved_method_ref`` of ``customer_ref``.
    """

    reference: str
    amount_minor: int
    currency: str
    description: str
    return_url: str | None
    method_id: str = ""
    account_reference: str = ""
    phone: str | None = None
    customer_ref: str | None = None
    saved_method_ref: str | None = None
    off_session: bool = False


@dataclass(frozen=True, slots=True)
class SavedCard:
    """A payment method that the customer keeps at the provider."""

    rail_ref: str
    customer_ref: str | None
    brand: str
    last4: str
    expires: str | None
    """``YYYY-MM``."""
    usable: bool = True


@dataclass(frozen=True, slots=True)
class RefundTruth:
    """One refund as the provider has it now. ``rail_ref`` is the refund's own id."""

    rail_ref: str
    amount_minor: int
    currency: str
    status: RefundStatus
    failure_code: str | None = None


@dataclass(frozen=True, slots=True)
class PaymentTruth:
    """A payment as the provider has it now: running totals, not events.

    ``aliases``: other ids of the same payment (a Checkout Session's PaymentIntent). ``receipt_ref``: the number on
    the payer's own receipt. ``refunded_minor`` counts refunds that have succeeded, ``disputed_minor`` what disputes
    have taken and not given back, ``dispute_fee_minor`` what they cost us. ``account_reference``: what the payer
    typed, for unsolicited money.
    """

    rail_ref: str
    reference: str | None
    status: PaymentStatus
    currency: str
    requested_minor: int
    captured_minor: int
    refunded_minor: int
    failure_code: str | None = None
    failure_message: str | None = None
    next_action: dict[str, Any] | None = None
    aliases: tuple[str, ...] = ()
    receipt_ref: str | None = None
    refunds: tuple[RefundTruth, ...] = ()
    disputed_minor: int = 0
    dispute_fee_minor: int = 0
    dispute: DisputeState | None = None
    saved_card: SavedCard | None = None
    account_reference: str | None = None
    payer: str | None = None
    """Masked phone or name, for a person who works suspense; never used to match."""
    paid_at: datetime | None = None
    captured_is_request: bool = False
    """It succeeded, and this rail moves exactly what was asked for without telling how much that was."""
    retryable: bool = True
    """Trying again may help after a failure."""


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """Money to give back. The same ``key`` again is the same refund; it is an id of ours, of the form of ``ref_…``."""

    key: str
    rail_ref: str
    receipt_ref: str | None
    amount_minor: int
    currency: str
    reason: str


@dataclass(frozen=True, slots=True)
class WebhookCall:
    """A notice as it came in. ``tail`` is the path after ``/webhooks/{rail}/``, "" where there is none.

    ``address``: who really called, after trusted proxies; None where that cannot be told.
    """

    headers: Mapping[str, str]
    body: bytes
    now_s: float
    tail: str = ""
    address: str | None = None


@dataclass(frozen=True, slots=True)
class RailNotice:
    """An authenticated notice, reduced to what it is about. ``ignored``: kept, with this reason, and not worked.

    ``answer_to``: the question (conversation id) that an ANSWER answers. ``receipt_ref``: a hint, for matching only.
    """

    event_id: str
    kind: str
    rail_ref: str | None = None
    reference: str | None = None
    ignored: str | None = None
    subject: NoticeSubject = NoticeSubject.PAYMENT
    answer_to: str | None = None
    receipt_ref: str | None = None


class SettlementKind(StrEnum):
    """Kinds of line in a provider's statement."""

    PAYMENT = "PAYMENT"
    REFUND = "REFUND"
    DISPUTE = "DISPUTE"
    FEE = "FEE"
    PAYOUT = "PAYOUT"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """A line of a provider's own statement. ``gross_minor`` is signed from our side: a payment +, a refund −.

    ``fee_minor`` is what the provider kept (≥ 0 for a fee, < 0 for one given back); net = gross − fee. A PAYOUT has
    the negative gross that left the provider for our bank.
    """

    external_id: str
    kind: SettlementKind
    payment_ref: str | None
    currency: str
    gross_minor: int
    fee_minor: int
    occurred_at: datetime
    payout_ref: str | None = None
    description: str = ""


class SignatureInvalidError(StandpipeError):
    """The notice does not come from the provider, or is too old or from the future. Nothing of it was stored."""


@dataclass
class RailUnavailableError(StandpipeError):
    """No answer, or none that tells the outcome: UNKNOWN, never FAILED. Ask again."""

    rail: str
    reason: str = field(default="")

    def __str__(self) -> str:
        return f"{self.rail} gave no usable answer: {self.reason}"


@dataclass
class RailRefusedError(StandpipeError):
    """The provider said no for good: no payment was created, and none will be by asking again."""

    rail: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.rail} refused: {self.code}"


class AsyncResults(Protocol):
    """Memory for rails that answer a question by a later callback (M-Pesa): ``standpipe.payments.async_results``."""

    async def expect(self, rail: str, *, conversation_id: str, topic: str) -> bool:
        """Note a question before it is asked; False where the same topic was asked a moment ago and is still open."""
        ...

    async def recall(self, rail: str, topic: str) -> bytes | None:
        """The newest answer on a topic, raw as it came, or None."""
        ...


class CardVault(Protocol):
    """A provider that keeps cards for its customers."""

    async def ensure_customer(self, owner: str) -> str:
        """The provider's id of our customer ``owner``, made at the first call; the same one again afterwards."""
        ...

    async def begin_save(self, *, key: str, customer_ref: str | None, owner: str) -> dict[str, Any]:
        """Begin saving a card; answers a next action, which holds ``customer_ref`` and ``setup_ref``.

        ``owner`` is our customer's id; without a ``customer_ref`` a customer is made for it, once.
        """
        ...

    async def fetch_setup(self, setup_ref: str) -> SavedCard | None:
        """The card that a finished setup saved; None where it is not finished."""
        ...

    async def fetch_card(self, card_ref: str) -> SavedCard:
        """A saved card now; ``usable`` False for one that was detached."""
        ...

    async def forget_card(self, card_ref: str) -> None:
        """Detach it; one that is gone already is no error."""
        ...

    async def forget_customer(self, customer_ref: str) -> None:
        """Delete a customer and what hangs on them; payments stay. One that is gone already is no error."""
        ...


class Rail(Protocol):
    """One payment rail."""

    name: str
    capabilities: Capabilities
    webhook_answer: dict[str, Any]
    """The body of our 2xx, where the provider wants a certain one."""
    vault: CardVault | None

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        """List the ways to pay in this currency; empty where the provider does not take it."""
        ...

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        """Begin a payment. The same reference again yields the same payment.

        Raises RailUnavailableError where the outcome is unknown, RailRefusedError where there is none.
        """
        ...

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """The payment now. Raises RailUnavailableError or RailRefusedError (there is no such payment)."""
        ...

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:
        """The payment that carries our reference, or None: for a payment too old to be created again safely (P29)."""
        ...

    async def cancel(self, rail_ref: str) -> PaymentTruth:
        """Stop a payment that the customer has not made; answers what it has become (perhaps SUCCEEDED)."""
        ...

    async def refund(self, request: RefundRequest) -> RefundTruth:
        """Give money back. Raises as ``create`` does."""
        ...

    async def find_refund(self, request: RefundRequest) -> RefundTruth | None:
        """The refund that carries our key, for one whose first call was never answered; None where there is none,
        and on rails where the same key never refunds twice however late it comes.
        """
        ...

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:
        """A refund now. Raises as ``fetch`` does."""
        ...

    def authenticate(self, call: WebhookCall) -> None:
        """Verify who sent a notice, from its raw bytes. Raises SignatureInvalidError; parses nothing before that."""
        ...

    def parse(self, call: WebhookCall) -> RailNotice:
        """Tell what an authenticated notice is about. Never raises: what cannot be read is stored as ``ignored``."""
        ...

    async def unsolicited(self, since: datetime, until: datetime) -> Sequence[PaymentTruth]:
        """Money that came in without an order of ours, asked for (M-Pesa's pull): finds lost confirmations."""
        ...

    async def settlements(self, since: datetime, until: datetime) -> Sequence[SettlementLine]:
        """The provider's own statement of these days, newest news included."""
        ...

    async def close(self) -> None:
        """Close the connections to the provider."""
        ...
