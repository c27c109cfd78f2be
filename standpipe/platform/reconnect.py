"""A lost connection met by trying again, once, where that cannot do a thing twice.

Connections are not pinged before their use (docs/decisions/0025). One that breaks under a request takes its open
transaction with it, undone; only of a COMMIT that was begun nobody knows the outcome. So a door tries the whole again
as long as none was begun, and otherwise answers that it is to be asked again; what is idempotent by its business keys
(a notice in the inbox, a batch) may be tried again in any case.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

R = TypeVar("R")
_log = structlog.get_logger(__name__)
_LOST_STATES = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "53300"})
"""Shut down, crashed, starting up, closed as idle, and no room for another connection."""
_PASSING_STATES = frozenset({"40001", "40P01"})
_LOCK_STATES = frozenset({"55P03"})


def is_lost(error: BaseException) -> bool:
    """Tell if the error is the connection's, not the statement's: another connection may succeed.

    Where it came from a COMMIT, whether that happened is unknown.
    """
    if isinstance(error, DBAPIError):
        state = sql_state(error)
        return error.connection_invalidated or state in _LOST_STATES or state.startswith("08")
    return isinstance(error, (OSError, PoolTimeoutError))


def is_passing(error: BaseException) -> bool:
    """Tell if the whole transaction may succeed when tried again: lost, a deadlock, a serialization failure."""
    return is_lost(error) or (isinstance(error, DBAPIError) and sql_state(error) in _PASSING_STATES)


def is_locked_out(error: BaseException) -> bool:
    """Tell whether somebody else held a lock for longer than we wait."""
    return isinstance(error, DBAPIError) and sql_state(error) in _LOCK_STATES


def sql_state(error: DBAPIError) -> str:
    """PostgreSQL's code of the error; "" where it came from the driver alone."""
    return str(getattr(error.orig, "sqlstate", None) or "")


class Attempt:
    """One try: has it begun to commit anything?"""

    def __init__(self) -> None:
        self.may_have_committed = False


_attempt: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


@contextmanager
def attempt() -> Iterator[Attempt]:
    """One try, in this task and those that it begins."""
    made = Attempt()
    token = _attempt.set(made)
    try:
        yield made
    finally:
        _attempt.reset(token)


async def once_more(call: Callable[[], Awaitable[R]], *, idempotent: bool = False) -> R:
    """Call, and again where the connection was lost before any commit was begun; ``idempotent``: in any case.

    Raises what the last call raises.
    """
    try:
        with attempt() as first:
            return await call()
    except Exception as error:
        # Who has waited in vain for a free connection does not stand in line again.
        waited = isinstance(error, (PoolTimeoutError, TimeoutError))
        if waited or not is_lost(error) or (first.may_have_committed and not idempotent):
            raise
        _log.info("connection lost; tried again", error=type(error).__name__)
    return await call()


def note_commit(_connection: object) -> None:
    """Told by the engine before each COMMIT is sent."""
    made = _attempt.get()
    if made is not None:
        made.may_have_committed = True
