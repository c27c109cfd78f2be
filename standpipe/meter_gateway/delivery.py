"""A contact with a meter, whatever carries it: statement, then commands one at a time, each followed by a statement.

The meter's statement comes first because a command whose answer was lost may have been taken; only the meter can
tell. Carriers bring two verbs, ``listen`` and ``send``; what is stored, and when, is the same for all of them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import structlog

from standpipe.meters import commands
from standpipe.meters.commands import OutgoingCommand
from standpipe.meters.reports import MeterReport
from standpipe.platform import tracing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError, StandpipeError
from standpipe.readings.reports import take_report

MAX_COMMANDS = 8
Note = Callable[[Any], Awaitable[None]]
"""Something to write down, given the session of a transaction under way."""
_log = structlog.get_logger(__name__)


class NoAnswerError(StandpipeError):
    """No usable answer came. Whether the request was carried out is unknown."""


@dataclass
class CommandRefusedError(StandpipeError):
    """The meter cannot, or will not, carry a command out. Unless ``is_final``, only its statement can tell."""

    reason: str
    is_final: bool = True

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Heard:
    """What a meter said. ``note``: what the carrier keeps of it, in the transaction that takes the report in.

    ``may_send``: whether the meter is in a state in which commands are safe to send.
    """

    report: MeterReport
    may_send: bool = True
    note: Note | None = None


class Carrier(Protocol):
    """One meter within reach. ``name``: the carrier's, in traces and metrics."""

    name: ClassVar[str]

    async def listen(self) -> Heard:
        """Read the meter's statement and what it has to tell. Raises NoAnswerError."""
        ...

    async def send(self, command: OutgoingCommand) -> None:
        """Carry a command over; returning means that it arrived, and no more.

        Sending the same command again must not add to its effect. Raises NoAnswerError, CommandRefusedError.
        """
        ...


async def deliver(sessions: Sessions, clock: Clock, meter_id: str, carrier: Carrier) -> None:
    """One contact, begun and ended by the meter's own word. Raises NoAnswerError where the meter fell silent."""
    may_send = await _hear(sessions, clock, meter_id, carrier)
    for _ in range(MAX_COMMANDS):
        if not may_send:
            return
        async with sessions.begin() as session:
            command = await commands.next_to_send(session, meter_id, clock.now())
        if command is None:
            return
        with (
            tracing.continue_from(command.traceparent),
            tracing.span("radio command", carrier=carrier.name, command=command.kind, attempt=command.attempt),
        ):
            if not await _send(sessions, command, carrier):
                return
            may_send = await _hear(sessions, clock, meter_id, carrier)


async def _hear(sessions: Sessions, clock: Clock, meter_id: str, carrier: Carrier) -> bool:
    heard = await carrier.listen()
    try:
        async with sessions.begin() as session:
            await take_report(session, heard.report, clock.now())
            if heard.note is not None:
                await heard.note(session)
    except InvalidInputError as error:
        _log.warning("report refused", meter_id=meter_id, reason=str(error))
        return False
    return heard.may_send


async def _send(sessions: Sessions, command: OutgoingCommand, carrier: Carrier) -> bool:
    """Send one command and note what came of it; returns whether the contact may go on."""
    try:
        await carrier.send(command)
    except NoAnswerError as error:
        reason = str(error)
        async with sessions.begin() as session:
            await commands.mark_unknown(session, command.id, reason)
        raise
    except CommandRefusedError as error:
        reason = str(error)
        async with sessions.begin() as session:
            if not error.is_final:
                await commands.mark_unknown(session, command.id, reason)
                return False
            await commands.mark_rejected(session, command.id, reason)
        _log.error("command refused", meter_id=command.meter_id, command_id=command.id, reason=reason)
        return True
    async with sessions.begin() as session:
        await commands.mark_acknowledged(session, command.id)
    return True
