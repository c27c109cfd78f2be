"""Between the DTLS server, which knows no database, and the keys in it."""

import asyncio

import structlog

from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.dtls.keys import DtlsCredential
from standpipe.meter_gateway.lwm2m.dtls.server import DtlsServer
from standpipe.meter_gateway.lwm2m.dtls.session import DtlsSession
from standpipe.meters.keys import KeyRing
from standpipe.platform.database import Sessions
from standpipe.platform.errors import NotFoundError

_log = structlog.get_logger(__name__)


class DtlsKeyLookup:
    """Looks keys up, and notes which were used."""

    def __init__(self, sessions: Sessions, ring: KeyRing) -> None:
        self._sessions, self._ring = sessions, ring
        self._notes: set[asyncio.Task[None]] = set()

    async def look_up(self, identity: str) -> DtlsCredential | None:
        """The keys of an identity; None for nobody's."""
        async with self._sessions() as session:
            try:
                return await dtls_keys.credential_of(session, self._ring, identity)
            except NotFoundError:
                return None

    def opened(self, session: DtlsSession) -> None:
        """Note the use of a key: the next one is proven by it."""
        note = asyncio.get_running_loop().create_task(self._note(session.meter_id, session.key_name))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def end_revoked(self, server: DtlsServer, meter_id: str) -> None:
        """End the meter's sessions where none of its keys opens them any more."""
        open_sessions = server.sessions_of(meter_id)
        if not open_sessions:
            return
        async with self._sessions() as session:
            may_stay = await dtls_keys.has_key(session, meter_id)
        if not may_stay:
            for open_session in open_sessions:
                server.close(open_session)

    async def stop(self) -> None:
        """Let the notes under way be written."""
        await asyncio.gather(*self._notes, return_exceptions=True)

    async def _note(self, meter_id: str, key_name: str) -> None:
        try:
            async with self._sessions.begin() as session:
                await dtls_keys.note_use(session, meter_id, key_name)
        except Exception:
            # The key keeps opening sessions as the next one; its next use is noted.
            _log.exception("use of a key not noted", meter_id=meter_id)
