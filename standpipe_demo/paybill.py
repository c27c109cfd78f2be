"""The demo's paybill, registered at the M-Pesa stand-in as an operator does once at Safaricom."""

from standpipe.office.desk import at_desk
from standpipe.operations.long_operation import LongDesk
from standpipe.operations.settlements import register_mpesa
from standpipe.payments.rails.registry import Rails
from standpipe.platform.settings import Settings
from standpipe.utilities.models import OperatorRole
from standpipe.utilities.operators import Actor
from standpipe.wiring import Database

DEMO = Actor("the demo", OperatorRole.ADMIN)
"""No operator of the town has a key yet: the first is made by whoever tries the demo."""


async def register(settings: Settings, database: Database, rails: Rails) -> None:
    """Tell the stand-in where to ask and to confirm. Raises InvalidInputError, RailUnavailableError."""
    deadline_s = settings.command_deadline_h * 3600
    await register_mpesa(LongDesk(database.sessions, DEMO, settings.clock, rails, deadline_s))


if __name__ == "__main__":
    at_desk(register)
