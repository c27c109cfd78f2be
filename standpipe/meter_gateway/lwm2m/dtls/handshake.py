"""One handshake under way: it may be paused until the key is known, and ends in a session or in nothing."""

import asyncio
import hashlib
import hmac
from contextlib import suppress
from enum import Enum

from OpenSSL import SSL

from standpipe.meter_gateway.lwm2m.dtls import records
from standpipe.meter_gateway.lwm2m.dtls.keys import DtlsCredential
from standpipe.meter_gateway.lwm2m.dtls.records import Record

Address = tuple[str, int] | tuple[str, int, int, int]
MAX_HELD = 8
"""Records held back while a key is looked up; a flight has three."""


class Step(Enum):
    """States of a handshake after a record."""

    MORE = "more"
    LOOK_UP = "look up the identity's key, then resume"
    DONE = "done"
    WRONG_KEY = "wrong key"
    BROKEN = "broken"


class Handshake:
    """A client whose address is proven by the cookie. ``decoy`` stands in for the key of an identity we do not know."""

    def __init__(self, connection: SSL.Connection, address: Address, hello_random: bytes | None, decoy: bytes) -> None:
        self.connection, self.address, self.hello_random = connection, address, hello_random
        self.identity: bytes | None = None
        self.credential: DtlsCredential | None = None
        self.slot = 0
        """Index of the credential's key that this handshake tries."""
        self.timers: list[asyncio.TimerHandle] = []
        self._decoy = decoy
        self._held: list[Record] | None = None
        self._key_used = False
        self._ciphered = False

    def begin(self) -> Step:
        """Take in the ClientHello that the listener has let through."""
        return self._step()

    def feed(self, record: Record) -> Step:
        """Take in a record. LOOK_UP: nothing more is taken in before ``resume``."""
        if self._held is not None:
            if len(self._held) < MAX_HELD:
                self._held.append(record)
            return Step.MORE
        identity = records.psk_identity(record)
        if identity is not None and self.identity is None:
            self.identity, self._held = identity, [record]
            return Step.LOOK_UP
        return self._take_in(record)

    def resume(self, credential: DtlsCredential | None, slot: int) -> Step:
        """Go on with what is known of the identity now; None: nobody has it, which must not show."""
        self.credential, self.slot = credential, slot
        held, self._held = self._held or [], None
        step = Step.MORE
        for record in held:
            step = self._take_in(record)
            if step is not Step.MORE:
                break
        return step

    def forget_identity(self) -> None:
        """The look-up failed: the client will send its flight again, and then we look again."""
        self.identity, self._held = None, None

    def key_for(self, identity: bytes) -> bytes:
        """Give OpenSSL the key that it asks for in the midst of a step."""
        self._key_used = True
        if self.credential is None or identity != self.identity:
            return hmac.digest(self._decoy, identity, hashlib.sha256)[:16]
        return self.credential.keys[self.slot]

    def outgoing(self) -> bytes:
        """Return what is to be sent, small enough for a datagram each, since no flight of ours holds a certificate."""
        try:
            return self.connection.bio_read(65_536)
        except SSL.WantReadError:
            return b""

    def retransmit(self) -> None:
        """Have OpenSSL's timer look whether the last flight is due again."""
        with suppress(SSL.Error):
            self.connection.DTLSv1_handle_timeout()

    def cancel_timers(self) -> None:
        """Nothing of it happens later."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()

    def _take_in(self, record: Record) -> Step:
        self.connection.bio_write(record.data)
        if self._key_used and record.type == records.CHANGE_CIPHER_SPEC:
            self._ciphered = True
        step = self._step()
        # OpenSSL drops what it cannot decrypt without a word. When that is the Finished after the change of cipher, the
        # keys differ, and both sides would wait for nothing.
        last = record.type == records.HANDSHAKE and record.epoch > 0
        return Step.WRONG_KEY if step is Step.MORE and last and self._ciphered else step

    def _step(self) -> Step:
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return Step.MORE
        except SSL.Error:
            return Step.BROKEN
        return Step.DONE
