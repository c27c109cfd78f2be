"""States of a refund. Pure.

REQUESTED (by one operator) → approved by another: AWAITING_METER (the meter has to prove that it does not hold the
credit) → READY → SENT (the provider has it) → DONE. Or DENIED (the meter held the credit after all, or nobody
approved), or FAILED (the provider could not pay it back; the credit is restored). A refund that was DONE can still
fail: the bank sends it back.
"""

from enum import StrEnum

from standpipe.payments.rails.port import RefundStatus


class RefundState(StrEnum):
    """See the module."""

    REQUESTED = "REQUESTED"
    AWAITING_METER = "AWAITING_METER"
    READY = "READY"
    SENT = "SENT"
    DONE = "DONE"
    DENIED = "DENIED"
    FAILED = "FAILED"


AT_PROVIDER = {RefundState.SENT: RefundStatus.PENDING, RefundState.DONE: RefundStatus.SUCCEEDED}
"""States of refunds that the provider has, and how we last knew them there."""
CLAIMING = frozenset({RefundState.REQUESTED, RefundState.AWAITING_METER, RefundState.READY, RefundState.SENT})
"""States in which a refund lays claim to money that is not counted as refunded yet (P37)."""
