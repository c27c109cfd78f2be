"""Steps of a contact, one at a time, in a test's own transaction."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.engine.unit_of_work import UnitOfWork
from standpipe.meter_gateway.delivery import Told, take_in
from standpipe.meters.delivery_state import Changes, Heard, Outcome, OutgoingCommand
from standpipe.meters.models import CommandStatus, MeterCommand
from standpipe.meters.reports import MeterReport
from standpipe.platform.errors import InvalidInputError


async def take_report(session: AsyncSession, report: MeterReport, now: datetime) -> None:
    """Take one report in, in the caller's transaction.

    Raises NotFoundError for an unknown meter, InvalidInputError for a report that is not to be believed.
    """
    changes = await take(session, Heard(report.meter_id, report), now)
    if changes.refused is not None:
        raise InvalidInputError(changes.refused)


async def next_to_send(session: AsyncSession, meter_id: str, now: datetime) -> OutgoingCommand | None:
    """Mark the meter's next command SENT; None where nothing waits."""
    return (await take(session, Heard(meter_id, sends_next=True), now)).command


async def mark_unknown(session: AsyncSession, command_id: str, reason: str) -> None:
    """Note that no answer to a command came."""
    command = await session.get_one(MeterCommand, command_id)
    outcome = Outcome(command_id, CommandStatus.UNKNOWN, reason)
    await take(session, Heard(command.meter_id, outcomes=(outcome,)), datetime.now(UTC))


async def take(session: AsyncSession, heard: Heard, now: datetime) -> Changes:
    """Take in what was heard of a meter. Raises what its answer is, where that is an error."""
    await session.flush()
    work = await UnitOfWork.of(session)
    (changes,) = await take_in(work, [Told(heard)], now)
    if isinstance(changes, Exception):
        raise changes
    await work.flush()
    session.expire_all()
    return changes
