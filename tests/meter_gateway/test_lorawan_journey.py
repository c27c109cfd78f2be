"""The main job over LoRaWAN: paid through GraphQL, 19 bytes on the air, confirmed by the meter itself."""

from pathlib import Path
from typing import Any

from tests.support.lora import LoraField, add_device, dev_eui_of, make_lora_network
from tests.support.town import Town, until

BALANCE = """query($i: ID!) { node(id: $i) { ... on Meter { balance {
    ledger { amount } onMeter { amount } inFlight { amount } } valve { state } } } }"""


async def test_a_top_up_reaches_a_lorawan_meter_and_is_shown_on_it(
    town: Town, database_url: str, tmp_path: Path
) -> None:
    await add_device(town.sessions, town.home.meter_id, dev_eui_of(0))
    async with make_lora_network(database_url, town.sessions, tmp_path, [town.home]) as field:
        await field.meter.wake()
        top_up_id, _ = await town.pay_by_card("15.00")
        await town.poll()
        await town.drain()
        assert await town.status(top_up_id) == "PAID"
        await field.meter.wake()
        await until(lambda: _on_meter(town, field, top_up_id))
        assert field.meter.state.credit_accepted == 1_500
        balance = (await town.gql(BALANCE, i=town.home.meter_id))["data"]["node"]["balance"]
        assert _amounts(balance) == ("15.00", "15.00", "0.00")
    assert await town.sums() == {"KES": 0}


async def _on_meter(town: Town, field: LoraField, top_up_id: str) -> bool:
    if await town.status(top_up_id) == "ON_METER":
        return True
    await field.meter.wake()
    return False


def _amounts(balance: dict[str, Any]) -> tuple[str, str, str]:
    return balance["ledger"]["amount"], balance["onMeter"]["amount"], balance["inFlight"]["amount"]
