"""Cash agents with their floats, and vouchers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select

from standpipe.operations.find import utility_of
from standpipe.operations.operation import Desk, operation
from standpipe.payments import agents, vouchers
from standpipe.payments.vend_models import Agent
from standpipe.platform.errors import NotFoundError
from standpipe.platform.units import to_minor
from standpipe.utilities.operators import ANYBODY, MONEY


@dataclass(frozen=True, slots=True)
class AgentFloat:
    """An agent's float in minor units of its currency."""

    agent_id: str
    name: str
    float_minor: int
    currency: str
    is_disabled: bool


@operation("agents.add", may=MONEY)
async def add(desk: Desk, utility_id: str | None, name: str) -> tuple[str, str]:
    """Add an agent; returns its id and its key, which is shown once. Raises NotFoundError, InvalidInputError."""
    utility = await utility_of(desk.session, utility_id)
    return await agents.add_agent(desk.session, operator=desk.by, utility_id=utility.id, name=name)


@operation("agents.deposit", may=MONEY)
async def deposit(desk: Desk, agent_id: str, amount: Decimal, *, reference: str) -> tuple[int, str]:
    """Book what an agent paid in at the bank (``amount`` in major units); returns its float and the currency.

    A reference counts once. Raises NotFoundError, InvalidInputError.
    """
    found = await desk.session.get(Agent, agent_id)
    if found is None:
        raise NotFoundError(f"There is no agent {agent_id}.")
    float_minor = await agents.deposit(
        desk.session,
        operator=desk.by,
        agent_id=agent_id,
        amount_minor=to_minor(amount, found.currency),
        reference=reference,
        now=desk.now,
    )
    return float_minor, found.currency


@operation("agents.disable", may=MONEY)
async def disable(desk: Desk, agent_id: str) -> None:
    """End an agent's access; its float stays on the books. Raises NotFoundError."""
    await agents.disable_agent(desk.session, operator=desk.by, agent_id=agent_id)


@operation("agents.list", may=ANYBODY, reads=True)
async def list_agents(desk: Desk) -> list[AgentFloat]:
    """Read all agents and their floats."""
    rows = await desk.session.scalars(select(Agent).order_by(Agent.id))
    return [
        AgentFloat(
            row.id,
            row.name,
            await agents.float_minor(desk.session, row),
            row.currency,
            row.disabled_at is not None,
        )
        for row in rows.all()
    ]


@operation("vouchers.issue", may=MONEY)
async def issue_vouchers(
    desk: Desk, utility_id: str | None, value: Decimal, count: int, *, expires_at: datetime | None
) -> Sequence[str]:
    """Make vouchers that have been paid for (``value`` of each in major units); returns the codes, shown once.

    Raises NotFoundError, InvalidInputError.
    """
    utility = await utility_of(desk.session, utility_id)
    _, codes = await vouchers.make_batch(
        desk.session,
        operator=desk.by,
        utility_id=utility.id,
        value_minor=to_minor(value, utility.currency),
        amount=count,
        now=desk.now,
        expires_at=expires_at,
    )
    return codes
