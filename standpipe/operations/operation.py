"""A use case as a value: its name, who may do it, and the one way to call it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters.keys import KeyRing
from standpipe.payments.rails.registry import Rails
from standpipe.platform.errors import NotAuthenticatedError, SettingsError
from standpipe.utilities.models import OperatorRole
from standpipe.utilities.operators import Actor, record, require_role

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Desk:
    """Tools of a use case: its caller's transaction, in whose name it runs, the service clock's now.

    ``command_deadline_s``: how long a command to a meter may wait. ``keys`` seals meters' keys; None: none are set.
    """

    session: AsyncSession
    actor: Actor | None
    now: datetime
    rails: Rails
    command_deadline_s: float
    keys: KeyRing | None = None

    @property
    def by(self) -> str:
        """The operator's name. Raises NotAuthenticatedError where nobody is named."""
        if self.actor is None:
            raise NotAuthenticatedError("This is done in an operator's name.")
        return self.actor.name

    @property
    def key_ring(self) -> KeyRing:
        """The keys that seal meters' keys. Raises SettingsError where none are set."""
        if self.keys is None:
            raise SettingsError("STANDPIPE_METER_KEY_SECRETS is not set.")
        return self.keys

    async def record(self, action: str, subject_id: str, **detail: Any) -> None:
        """Write an audit line, in the transaction that does the thing. ``detail``: no keys, codes or numbers."""
        await record(self.session, operator=self.by, action=action, subject_id=subject_id, detail=detail)


class Operation(Generic[P, R]):
    """A use case. ``may``: the roles whose work it is, besides ADMIN; ``reads``: it changes nothing.

    Raises ForbiddenError for an operator of another role, and NotAuthenticatedError for nobody where it changes
    something. Who may open the database itself may read it, so reading takes no name on the command line.
    """

    def __init__(
        self,
        name: str,
        do: Callable[Concatenate[Desk, P], Awaitable[R]],
        *,
        may: Sequence[OperatorRole],
        reads: bool = False,
    ) -> None:
        self.name, self.may, self.reads = name, tuple(may), reads
        self.__doc__ = do.__doc__
        self._do = do

    async def __call__(self, desk: Desk, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it in the desk's transaction, once its operator's role has been asked."""
        if desk.actor is not None:
            require_role(desk.actor, self.may)
        elif not self.reads:
            raise NotAuthenticatedError("This is done in an operator's name.")
        return await self._do(desk, *args, **kwargs)


_operations: dict[str, Operation[Any, Any]] = {}
OPERATIONS: Mapping[str, Operation[Any, Any]] = MappingProxyType(_operations)
"""Every use case by its name, as far as its module has been imported."""


def operation(
    name: str, *, may: Sequence[OperatorRole], reads: bool = False
) -> Callable[[Callable[Concatenate[Desk, P], Awaitable[R]]], Operation[P, R]]:
    """Make a function the use case of this name."""

    def make(do: Callable[Concatenate[Desk, P], Awaitable[R]]) -> Operation[P, R]:
        made = Operation(name, do, may=may, reads=reads)
        _operations[name] = made
        return made

    return make
