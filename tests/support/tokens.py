"""A VOLUME meter with a keypad, and the key behind it."""

from datetime import UTC, datetime
from typing import Any

from standpipe.meters import keypads
from standpipe.platform.database import Sessions
from standpipe.sts.keys import KeyTerms, derive, pan_of
from standpipe.vending.software import SoftwareIssuer
from standpipe_demo.simulator.meter_keypad import described

GROUP = "123457"
VENDING_KEYS = {(GROUP, 1): bytes(range(20)), (GROUP, 2): bytes(range(20, 40))}
TERMS = KeyTerms(pan=pan_of("600727", "12345678901"), supply_group=GROUP)


def issuer() -> SoftwareIssuer:
    return SoftwareIssuer(VENDING_KEYS)


def keypad_config(terms: KeyTerms = TERMS) -> dict[str, Any]:
    """What the meter's factory put into it."""
    return described(derive(VENDING_KEYS[terms.supply_group, terms.key_revision], terms))


async def give_keypad(sessions: Sessions, serial: str, terms: KeyTerms = TERMS) -> None:
    async with sessions.begin() as session:
        await keypads.enrol(session, operator="amina", serial=serial, terms=terms, now=datetime.now(UTC))
