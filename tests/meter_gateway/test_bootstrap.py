"""First contact: a meter that knows a bootstrap server and its key for it, and nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiocoap
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from standpipe.meter_gateway.lwm2m import tlv
from standpipe.meter_gateway.lwm2m.dtls import keys as dtls_keys
from standpipe.meter_gateway.lwm2m.server import run_gateway
from standpipe.meter_gateway.lwm2m.tables import MeterDtlsKeys
from standpipe.meters.keys import KeyRing
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions
from standpipe.platform.errors import SettingsError
from standpipe.platform.notify import COMMANDS, Listener
from standpipe_demo.simulator.meter_bootstrap import resources_of
from standpipe_demo.simulator.meter_device import SimulatedMeter
from tests.meter_gateway.test_dtls_gateway import another_home
from tests.support.database import free_port
from tests.support.dtls_meter import Meter
from tests.support.radio import Field, config_of, give_key, make_field
from tests.support.town import METER_SECRET, changed, until

BOOTSTRAP_KEY = bytes(range(200, 216))


@pytest.fixture
async def field(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    port = free_port()
    settings = {"coap_bootstrap_port": free_port(), "coap_dtls_port": port, "coap_ack_timeout_s": 1.0}
    settings |= {"coap_public_url": f"coaps://127.0.0.1:{port}", "coap_max_retransmit": 2}
    async with make_field(database_url, sessions, tmp_path, settings=settings) as made:
        await give_key(sessions, made.home, BOOTSTRAP_KEY, bootstrap=True)
        yield made


def meter_of(field: Field, key: bytes = BOOTSTRAP_KEY) -> SimulatedMeter:
    return SimulatedMeter(
        config_of(field.home, bootstrap_key_hex=key.hex()),
        store_dir=field.folder / key.hex(),
        gateway=("127.0.0.1", 9),
        object_id=42769,
        clock=Clock(),
        awake_s=1.0,
        ack_timeout_s=0.5,
        bootstrap_server=("127.0.0.1", field.settings.coap.bootstrap_port or 0),
    )


async def test_a_meter_is_told_where_to_go_and_is_served_there(field: Field) -> None:
    await field.grant(5_000)
    meter = meter_of(field)
    assert await meter.wake()
    assert meter.state.gateway == f"127.0.0.1:{field.settings.coap.dtls_port}"
    await until(lambda: _confirmed(field))
    async with field.sessions() as session:
        row = (await session.scalars(select(MeterDtlsKeys))).one()
    # The session proved the key that was handed over: it is the present one, and no other waits.
    assert KeyRing([METER_SECRET]).open(row.sealed_key or "").hex() == meter.state.dtls_key_hex
    assert (row.sealed_next_key, row.bootstrapped_at is None, row.used_at is None) == (None, False, False)
    # It needs no bootstrap any more, nor does a loss of power change that.
    meter.reboot()
    meter._bootstrap_server = None
    assert await meter.wake()


async def test_the_bootstrap_key_opens_no_door_but_its_own(field: Field) -> None:
    stranger = meter_of(field, bytes(16))
    assert not await stranger.wake()
    at_the_gateway = Meter(field.settings.coap.dtls_port, field.home, BOOTSTRAP_KEY)
    assert not await at_the_gateway.handshake()
    at_the_gateway.close()
    port = field.settings.coap.bootstrap_port or 0
    asks = Meter(port, field.home, BOOTSTRAP_KEY)
    assert await asks.handshake()
    assert (await asks.asks(aiocoap.POST, f"/rd?ep={field.home.serial}")).code == aiocoap.NOT_FOUND
    other = await another_home(field)
    assert (await asks.asks(aiocoap.POST, f"/bs?ep={other.serial}")).code == aiocoap.FORBIDDEN
    asks.close()
    async with field.sessions() as session:
        assert (await session.scalars(select(MeterDtlsKeys.sealed_next_key))).all() == [None, None]


async def test_a_bootstrap_that_breaks_off_hands_over_the_same_key_the_next_time(field: Field) -> None:
    meter = Meter(field.settings.coap.bootstrap_port or 0, field.home, BOOTSTRAP_KEY)
    assert await meter.handshake()
    keys = []
    for finishes in (False, True):
        assert (await meter.asks(aiocoap.POST, f"/bs?ep={field.home.serial}")).code == aiocoap.CHANGED
        security = await meter.request("/0/1")
        keys.append(resources_of(security.payload)[5])
        if not finishes:
            await meter.answers(security, aiocoap.INTERNAL_SERVER_ERROR)
            continue
        await meter.answers(security, aiocoap.CHANGED)
        server = await meter.request("/1/0")
        assert resources_of(server.payload)[23] == b"\0"
        await meter.answers(server, aiocoap.CHANGED)
        await meter.answers(await meter.request("/bs"), aiocoap.CHANGED)
    assert keys[0] == keys[1]
    meter.close()
    await until(lambda: _bootstrapped(field))
    async with field.sessions() as session:
        found = await dtls_keys.credential_of(session, KeyRing([METER_SECRET]), field.home.serial)
    assert found.keys == (keys[0],)


async def test_a_bootstrap_server_without_an_address_to_hand_out_says_so(
    field: Field, database_url: str, sessions: Sessions
) -> None:
    change = {"coap_public_url": None, "coap_plain_udp": False, "coap_dtls_port": free_port()}
    with pytest.raises(SettingsError, match="COAP_PUBLIC_URL"):
        await run_gateway(changed(field.settings, **change), sessions, Listener(database_url, COMMANDS))


@given(st.dictionaries(st.integers(0, 65_535), st.binary(max_size=400), max_size=6))
def test_resources_go_out_in_tlv_as_two_readers_understand_it(resources: dict[int, bytes]) -> None:
    payload = b"".join(tlv.resource(number, value) for number, value in resources.items())
    assert {entry.id: entry.value for entry in tlv.decode(payload)} == resources
    assert resources_of(payload) == resources


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_go_out_in_tlv_as_they_come_in(value: int) -> None:
    assert tlv.integer(tlv.of_integer(value)) == value


async def _confirmed(field: Field) -> bool:
    return await field.statuses() == [("CREDIT", "CONFIRMED")]


async def _bootstrapped(field: Field) -> bool:
    async with field.sessions() as session:
        return (await session.scalars(select(MeterDtlsKeys.bootstrapped_at))).one() is not None
