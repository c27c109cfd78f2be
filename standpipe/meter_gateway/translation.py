"""Frames of the prepaid object into status reports, commands into its frames. Pure."""

from datetime import UTC, datetime

from standpipe.meter_gateway import prepaid
from standpipe.meters.delivery_state import OutgoingCommand
from standpipe.meters.models import CommandKind, WalletKind
from standpipe.meters.reports import CommandResult, StatusReport, ValveReason, ValveState

KINDS = {
    CommandKind.CREDIT: prepaid.KIND_CREDIT,
    CommandKind.VALVE: prepaid.KIND_VALVE,
    CommandKind.THRESHOLD: prepaid.KIND_THRESHOLD,
    CommandKind.AT_ZERO: prepaid.KIND_AT_ZERO,
}
_VALVES = (ValveState.OPEN, ValveState.CLOSED, ValveState.RESTRICTED)
_REASONS = (
    ValveReason.NORMAL,
    ValveReason.NO_CREDIT,
    ValveReason.TAMPER,
    ValveReason.LEAK,
    ValveReason.MAINTENANCE,
    ValveReason.CUSTOMER,
)
_RESULTS = tuple(CommandResult)


def command_frame_of(command: OutgoingCommand) -> prepaid.CommandFrame:
    """A command as the prepaid object takes it."""
    kind = KINDS[command.kind] if command.tid_mark is None else prepaid.KIND_CREDIT_MARKED
    return prepaid.CommandFrame(kind, command.sequence, command.value, command.currency, command.tid_mark)


def status_report_of(frame: prepaid.StatusFrame, wallet_kind: WalletKind = WalletKind.MONEY) -> StatusReport:
    """A status frame in our own words; codes that we do not know become UNKNOWN or the strictest refusal."""
    known = frame.result < len(_RESULTS)
    return StatusReport(
        report_counter=frame.report_counter,
        last_sequence=frame.last_sequence,
        result=_RESULTS[frame.result] if known else CommandResult.UNSUPPORTED,
        credit_accepted=frame.credit_accepted,
        credit_remaining=frame.credit_remaining,
        register_ml=frame.register_ml,
        valve=_VALVES[frame.valve] if frame.valve < len(_VALVES) else ValveState.UNKNOWN,
        valve_reason=_REASONS[frame.valve_reason] if frame.valve_reason < len(_REASONS) else ValveReason.UNKNOWN,
        stated_at=datetime.fromtimestamp(frame.meter_time_s, UTC),
        # Only volume can be typed: of money a meter has no such word.
        credit_typed=frame.typed_ml if wallet_kind is WalletKind.VOLUME else None,
    )
