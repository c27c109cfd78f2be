"""The meter's own word, applied: the only place where a command becomes CONFIRMED and credit counts as delivered."""

from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.meters import effects
from standpipe.meters.commands import BY_EFFECT, enqueue, open_commands
from standpipe.meters.measures import accepted_by, measure_of, radio_total
from standpipe.meters.models import CommandKind, CommandStatus, CreditGrant, Meter, MeterCommand, MeterState, WalletKind
from standpipe.meters.reports import CommandResult, StatusReport
from standpipe.meters.tids import keypad_of
from standpipe.outbox.facts import CreditConfirmed, MeterStated, publish
from standpipe.platform import metrics, tracing
from standpipe.platform.database import after_commit
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.notify import LIVE, notify

MAX_BAD_MAC = 3
"""A frame may be garbled on its way; three times in a row, the key is wrong and a person must look."""

_REFUSALS = {CommandResult.WRONG_CURRENCY, CommandResult.UNSUPPORTED, CommandResult.TOTAL_TOO_LOW}
_log = structlog.get_logger(__name__)


async def touch(session: AsyncSession, meter_id: str, *, seen_at: datetime, battery_percent: int | None) -> MeterState:
    """Note that a locked meter was heard. Returns its state row, fresh."""
    state = await session.get(MeterState, meter_id, populate_existing=True)
    if state is None:
        state = MeterState(meter_id=meter_id, last_seen_at=seen_at)
        session.add(state)
        await session.flush()
        await session.refresh(state)
    state.last_seen_at = max(state.last_seen_at, seen_at)
    if battery_percent is not None:
        state.battery_percent = battery_percent
    return state


async def apply(session: AsyncSession, meter: Meter, state: MeterState, statement: StatusReport, now: datetime) -> bool:
    """Apply a statement to a locked meter; False for one heard before.

    Raises InvalidInputError for a report counter below the last one (replayed or rolled back, M5), and for less credit
    accepted than the meter has stated before: it has lost its memory, and a person must look, for the total that it
    is told next would be credit a second time.
    """
    if statement.report_counter < state.report_counter:
        raise InvalidInputError(f"status frame {statement.report_counter} is older than {state.report_counter}")
    accepted, stood = accepted_by(meter, statement), int(getattr(state, measure_of(meter).accepted.key))
    if statement.volume_typed_ml is None and await keypad_of(session, meter) is not None:
        raise InvalidInputError("a meter with a keypad must state how much was typed")
    if accepted < stood:
        raise InvalidInputError(f"the meter has accepted {accepted}, and had accepted {stood}: its memory is gone")
    if statement.report_counter == state.report_counter:
        return False
    clock_was_s = state.clock_error_s
    _store(meter, state, statement, now)
    if accepted > measure_of(meter).granted_to(meter):
        _log.error("meter holds more credit than granted", meter_id=meter.id)
    await _confirm_grants(session, meter, statement, now)
    await _resolve_commands(session, meter, statement, now)
    await effects.mind_clock(session, meter, state, clock_was_s)
    await publish(session, MeterStated(meter.id))
    await notify(session, LIVE, meter.id)
    return True


def _store(meter: Meter, state: MeterState, statement: StatusReport, now: datetime) -> None:
    if statement.valve != state.valve:
        state.valve_changed_at = now
    state.report_counter = statement.report_counter
    state.last_sequence = statement.last_sequence
    if meter.wallet_kind == WalletKind.VOLUME:
        state.volume_accepted_ml = statement.volume_accepted_ml
        state.volume_remaining_ml = statement.volume_remaining_ml
        state.volume_typed_ml = statement.volume_typed_ml or 0
    else:
        state.credit_accepted_minor = statement.credit_accepted_minor
        state.credit_remaining_minor = statement.credit_remaining_minor
    state.stated_at = statement.stated_at
    state.clock_error_s = int((statement.stated_at - now).total_seconds())
    state.valve, state.valve_reason = statement.valve, statement.valve_reason


