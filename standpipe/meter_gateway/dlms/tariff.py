"""A price table to a meter ahead of its day: class 113's passive unit charge and its activation time.

A unit charge has an index and a price per unit (IEC 62056-6-2 §4.6.4). The index is the block's upper bound in litres,
four octets, all ones for the last block; prices are per cubic metre, in the scale of the meter's account.
"""

from contextlib import suppress
from datetime import datetime

from standpipe.meter_gateway.delivery import CommandRefusedError
from standpipe.meter_gateway.dlms.apdu import Attribute, obis_bytes
from standpipe.meter_gateway.dlms.axdr import Data, Tag, array, octets, structure
from standpipe.meter_gateway.dlms.client import AccessRefusedError, DlmsClient
from standpipe.meter_gateway.dlms.cosem_time import CosemTime
from standpipe.meter_gateway.dlms.profiles.profile import MeterProfile
from standpipe.meter_gateway.dlms.values import instant_of
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.platform.units import ML_PER_LITRE, currency_exponent
from standpipe.tariffs.pricing import PriceTable

MAX_PRICE = 2**15 - 1
MAX_BOUND_L = 2**32 - 2
_LAST = 0xFFFF_FFFF
_ACTIVE, _PASSIVE, _ACTIVATION = 5, 6, 7


def unit_charge(table: PriceTable, profile: MeterProfile, currency: str) -> Data:
    """The table as class 113 holds it. Raises CommandRefusedError for one that it cannot hold exactly."""
    rows = []
    for block in table.blocks:
        price = block.price_minor_per_kl
        bound_l, rest_ml = divmod(block.up_to_ml or 0, ML_PER_LITRE)
        if price != price.to_integral_value() or not 0 <= price <= MAX_PRICE or rest_ml or bound_l > MAX_BOUND_L:
            raise CommandRefusedError("a price or a bound that the meter's table cannot hold")
        index = _LAST if block.up_to_ml is None else bound_l
        rows.append(structure(octets(index.to_bytes(4, "big")), Data(Tag.LONG, int(price))))
    scaling = structure(Data(Tag.INTEGER, 0), Data(Tag.INTEGER, -currency_exponent(currency)))
    volume = profile.volume
    commodity = structure(
        Data(Tag.LONG_UNSIGNED, volume.class_id), octets(obis_bytes(volume.obis)), Data(Tag.INTEGER, 2)
    )
    return structure(scaling, commodity, array(*rows))


async def send_tariff(
    client: DlmsClient, profile: MeterProfile, currency: str, table: PriceTable, active_from: datetime
) -> None:
    """Write the passive table, read it back, and only then its activation time: never half a table on its day.

    Raises CommandRefusedError where the meter holds another table than was written, NoAnswerError.
    """
    if profile.credit.charge is None:
        raise CommandRefusedError(f"{profile.name} holds no prices", is_lacking=True)
    wanted = unit_charge(table, profile, currency)
    passive = Attribute(113, profile.credit.charge, _PASSIVE)
    try:
        await client.set(passive, wanted)
        if await client.get(passive) != wanted:
            raise CommandRefusedError("the meter holds another table than it was given")
        activation = Attribute(113, profile.credit.charge, _ACTIVATION)
        await client.set(activation, octets(CosemTime.of(active_from).to_bytes()))
    except AccessRefusedError as error:
        raise CommandRefusedError(str(error), is_final=not error.in_doubt) from error


async def held_by(
    client: DlmsClient, profile: MeterProfile, currency: str, table: PriceTable, active_from: datetime
) -> tuple[bool, bool]:
    """Tell whether the meter holds this table (in force, waiting for this very instant).

    Raises AccessRefusedError, CommandRefusedError where no meter of the profile could hold it, NoAnswerError.
    """
    if profile.credit.charge is None:
        raise CommandRefusedError(f"{profile.name} holds no prices", is_lacking=True)
    wanted = unit_charge(table, profile, currency)
    active = await client.get(Attribute(113, profile.credit.charge, _ACTIVE))
    passive = await client.get(Attribute(113, profile.credit.charge, _PASSIVE))
    due = await client.get(Attribute(113, profile.credit.charge, _ACTIVATION))
    at = None
    with suppress(ParsingError):
        # A meter that waits for nothing may hold a date-time that is none.
        at = instant_of(due, 0)
    return active == wanted, passive == wanted and at == active_from
