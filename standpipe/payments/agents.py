"""Cash agents: shops that pay in a float and vend credit for cash out of it.

A float is a guarded ledger account, so fifty vends at once can never take more than it holds.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.ledger.models import Account, AccountKind
from standpipe.ledger.posting import AccountRef, Line, post
from standpipe.meters.access import find_by_account
from standpipe.meters.models import Meter
from standpipe.payments.request_keys import check_key, hash_of
from standpipe.payments.vend_models import Agent
from standpipe.payments.vends import find_vend, vend
from standpipe.platform.errors import (
    IdempotencyMismatchError,
    InsufficientFundsError,
    InvalidInputError,
    MeterBlockedError,
    NotAuthenticatedError,
    NotFoundError,
)
from standpipe.platform.ids import new_id
from standpipe.platform.language import phrase
from standpipe.platform.units import MAX_MINOR
from standpipe.utilities.models import Utility
from standpipe.utilities.operators import hash_key, record

ORIGIN = "AGENT"
KEY_PREFIX = "agk_"


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent for its own eyes."""

    id: str
    name: str
    currency: str
    utility_id: str
    float_minor: int


@dataclass(frozen=True, slots=True)
class AgentVend:
    """A vend that an agent made. ``replayed``: it had been made before under the same key."""

    top_up_id: str
    meter_serial: str
    amount_minor: int
    float_minor: int
    replayed: bool


async def add_agent(session: AsyncSession, *, operator: str, utility_id: str, name: str) -> tuple[str, str]:
    """A new agent; returns its id and its key, which is shown once. Raises NotFoundError, InvalidInputError."""
    utility = await session.get(Utility, utility_id)
    if utility is None:
        raise NotFoundError("No such utility.")
    if not name.strip() or len(name) > 120:  # noqa: PLR2004 - a name, no essay.
        raise InvalidInputError(phrase("An agent needs a name."), ("name",))
    key, agent_id = KEY_PREFIX + secrets.token_urlsafe(24), new_id("agt")
    session.add(
        Agent(id=agent_id, utility_id=utility_id, name=name.strip(), currency=utility.currency, key_hash=hash_key(key))
    )
    await record(session, operator=operator, action="agent.add", subject_id=agent_id, detail={"name": name.strip()})
    return agent_id, key


async def disable_agent(session: AsyncSession, *, operator: str, agent_id: str) -> None:
    """End an agent's access; its float stays on the books. Raises NotFoundError."""
    found = await session.scalar(
        update(Agent).where(Agent.id == agent_id).values(disabled_at=func.now()).returning(Agent.id)
    )
    if found is None:
        raise NotFoundError("No such agent.")
    await record(session, operator=operator, action="agent.disable", subject_id=agent_id, detail={})


async def deposit(
    session: AsyncSession, *, operator: str, agent_id: str, amount_minor: int, reference: str, now: datetime
) -> int:
    """Book money that an agent paid in at the bank; returns the float. The same bank reference counts once.

    Raises NotFoundError, and InvalidInputError for a bad amount or a reference that was used before.
    """
    agent = await session.get(Agent, agent_id)
    if agent is None:
        raise NotFoundError("No such agent.")
    if not 0 < amount_minor <= MAX_MINOR or not reference.strip():
        raise InvalidInputError(phrase("A deposit needs an amount above zero and the bank's reference."), ("amount",))
    lines = [
        Line(AccountRef(AccountKind.BANK, "agents", agent.currency), -amount_minor),
        Line(AccountRef(AccountKind.FLOAT, agent_id, agent.currency), amount_minor),
    ]
    key = f"agent:{agent_id}:deposit:{reference.strip()}"
    if not await post(session, key=key, kind="AGENT_DEPOSIT", lines=lines, occurred_at=now):
        raise InvalidInputError(phrase("A deposit with this reference is booked already."), ("reference",))
    detail = {"amount_minor": amount_minor, "currency": agent.currency, "reference": reference.strip()}
    await record(session, operator=operator, action="agent.deposit", subject_id=agent_id, detail=detail)
    return await float_minor(session, agent)


async def authenticate_agent(session: AsyncSession, key: str) -> Agent:
    """The agent who has this key. Raises NotAuthenticatedError."""
    agent = await session.scalar(
        select(Agent).where(
            Agent.key_hash == hash_key(key.encode("utf-8", "replace").decode()), Agent.disabled_at.is_(None)
        )
    )
    if agent is None:
        raise NotAuthenticatedError(phrase("This agent key is not known, or has been disabled."))
    return agent


async def view_agent(session: AsyncSession, agent: Agent) -> AgentView:
    """An agent with its float."""
    return AgentView(agent.id, agent.name, agent.currency, agent.utility_id, await float_minor(session, agent))


async def float_minor(session: AsyncSession, agent: Agent) -> int:
    """Return the minor units that an agent can still vend."""
    balance = await session.scalar(
        select(Account.balance_minor)
        .where(Account.kind == AccountKind.FLOAT, Account.owner_id == agent.id, Account.currency == agent.currency)
        .execution_options(populate_existing=True)
    )
    return balance or 0


async def find_meter(session: AsyncSession, agent: Agent, account: str) -> Meter:
    """The meter in service that a customer at the counter names.

    Raises NotFoundError, also for another utility's meter; MeterBlockedError for one out of service.
    Raises InvalidInputError.
    """
    meter = await find_by_account(session, account)
    if meter is None or meter.utility_id != agent.utility_id:
        raise NotFoundError(phrase("No meter has this number."))
    if meter.closed_at is not None:
        raise MeterBlockedError(phrase("This meter is out of service and takes no more credit."))
    if meter.currency != agent.currency:
        raise InvalidInputError(phrase("This meter takes {currency}.", currency=meter.currency), ("meter",))
    return meter


async def vend_for_cash(
    session: AsyncSession, agent: Agent, *, key: str, account: str, amount_minor: int, now: datetime
) -> AgentVend:
    """Vend for cash. The same key and input again is the same vend.

    Raises NotFoundError, MeterBlockedError, InvalidInputError (the float is too small), IdempotencyMismatchError.
    """
    check_key(key)
    request_hash = hash_of({"account": account, "amount_minor": amount_minor})
    # Two requests with one key must not both find that there is no such vend yet.
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"vend:{agent.id}:{key}", 0))))
    made = await find_vend(session, origin=ORIGIN, rail_ref=f"{agent.id}:{key}")
    if made is not None:
        if made.request_hash != request_hash:
            raise IdempotencyMismatchError
        meter = await session.get_one(Meter, made.meter_id)
        return AgentVend(made.id, meter.serial, made.pay_minor, await float_minor(session, agent), replayed=True)
    meter = await find_meter(session, agent, account)
    try:
        top_up_id = await vend(
            session,
            origin=ORIGIN,
            rail_ref=f"{agent.id}:{key}",
            funder_id=agent.id,
            meter_id=meter.id,
            currency=agent.currency,
            amount_minor=amount_minor,
            customer_id=None,
            key=key,
            request_hash=request_hash,
            now=now,
        )
    except InsufficientFundsError as error:
        raise InvalidInputError(
            phrase("Your float is too small for this vend. Please pay in first."), ("amount",)
        ) from error
    return AgentVend(top_up_id, meter.serial, amount_minor, await float_minor(session, agent), replayed=False)
