"""A new DTLS key on its way to a meter: written over the session that the old key protects, proven by the next one."""

import structlog

from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.peer import MeterPeer, MeterRefusedError
from standpipe.meter_gateway.lwm2m.registrations import Known
from standpipe.meter_gateway.prepaid import KeyFrame
from standpipe.platform.database import Connection

_log = structlog.get_logger(__name__)


async def rekey(conn: Connection, peer: MeterPeer, known: Known, object_id: int) -> None:
    """Write the key that waits for this meter, if one does, and end the session so that the next one proves it.

    Whatever gets lost on the way, both keys open a session until the new one has. Raises MeterAsleepError.
    """
    if peer.session is None or known.next_key is None:
        # A key is never sent in the clear.
        return
    identity, generation = known.identity, known.next_generation
    frame = KeyFrame(generation, known.next_key).to_bytes(identity.prepaid_key, identity.serial)
    try:
        await peer.write_key(object_id, frame)
    except MeterRefusedError as error:
        _log.error("key refused", meter_id=identity.meter_id, reason=str(error))
        return
    await dtls_keys.mark_written(conn, identity.meter_id, generation)
    _log.info("key written", meter_id=identity.meter_id, generation=generation)
    peer.hang_up()
