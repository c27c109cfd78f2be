"""A new DTLS key on its way to a meter: written over the session that the old key protects, proven by the next one."""

import structlog

from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.peer import MeterPeer, MeterRefusedError
from standpipe.meter_gateway.prepaid import KeyFrame
from standpipe.meters.identity import MeterIdentity
from standpipe.meters.keys import KeyRing
from standpipe.platform.database import Sessions

_log = structlog.get_logger(__name__)


async def rekey(sessions: Sessions, ring: KeyRing, peer: MeterPeer, identity: MeterIdentity, object_id: int) -> None:
    """Write the key that waits for this meter, if one does, and end the session so that the next one proves it.

    Whatever gets lost on the way, both keys open a session until the new one has. Raises MeterAsleepError.
    """
    if peer.session is None:
        # A key is never sent in the clear.
        return
    async with sessions() as session:
        waiting = await dtls_keys.next_key(session, ring, identity.meter_id)
    if waiting is None:
        return
    frame = KeyFrame(waiting.generation, waiting.key).to_bytes(identity.prepaid_key, identity.serial)
    try:
        await peer.write_key(object_id, frame)
    except MeterRefusedError as error:
        _log.error("key refused", meter_id=identity.meter_id, reason=str(error))
        return
    async with sessions.begin() as session:
        await dtls_keys.mark_written(session, identity.meter_id, waiting.generation)
    _log.info("key written", meter_id=identity.meter_id, generation=waiting.generation)
    peer.hang_up()
