"""A provider whose truth a test moves at will, and sessions that crash where a test says."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.payments.rails.base import BaseRail
from standpipe.payments.rails.port import (
    MOBILE_POLLS_S,
    Capabilities,
    DisputeState,
    MethodKind,
    NoticeSubject,
    PaymentMethod,
    PaymentRequest,
    PaymentStatus,
    PaymentTruth,
    RailNotice,
    RailRefusedError,
    RailUnavailableError,
    RefundRequest,
    RefundStatus,
    RefundTruth,
    WebhookCall,
)
from standpipe.platform.database import Sessions

NAME = "scripted"


class CrashError(BaseException):
    """The process dies here. Not an Exception: nothing may catch it and go on."""


class CrashPoint:
    """Dies at the n-th step from now; a step is a commit or a call to the provider, each with a before and an after."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.died = 0

    def step(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            self.died += 1
            raise CrashError


class CrashingSessions:
    """A session factory whose transactions may die before or after their commit."""

    def __init__(self, sessions: Sessions, point: CrashPoint) -> None:
        self._sessions, self._point = sessions, point

    def __call__(self) -> Any:
        return self._sessions()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        async with self._sessions.begin() as session:
            yield session
            self._point.step()
        self._point.step()


@dataclass
class Payment:
    """A payment as the provider has it."""

    ref: str
    reference: str | None
    amount: int
    captured: int = 0
    failed: bool = False
    disputed: int = 0
    dispute: DisputeState | None = None
    account: str | None = None
    refunds: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def refunded(self) -> int:
        return sum(one["amount"] for one in self.refunds.values() if one["status"] == "SUCCEEDED")

    @property
    def claimed(self) -> int:
        return sum(one["amount"] for one in self.refunds.values() if one["status"] != "FAILED")


class ScriptedRail(BaseRail):
    """Answers from ``payments``. ``lose``: how many calls happen whose answers are lost."""

    name = NAME
    capabilities = Capabilities(
        MOBILE_POLLS_S, refunds=True, partial_refunds=True, reports_refunds=True, cancels=True, unsolicited=True
    )

    def __init__(self, point: CrashPoint) -> None:
        self.payments: dict[str, Payment] = {}
        self.lose = 0
        self.refunds_wait = False
        self._point = point

    def methods(self, currency: str) -> tuple[PaymentMethod, ...]:
        return (PaymentMethod(NAME, MethodKind.MOBILE_MONEY, "Scripted", 1, 10**9),)

    async def create(self, request: PaymentRequest) -> PaymentTruth:
        self._point.step()
        ref = f"p:{request.reference}"
        payment = self.payments.setdefault(ref, Payment(ref, request.reference, request.amount_minor))
        self._answered()
        return self._truth(payment)

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        self._point.step()
        if rail_ref not in self.payments:
            raise RailRefusedError(NAME, "none", "none")
        truth = self._truth(self.payments[rail_ref])
        self._answered()
        return truth

    async def find(self, request: PaymentRequest) -> PaymentTruth | None:
        found = self.payments.get(f"p:{request.reference}")
        return None if found is None else self._truth(found)

    async def refund(self, request: RefundRequest) -> RefundTruth:
        self._point.step()
        payment = self.payments[request.rail_ref]
        if request.key not in payment.refunds:
            if payment.claimed + request.amount_minor > payment.captured:
                raise RailRefusedError(NAME, "too_much", "too much")
            status = "PENDING" if self.refunds_wait else "SUCCEEDED"
            payment.refunds[request.key] = {"amount": request.amount_minor, "status": status}
        self._answered()
        return self._refund(payment, request.key)

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:
        return self._refund(self.payments[rail_ref], refund_ref)

    def authenticate(self, call: WebhookCall) -> None:
        """Everything is believed to be from us; what it says is not believed."""

    def parse(self, call: WebhookCall) -> RailNotice:
        body = json.loads(call.body)
        subject = NoticeSubject.UNSOLICITED if body.get("account") else NoticeSubject.PAYMENT
        return RailNotice(
            body["id"],
            "k",
            rail_ref=body["ref"],
            reference=body.get("account") or body["reference"],
            subject=subject,
        )

    async def close(self) -> None:
        """Nothing is open."""

    def _answered(self) -> None:
        self._point.step()
        if self.lose > 0:
            self.lose -= 1
            raise RailUnavailableError(NAME, "the answer was lost")

    def _truth(self, payment: Payment) -> PaymentTruth:
        status = PaymentStatus.FAILED if payment.failed else PaymentStatus.PENDING
        return PaymentTruth(
            rail_ref=payment.ref,
            reference=payment.reference,
            status=PaymentStatus.SUCCEEDED if payment.captured else status,
            currency="KES",
            requested_minor=payment.amount,
            captured_minor=payment.captured,
            refunded_minor=payment.refunded,
            refunds=tuple(self._refund(payment, key) for key in payment.refunds),
            disputed_minor=payment.disputed,
            dispute=payment.dispute,
            account_reference=payment.account,
        )

    def _refund(self, payment: Payment, key: str) -> RefundTruth:
        one = payment.refunds[key]
        return RefundTruth(key, one["amount"], "KES", RefundStatus(one["status"]))
