"""DTLS keys of meters: given out, replaced, taken away, sealed anew. A key is told once, by what makes it."""

from collections.abc import Sequence

from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.dtls.keys import IssuedKey
from standpipe.meter_gateway.lwm2m.tables import MeterDtlsKeys
from standpipe.operations.find import meter_of
from standpipe.operations.long_operation import LongDesk, long_operation
from standpipe.operations.operation import Desk, operation
from standpipe.utilities.operators import ANYBODY, FIELD_WORK


@operation("keys.provision", may=FIELD_WORK)
async def provision(desk: Desk, wanted: Sequence[tuple[str, bytes | None]], *, bootstrap: bool) -> list[IssuedKey]:
    """Give meters their first key (``wanted``: serials, each with its key or None for a new one).

    All or none: where one is refused, the caller's transaction ends. Raises NotFoundError, InvalidInputError.
    """
    issued = []
    for serial, key in wanted:
        issued.append(await dtls_keys.provision(desk.session, desk.key_ring, serial, key=key, bootstrap=bootstrap))
        await _note(desk, "provision", serial, bootstrap=bootstrap)
    return issued


@operation("keys.rotate", may=FIELD_WORK)
async def rotate(desk: Desk, serial: str) -> int:
    """Make a meter's next key, which the gateway writes to it; returns its generation. Raises NotFoundError."""
    generation = await dtls_keys.rotate(desk.session, desk.key_ring, serial)
    await _note(desk, "rotate", serial, generation=generation)
    return generation


@operation("keys.revoke", may=FIELD_WORK)
async def revoke(desk: Desk, serial: str) -> None:
    """Take all keys of a meter away. Raises NotFoundError."""
    await dtls_keys.revoke(desk.session, serial)
    await _note(desk, "revoke", serial)


@operation("keys.show", may=ANYBODY, reads=True)
async def describe(desk: Desk, serial: str) -> MeterDtlsKeys | None:
    """Read which keys a meter has, and when they were used. Raises NotFoundError."""
    return await dtls_keys.describe(desk.session, serial)


@long_operation("keys.reseal", may=FIELD_WORK)
async def reseal(desk: LongDesk) -> int:
    """Seal every meter's keys under the newest secret; returns how many meters' were.

    Batch by batch, each with its audit line: a town's worth of rows is not held locked at once.
    """
    done, last = 0, ""
    while True:
        async with desk.begin() as one:
            meter_ids = await dtls_keys.reseal(one.session, one.key_ring, last)
            if not meter_ids:
                return done
            done, last = done + len(meter_ids), meter_ids[-1]
            await one.record("keys.reseal", meter_ids[0], count=len(meter_ids), through=last)


async def _note(desk: Desk, what: str, serial: str, **detail: object) -> None:
    await desk.record(f"keys.{what}", (await meter_of(desk.session, serial)).id, **detail)
