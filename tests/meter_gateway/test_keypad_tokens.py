"""M14 through every door: paid by card, out of reach past its time, offered in the app, typed, and then the radio."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from standpipe.notifications.models import Alert
from standpipe.platform.errors import InvalidInputError
from standpipe.vending.issuing import issue_tokens
from standpipe.vending.offers import offer_due
from standpipe_demo.simulator.meter_model import CLOSED, OPEN
from tests.support.database import free_port
from tests.support.dlms import TOKEN, DlmsField, enrol, identity_of, make_dlms_meter
from tests.support.lora import LoraField, add_device, dev_eui_of, make_lora_network
from tests.support.radio import Field
from tests.support.tokens import give_keypad, issuer, keypad_config
from tests.support.town import Town, make_settings, until
from tests.support.volume import meter_of, on_the_air, refunded, volume_town

TOP_UP = (
    "query($i: ID!) { node(id: $i) { ... on TopUp { status statusText terminal timeline { status } keypadToken { "
    "digits display volume { litres } issuedAt enteredAt } keypadTokens { digits } } } }"
)


async def pay(town: Town, amount: str = "50.00") -> str:
    top_up_id, _ = await town.pay_by_card(amount)
    await town.poll()
    await town.drain()
    return top_up_id


async def seen(town: Town, top_up_id: str) -> Any:
    return (await town.gql(TOP_UP, i=top_up_id))["data"]["node"]


async def past_the_deadline(town: Town) -> None:
    """The two queues of the worker, as of three hours from now."""
    anchor = town.settings.clock.anchor_at + timedelta(hours=3)
    clock = town.settings.model_copy(update={"clock_anchor_at": anchor}).clock
    await offer_due(town.sessions, clock, timedelta(hours=2))
    await issue_tokens(town.sessions, issuer(), clock)
    await town.drain()


async def woken(field: Field, remaining_ml: int) -> bool:
    await field.meter.wake()
    state = await field.state()
    return state is not None and state.credit_remaining == remaining_ml


async def test_m14_out_of_reach_the_token_is_offered_and_typed_and_the_radio_adds_nothing(
    town: Town, database_url: str, tmp_path: Path
) -> None:
    town = await volume_town(town)
    await give_keypad(town.sessions, town.home.serial)
    top_up_id = await pay(town)
    told = await seen(town, top_up_id)
    assert (told["status"], told["keypadToken"], told["keypadTokens"]) == ("PAID", None, [])
    await past_the_deadline(town)
    told = await seen(town, top_up_id)
    assert (told["status"], told["terminal"]) == ("TOKEN_ISSUED", False)
    token = told["keypadToken"]
    assert (len(token["digits"]), token["volume"]["litres"], token["enteredAt"]) == (20, "800", None)
    assert token["display"].replace(" ", "") == token["digits"]
    # The household is told, digits and all; asking again brings the same token and no second push.
    await past_the_deadline(town)
    async with town.sessions() as session:
        alerts = [row.params for row in await session.scalars(select(Alert)) if "token" in row.params]
    assert [params["token"] for params in alerts] == [token["display"]]
    assert (await seen(town, top_up_id))["keypadToken"] == token
    async with on_the_air(town, database_url, tmp_path, daily_litres=0, keypad=keypad_config()) as field:
        meter = field.meter
        assert meter.state.valve == CLOSED
        assert [meter.type_token(token["display"]), meter.type_token(token["digits"])] == ["ACCEPTED", "USED"]
        assert (meter.state.valve, meter.state.credit_remaining) == (OPEN, 800_000)
        await until(lambda: woken(field, 800_000), timeout_s=60)
        told = await seen(town, top_up_id)
        assert (told["status"], told["terminal"]) == ("ON_METER", True)
        assert told["keypadToken"]["enteredAt"] is not None
        steps = ["PAID", "TOKEN_ISSUED", "ON_METER"]
        assert [step["status"] for step in told["timeline"]][-3:] == steps
        # The total that waited came too, and held the same water.
        assert (meter.state.credit_accepted, meter.state.typed_ml) == (800_000, 0)
        assert meter.type_token(token["digits"]) == "USED"
    assert (await meter_of(town)).credit_granted == 800_000


async def test_m14_the_radio_was_first_and_its_answer_lost_and_the_token_says_used(
    town: Town, database_url: str, tmp_path: Path
) -> None:
    town = await volume_town(town)
    await give_keypad(town.sessions, town.home.serial)
    top_up_id = await pay(town)
    async with on_the_air(town, database_url, tmp_path, daily_litres=0, keypad=keypad_config()) as field:
        field.meter.lose_answers_to("command", 10)
        field.meter.lose_statements_after_command()
        await until(lambda: took(field), timeout_s=60)
        assert (await seen(town, top_up_id))["status"] in {"SENDING_TO_METER", "ON_METER"}
        await past_the_deadline(town)
        token = (await seen(town, top_up_id))["keypadToken"]
        if token is not None:
            assert field.meter.type_token(token["digits"]) == "USED"
        field.meter.lose_answers_to("command", 0)
        await until(lambda: woken(field, 800_000), timeout_s=60)
        assert field.meter.state.credit_accepted == 800_000
        assert (await seen(town, top_up_id))["status"] == "ON_METER"


async def took(field: Field) -> bool:
    await field.meter.wake()
    return field.meter.state.credit_accepted == 800_000


async def test_water_that_was_offered_as_a_token_is_not_given_back(town: Town) -> None:
    town = await volume_town(town)
    await give_keypad(town.sessions, town.home.serial)
    first, second = await pay(town, "58.00"), await pay(town, "58.00")
    assert await refunded(town, second, 5_800) == "READY"
    await past_the_deadline(town)
    assert (await seen(town, first))["status"] == "TOKEN_ISSUED"
    with pytest.raises(InvalidInputError, match="may hold this water"):
        await refunded(town, first, 5_800)
    assert (await meter_of(town)).credit_granted == 1_000_000


async def test_m14_over_lorawan_typed_first_and_the_total_holds_it(
    town: Town, database_url: str, tmp_path: Path
) -> None:
    town = await volume_town(town)
    await give_keypad(town.sessions, town.home.serial)
    await add_device(town.sessions, town.home.meter_id, dev_eui_of(0))
    first = await pay(town)
    await past_the_deadline(town)
    digits = (await seen(town, first))["keypadToken"]["digits"]
    second = await pay(town, "11.60")
    more = {"currency": "VOL", "blocks": (), "daily_litres": 0, "keypad": keypad_config()}
    async with make_lora_network(database_url, town.sessions, tmp_path, [town.home], **more) as field:
        assert field.meter.type_token(digits) == "ACCEPTED"
        await until(lambda: heard(town, field, second), timeout_s=60)
        assert (await seen(town, first))["status"] == "ON_METER"
        # 8 units were typed, and 2 more came by radio.
        total_ml = (await meter_of(town)).credit_granted
        assert field.meter.state.credit_accepted == field.meter.state.credit_remaining == total_ml
        assert field.meter.state.typed_ml == 0


async def heard(town: Town, field: LoraField, top_up_id: str) -> bool:
    await field.meter.wake()
    return bool((await seen(town, top_up_id))["status"] == "ON_METER")


async def test_m14_over_dlms_litres_go_in_frames_and_tokens_beside_them(
    town: Town, database_url: str, tmp_path: Path
) -> None:
    town = await volume_town(town)
    await give_keypad(town.sessions, town.home.serial)
    identity = identity_of(town.home, TOKEN)
    await enrol(town.sessions, town.home, identity)
    first = await pay(town)
    await past_the_deadline(town)
    digits = (await seen(town, first))["keypadToken"]["digits"]
    port = free_port()
    more = {"currency": "VOL", "blocks": (), "keypad": keypad_config()}
    meter = make_dlms_meter(town.home, identity, tmp_path, port, **more)
    assert meter.type_token(digits) == "ACCEPTED"
    field = DlmsField(town.sessions, make_settings(), database_url, town.home, meter, tmp_path, port)
    await field.start()
    try:
        field.run_meter()
        await until(lambda: is_on_meter(town, first), timeout_s=60)
        second = await pay(town, "11.60")
        await until(lambda: is_on_meter(town, second), timeout_s=60)
    finally:
        await field.stop()
    assert (meter.state.credit_accepted, meter.state.typed_ml) == (1_000_000, 0)
    assert (await meter_of(town)).credit_granted == 1_000_000


async def is_on_meter(town: Town, top_up_id: str) -> bool:
    return bool((await seen(town, top_up_id))["status"] == "ON_METER")
