"""Retention of what sign-in leaves behind: sessions, refresh tokens, codes, tries. Real time."""

from standpipe.engine.limits import forget_tries
from standpipe.households.sessions import forget_sessions
from standpipe.households.sign_in import forget_codes
from standpipe.platform.database import Sessions


async def forget_sign_ins(sessions: Sessions) -> None:
    """Delete what has expired; the worker does it daily, and twice does no harm."""
    for forget in (forget_sessions, forget_codes, forget_tries):
        async with sessions.begin() as session:
            await forget(session)
