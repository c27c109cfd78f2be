"""When to ask a provider again: soon at first, then ever more rarely, and never giving a payment up as failed."""

from datetime import timedelta

from sqlalchemy import func

from standpipe.payments.models import TopUp
from standpipe.payments.provider import PaymentStatus

POLL_AFTER_S = (10, 30, 60, 120, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
"""Real seconds. A lost webhook is thus found within half a minute of a prompt payment."""


def plan_next_poll(top_up: TopUp) -> None:
    """Set when the janitor asks next; ``attempts`` counts its asks. After the last step a person must look.

    A success is not polled: refunds and disputes come as notices. A failure is, because it can still succeed.
    """
    if top_up.status == PaymentStatus.SUCCEEDED:
        top_up.due_at = None
        return
    if top_up.attempts >= len(POLL_AFTER_S):
        top_up.due_at = None
        top_up.dead_at = func.now()
        return
    top_up.due_at = func.now() + timedelta(seconds=POLL_AFTER_S[top_up.attempts])
