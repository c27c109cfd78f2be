"""When to ask a provider again: soon at first, then ever more rarely, and never giving a payment up as failed."""

from datetime import timedelta

from sqlalchemy import func

from standpipe.payments.models import TopUp
from standpipe.payments.rails.port import MOBILE_POLLS_S, PaymentStatus, Rail


def polls_of(rail: Rail | None) -> tuple[int, ...]:
    """The rail's own schedule, in real seconds."""
    return MOBILE_POLLS_S if rail is None else rail.capabilities.poll_after_s


def plan_next_poll(top_up: TopUp, rail: Rail | None) -> None:
    """Set when the janitor asks next; ``attempts`` counts its asks. After the last step a person must look.

    A success is not polled: refunds and disputes come as notices. A failure is, because it can still succeed.
    """
    schedule = polls_of(rail)
    if top_up.status == PaymentStatus.SUCCEEDED:
        top_up.due_at = None
        return
    if top_up.attempts >= len(schedule):
        top_up.due_at = None
        top_up.dead_at = func.now()
        return
    top_up.due_at = func.now() + timedelta(seconds=schedule[top_up.attempts])