async def _confirm_grants(session: AsyncSession, meter: Meter, statement: StatusReport, now: datetime) -> None:
    """Steps within the total that it took by radio; and those typed, where it can be told which they are."""
    measure, by_radio = measure_of(meter), radio_total(meter, statement)
    await _confirm_typed(session, meter, statement, now)
    confirmed = await session.execute(
        update(CreditGrant)
        .where(
            CreditGrant.meter_id == meter.id,
            measure.amount > 0,
            measure.total_after <= by_radio,
            CreditGrant.confirmed_at.is_(None),
        )
        .values(confirmed_at=now, sent_at=func.coalesce(CreditGrant.sent_at, now))
        .returning(CreditGrant.granted_at, CreditGrant.traceparent)
    )
    steps = sorted(confirmed.all(), key=lambda step: step.granted_at)
    for step in steps:
        with tracing.continue_from(step.traceparent), tracing.span("credit confirmed", by="radio"):
            _count(session, step.granted_at, now)
            if step is steps[-1]:
                await publish(session, CreditConfirmed(meter.id, by_radio))


async def _confirm_typed(session: AsyncSession, meter: Meter, statement: StatusReport, now: datetime) -> None:
    """A typed sum does not say which tokens it is made of, unless it is made of all that are not in the total.

    Otherwise the next total, which holds them all, tells; it goes out in this very contact.
    """
    if not statement.volume_typed_ml:
        return
    rows = await session.scalars(
        select(CreditGrant).where(
            CreditGrant.meter_id == meter.id,
            CreditGrant.token_issued_at.is_not(None),
            CreditGrant.total_after_ml > radio_total(meter, statement),
        )
    )
    issued = rows.all()
    if sum(grant.volume_ml - grant.revoked_ml for grant in issued) != statement.volume_typed_ml:
        return
    for grant in issued:
        if grant.confirmed_at is None:
            grant.confirmed_at = grant.typed_at = now
            with tracing.continue_from(grant.traceparent), tracing.span("credit confirmed", by="keypad"):
                _count(session, grant.granted_at, now)
                await publish(session, CreditConfirmed(meter.id, grant.total_after_ml))


def _count(session: AsyncSession, granted_at: datetime, now: datetime) -> None:
    waited_s = max((now - granted_at).total_seconds(), 0.0)
    after_commit(session, partial(metrics.CREDIT_CONFIRMED_S.observe, waited_s))


async def _resolve_commands(session: AsyncSession, meter: Meter, statement: StatusReport, now: datetime) -> None:
    # Our numbering may lag behind the meter's (a restored backup, a meter taken over): go on above its number.
    meter.last_sequence = max(meter.last_sequence, statement.last_sequence)
    for command in await open_commands(session, meter.id):
        if command.kind in BY_EFFECT and command.attempts:
            effects.judge(command, statement, now)
        elif command.sequence <= statement.last_sequence:
            await _resolve_passed(session, meter, command, statement, now)
        elif command.status != CommandStatus.QUEUED:
            _resolve_not_taken(command, statement)


async def _resolve_passed(
    session: AsyncSession, meter: Meter, command: MeterCommand, statement: StatusReport, now: datetime
) -> None:
    """The meter is at or past this number: it took the command, unless the number was never sent by us."""
    is_credit = command.kind == CommandKind.CREDIT
    taken = radio_total(meter, statement) >= command.value if is_credit else command.attempts > 0
    if taken:
        command.status, command.confirmed_at, command.reason = CommandStatus.CONFIRMED, now, None
        return
    _log.warning("command renumbered", meter_id=meter.id, command_id=command.id)
    with tracing.continue_from(command.traceparent), tracing.span("renumber"):
        await enqueue(
            *(session, meter),
            kind=CommandKind(command.kind),
            value=command.value,
            void_at=command.void_at,
            body=command.body,
        )
    command.status, command.reason = (
        CommandStatus.SUPERSEDED,
        "renumbered: the meter's sequence had passed it",
    )


def _resolve_not_taken(command: MeterCommand, statement: StatusReport) -> None:
    """The meter says that it has not taken a command that went out: send the same number again, or give up."""
    heard = command.status == CommandStatus.ACKNOWLEDGED
    garbled = statement.result is CommandResult.BAD_MAC and command.attempts >= MAX_BAD_MAC
    if heard and (statement.result in _REFUSALS or garbled):
        command.status, command.reason = CommandStatus.REJECTED, statement.result
        _log.error("command refused by the meter", command_id=command.id, result=statement.result)
    else:
        command.status = CommandStatus.QUEUED
