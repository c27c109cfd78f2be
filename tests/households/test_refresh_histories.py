"""A3 over random lives of a session: its owner alone is never locked out, and a thief is never left alone with it."""

from datetime import timedelta
from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, text

from standpipe.households.models import Customer, CustomerSession, RefreshToken
from standpipe.households.sessions import (
    Granted,
    Lifetime,
    Lifetimes,
    SessionKind,
    begin_session,
    is_signed_in,
    refresh_session,
)
from standpipe.households.tokens import AccessToken
from standpipe.platform.database import Sessions
from standpipe.platform.ids import new_id
from tests.support.lengths import rounds

SECRET = "s" * 40
YEAR = Lifetime(timedelta(days=60), timedelta(days=365))
LIFETIMES = Lifetimes(app=YEAR, web=YEAR)
Step = Literal["refresh", "lose", "ask", "wait", "twice"]
STEPS: list[Step] = ["refresh", "lose", "ask", "wait", "twice"]


class Holder:
    """Somebody with a session's tokens: an app, or who has stolen them."""

    def __init__(self, sessions: Sessions, granted: Granted) -> None:
        self.sessions, self.held = sessions, granted

    async def refresh(self, *, answered: bool = True) -> bool:
        async with self.sessions.begin() as session:
            granted = await refresh_session(session, self.held.refresh_token, lifetimes=LIFETIMES, secret=SECRET)
        if granted is not None and answered:
            self.held = granted
        return granted is not None

    async def ask(self) -> bool:
        token = AccessToken(self.held.customer_id, 0, self.held.session_id, self.held.replaces)
        async with self.sessions.begin() as session:
            return await is_signed_in(session, token)

    async def step(self, step: Step) -> bool:
        """One step of a life; whether the session held."""
        match step:
            case "refresh":
                return await self.refresh()
            case "lose":
                return await self.refresh(answered=False)
            case "twice":
                return await self.refresh(answered=False) and await self.refresh()
            case "ask":
                return await self.ask()
            case "wait":
                await wait(self.sessions)
                return True


async def wait(sessions: Sessions) -> None:
    """Let a minute pass: what is forgiven for a moment is so no more."""
    async with sessions.begin() as session:
        await session.execute(text("UPDATE refresh_tokens SET used_at = used_at - interval '1 minute'"))


async def begin(sessions: Sessions) -> Granted:
    async with sessions.begin() as session:
        for model in (RefreshToken, CustomerSession, Customer):
            await session.execute(delete(model))
        customer_id = new_id("cus")
        session.add(Customer(id=customer_id, phone="+254712000111"))
        await session.flush()
        return await begin_session(
            session, customer_id=customer_id, kind=SessionKind.APP, label="", lifetimes=LIFETIMES
        )


ALIKE = settings(
    max_examples=rounds(10, 40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ALIKE
@given(steps=st.lists(st.sampled_from(STEPS), max_size=14))
async def test_a3_an_owner_alone_is_never_locked_out(sessions: Sessions, steps: list[Step]) -> None:
    owner = Holder(sessions, await begin(sessions))
    for step in steps:
        assert await owner.step(step), steps
    assert await owner.ask()
    assert await owner.refresh()


@ALIKE
@given(
    before=st.lists(st.sampled_from(STEPS), max_size=6),
    after=st.lists(st.tuples(st.booleans(), st.sampled_from(STEPS)), max_size=12),
)
async def test_a3_a_thief_and_an_owner_do_not_both_go_on(
    sessions: Sessions, before: list[Step], after: list[tuple[bool, Step]]
) -> None:
    """Once both have used what they got, the next round of both ends the session, whoever was first."""
    owner = Holder(sessions, await begin(sessions))
    for step in before:
        await owner.step(step)
    thief = Holder(sessions, owner.held)
    for theirs, step in after:
        await (thief if theirs else owner).step(step)
    for holder in (owner, thief, owner, thief):
        await wait(sessions)
        await holder.refresh()
        await holder.ask()
    assert not await owner.ask()
    assert not await thief.ask()
    async with sessions() as session:
        assert await session.scalar(select(CustomerSession.ended_reason)) == "REUSED"
