"""Monthly statements of meters, and debts that they bring along."""

from datetime import date
from decimal import Decimal

from standpipe.billing import statements
from standpipe.billing.statement_body import StatementBody
from standpipe.meters.models import Meter
from standpipe.operations.find import meter_of
from standpipe.operations.operation import Desk, operation
from standpipe.payments.arrears import add_arrears, write_off
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import money_text, to_minor
from standpipe.utilities.operators import ANYBODY, MONEY


@operation("statements.show", may=ANYBODY, reads=True)
async def show(desk: Desk, serial: str, month: date) -> tuple[StatementBody, int | None] | None:
    """Read a month of a meter, as it was closed (with its number) or as it stands so far. Raises NotFoundError."""
    meter = await meter_of(desk.session, serial)
    return await statements.statement_by_month(desk.session, meter.id, month, desk.now)


@operation("statements.issue", may=MONEY)
async def issue(desk: Desk, serial: str, month: date) -> int:
    """Close a month now; returns the statement's number. Raises NotFoundError, InvalidInputError."""
    meter = await meter_of(desk.session, serial)
    made = await statements.issue(desk.session, meter.id, month, desk.now)
    if made is None:
        raise InvalidInputError(f"{month:%Y-%m} is closed already, or is not the month after the last one closed.")
    await desk.record("statement.issue", made.id, serial=serial, month=f"{month:%Y-%m}", number=made.number)
    return made.number


@operation("arrears.add", may=MONEY)
async def owe(desk: Desk, serial: str, amount: Decimal, *, reference: str) -> str:
    """Put a debt from before on a meter (``amount`` in major units); returns what it owes now, as text.

    A reference counts once. Raises NotFoundError, InvalidInputError.
    """
    meter = await meter_of(desk.session, serial)
    owed_minor = await add_arrears(
        desk.session,
        operator=desk.by,
        meter_id=meter.id,
        amount_minor=to_minor(amount, meter.currency),
        reference=reference,
        now=desk.now,
    )
    return _text(owed_minor, meter)


@operation("arrears.write_off", may=MONEY)
async def forgive(desk: Desk, serial: str, amount: Decimal, *, reference: str) -> str:
    """Let a meter owe a part (``amount`` in major units) no more; returns what it owes now, as text.

    A reference counts once. Raises NotFoundError, InvalidInputError.
    """
    meter = await meter_of(desk.session, serial)
    owed_minor = await write_off(
        desk.session,
        operator=desk.by,
        meter_id=meter.id,
        amount_minor=to_minor(amount, meter.currency),
        reference=reference,
        now=desk.now,
    )
    return _text(owed_minor, meter)


def _text(owed_minor: int, meter: Meter) -> str:
    return money_text(owed_minor, meter.currency)
