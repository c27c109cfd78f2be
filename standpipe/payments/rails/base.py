"""Defaults for what most rails do not offer, so that each writes only what it does. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from standpipe.payments.rails.port import (
    CardVault,
    PaymentTruth,
    RailRefusedError,
    RefundRequest,
    RefundTruth,
    SettlementLine,
)
from standpipe.platform.language import to_translate


class BaseRail:
    """Base of every rail: answers for what it cannot do. No state."""

    webhook_answer: dict[str, Any] = {"received": True}  # noqa: RUF012 - never changed; rails replace it whole.
    vault: CardVault | None = None
    name = ""

    async def cancel(self, rail_ref: str) -> PaymentTruth:
        """Most mobile money cannot be called back: it runs out by itself. Answers how it stands."""
        return await self.fetch(rail_ref)

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        """Every rail has its own."""
        raise NotImplementedError(rail_ref)

    async def refund(self, request: RefundRequest) -> RefundTruth:  # noqa: ARG002 - the signature is the port's.
        """Raise RailRefusedError: capabilities say that there are no refunds, and nobody should ask."""
        raise RailRefusedError(self.name, "unsupported", to_translate("This way to pay cannot give money back."))

    async def find_refund(self, request: RefundRequest) -> RefundTruth | None:  # noqa: ARG002
        """None: the key alone is safe."""
        return None

    async def fetch_refund(self, refund_ref: str, *, rail_ref: str) -> RefundTruth:  # noqa: ARG002
        """Raise RailRefusedError, as ``refund`` does."""
        raise RailRefusedError(self.name, "unsupported", to_translate("There is no such refund."))

    async def unsolicited(self, since: datetime, until: datetime) -> Sequence[PaymentTruth]:  # noqa: ARG002
        """None."""
        return ()

    async def settlements(self, since: datetime, until: datetime) -> Sequence[SettlementLine]:  # noqa: ARG002
        """None by this way; a file can be imported."""
        return ()
