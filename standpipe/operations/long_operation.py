"""A use case that begins transactions of its own, because it asks the network or works through many rows."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from standpipe.meters.keys import KeyRing
from standpipe.operations.operation import Desk
from standpipe.payments.rails.registry import Rails
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotAuthenticatedError
from standpipe.utilities.models import OperatorRole
from standpipe.utilities.operators import Actor, require_role

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class LongDesk:
    """Tools of a long use case: transactions to begin, in whose name it runs, the service clock, the rails.

    ``command_deadline_s``: how long a command to a meter may wait. ``keys`` seals meters' keys; None: none are set.
    """

    sessions: Sessions
    actor: Actor | None
    clock: Clock
    rails: Rails
    command_deadline_s: float
    keys: KeyRing | None = None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Desk]:
        """A desk for one transaction."""
        async with self.sessions.begin() as session:
            yield Desk(session, self.actor, self.clock.now(), self.rails, self.command_deadline_s, self.keys)

    async def record(self, action: str, subject_id: str, **detail: Any) -> None:
        """Write an audit line and commit it: before the work, so that what is cut short has its line too."""
        async with self.begin() as desk:
            await desk.record(action, subject_id, **detail)


class LongOperation(Generic[P, R]):
    """A use case outside one transaction. ``may``: the roles whose work it is, besides ADMIN.

    Raises ForbiddenError for an operator of another role, and NotAuthenticatedError for nobody.
    """

    def __init__(
        self, name: str, do: Callable[Concatenate[LongDesk, P], Awaitable[R]], *, may: Sequence[OperatorRole]
    ) -> None:
        self.name, self.may = name, tuple(may)
        self.__doc__ = do.__doc__
        self._do = do

    async def __call__(self, desk: LongDesk, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it, once its operator's role has been asked."""
        if desk.actor is None:
            raise NotAuthenticatedError("This is done in an operator's name.")
        require_role(desk.actor, self.may)
        return await self._do(desk, *args, **kwargs)


_operations: dict[str, LongOperation[Any, Any]] = {}
LONG_OPERATIONS: Mapping[str, LongOperation[Any, Any]] = MappingProxyType(_operations)
"""Every long use case by its name, as far as its module has been imported."""


def long_operation(
    name: str, *, may: Sequence[OperatorRole]
) -> Callable[[Callable[Concatenate[LongDesk, P], Awaitable[R]]], LongOperation[P, R]]:
    """Make a function the long use case of this name."""

    def make(do: Callable[Concatenate[LongDesk, P], Awaitable[R]]) -> LongOperation[P, R]:
        made = LongOperation(name, do, may=may)
        _operations[name] = made
        return made

    return make
