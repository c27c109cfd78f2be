"""Times to ask a rail again: soon at first, then ever more rarely, and never giving a payment up as failed. Pure."""

from standpipe.payments.rails.port import MOBILE_POLLS_S, Rail


def polls_of(rail: Rail | None) -> tuple[int, ...]:
    """The rail's own schedule, in real seconds."""
    return MOBILE_POLLS_S if rail is None else rail.capabilities.poll_after_s
