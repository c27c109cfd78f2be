"""Rails' settlement files, the three-way report, and M-Pesa's set-up."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from standpipe.operations.long_operation import LongDesk, long_operation
from standpipe.operations.operation import Desk, operation
from standpipe.payments import settlements
from standpipe.payments.rails.mpesa import MpesaRail
from standpipe.payments.reconcile import Report, make_report
from standpipe.payments.settlement_files import Statement
from standpipe.payments.settlements import ImportResult
from standpipe.platform.errors import InvalidInputError
from standpipe.utilities.operators import ANYBODY, MONEY, SERVER


@long_operation("settlements.import", may=MONEY)
async def import_file(desk: LongDesk, rail: str, statement: Statement, *, file_name: str) -> ImportResult:
    """Take in a rail's settlement file, line by line. Raises InvalidInputError."""
    await desk.record("settlements.import", rail, file=file_name, lines=len(statement.lines))
    return await settlements.import_lines(desk.sessions, desk.rails, desk.clock, rail=rail, lines=statement.lines)


@long_operation("settlements.pull", may=MONEY)
async def pull(desk: LongDesk, *, days: int | None) -> Mapping[str, ImportResult]:
    """Ask every rail for its settlement file now, ``days`` back, or since the last time."""
    await desk.record("settlements.pull", "settlements", days=days)
    # Rails go by real time, not by the service clock.
    return await settlements.pull(desk.sessions, desk.rails, desk.clock, until=datetime.now(UTC), days=days)


@operation("settlements.report", may=ANYBODY, reads=True)
async def report(desk: Desk, *, missing_after: timedelta) -> Report:
    """Set rails, ledger and meters side by side; ``missing_after``: how late a settlement file may be."""
    return await make_report(desk.session, desk.rails, desk.now, missing_after=missing_after)


@long_operation("mpesa.register", may=SERVER)
async def register_mpesa(desk: LongDesk) -> None:
    """Tell M-Pesa where to ask about paybill payments. Raises InvalidInputError where M-Pesa is not set up."""
    rail = desk.rails.get("mpesa")
    if not isinstance(rail, MpesaRail):
        raise InvalidInputError("M-Pesa is not set up: STANDPIPE_MPESA_URL is empty.")
    await desk.record("mpesa.register", "mpesa")
    await rail.register_urls()
