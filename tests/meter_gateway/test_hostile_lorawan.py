"""What strangers and broken network servers post to the LoRaWAN door, while a healthy meter is served."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from chirpstack_api.integration import integration_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from standpipe.meter_gateway.carriers import run_carriers
from standpipe.meter_gateway.lorawan.events import DownlinkLost, Uplink, read_event
from standpipe.meter_gateway.lorawan.network import ChirpStack, NetworkUnavailableError
from standpipe.meter_gateway.parsing import ParsingError
from standpipe.platform.database import Sessions
from standpipe.platform.errors import SettingsError
from standpipe.platform.notify import Listener
from standpipe_demo.simulator import lora_codec
from standpipe_demo.simulator.fake_chirpstack import APPLICATION_ID, FakeChirpStack
from tests.support.certificates import make_certificate
from tests.support.lengths import rounds
from tests.support.lora import EVENT_SECRET, OLD_EVENT_SECRET, LoraField, dev_eui_of, make_lora_field
from tests.support.town import make_settings

ROUNDS = rounds(800, 4_000, "CHAOS_FRAMES")
NAMES = ("up", "join", "ack", "txack", "log", "status")


@pytest.fixture
async def field(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[LoraField]:
    async with make_lora_field(database_url, sessions, tmp_path) as made:
        yield made


def event(dev_eui: str = dev_eui_of(0), **fields: object) -> dict[str, object]:
    return {"deviceInfo": {"devEui": dev_eui, "applicationId": APPLICATION_ID}, **fields}


async def test_without_the_secret_nothing_is_read(field: LoraField) -> None:
    body = json.dumps(event()).encode()
    for wrong in ("", "Bearer", "Bearer x", f"Basic {EVENT_SECRET}", EVENT_SECRET, f"Bearer {EVENT_SECRET}x"):
        assert await field.post("join", body, authorization=wrong) == 401
    # Not even the size of what a stranger sends is judged by reading it.
    assert await field.post("up", bytes(10_000_000), authorization="Bearer x") in {401, 413}
    assert await field.post("join", body) == 204
    assert await field.post("join", body, authorization=f"Bearer {OLD_EVENT_SECRET}") == 204


async def test_m7_broken_events_are_refused_and_a_healthy_meter_is_served(field: LoraField) -> None:
    await field.grant(5_000)
    broken: list[tuple[str, bytes, int]] = [
        ("up", b"", 400),
        ("up", b"{", 400),
        ("up", b"[]", 400),
        ("up", b"null", 400),
        ("up", b'"x"', 400),
        ("up", b"[" * 60_000, 400),
        ("up", b'{"deviceInfo":' * 4_000 + b"1" + b"}" * 4_000, 400),
        ("up", b"\xff\xfe", 400),
        ("up", b"9" * 60_000, 400),
        ("up", json.dumps(event(dev_eui="\0" * 16)).encode(), 400),
        ("up", json.dumps(event(dev_eui="x")).encode(), 400),
        ("up", json.dumps({"deviceInfo": []}).encode(), 400),
        ("up", json.dumps({"deviceInfo": {"devEui": 5}}).encode(), 400),
        ("up", json.dumps(event(fCnt=10**30)).encode(), 400),
        ("up", json.dumps(event(fPort=-1)).encode(), 400),
        ("up", json.dumps(event(time="yesterday")).encode(), 400),
        ("up", json.dumps(event(deduplicationId="a\0b")).encode(), 400),
        ("ack", json.dumps(event(queueItemId="x" * 500)).encode(), 400),
        ("ack", json.dumps(event(acknowledged="perhaps")).encode(), 400),
        ("status", json.dumps(event(batteryLevel="NaN")).encode(), 400),
        ("status", b'{"deviceInfo":{"devEui":"' + dev_eui_of(0).encode() + b'"},"batteryLevel":1e999}', 400),
        ("up", bytes(10_000_000), 413),
        # Well-formed, and nothing to us: posting it again would change nothing.
        ("location", b"{}", 204),
        ("", b"{}", 204),
        ("up", json.dumps(event(dev_eui="ffffffffffffffff")).encode(), 204),
        ("up", json.dumps(event(fPort=99)).encode(), 204),
        ("up", json.dumps(event(fPort=10, data="***")).encode(), 204),
        ("up", json.dumps(event(fPort=10, data=base64.b64encode(bytes(51)).decode())).encode(), 204),
        ("up", json.dumps(event(fPort=10, data=base64.b64encode(bytes(9_000)).decode())).encode(), 204),
        ("ack", json.dumps(event(queueItemId="00000000-0000-0000-0000-000000000000", acknowledged=True)).encode(), 204),
        ("log", json.dumps(event(level="ERROR", code="SOMETHING_NEW", description="\0")).encode(), 204),
        ("log", json.dumps(event(level="ERROR", code="EXPIRED", description="\0" * 900)).encode(), 204),
    ]
    for name, body, status in broken:
        assert (await field.post(name, body), name, body[:60]) == (status, name, body[:60])
    assert (await field.http.get(field.events_url)).status_code == 405
    assert await field.state() is None
    await field.confirmed()
    assert await field.statuses() == [("CREDIT", "CONFIRMED")]


async def test_m7_garbage_in_both_encodings_while_a_healthy_meter_is_served(field: LoraField) -> None:
    await field.grant(5_000)
    chance = random.Random(7)

    async def bombard() -> set[int]:
        seen = set()
        for _ in range(400):
            kind = chance.choice(["application/json", "application/octet-stream"])
            name, body = chance.choice(NAMES), chance.randbytes(chance.randrange(200))
            seen.add(await field.post(name, body, **{"content-type": kind}))
        return seen

    seen, _ = await asyncio.gather(bombard(), field.meter.wake())
    assert seen <= {204, 400}
    await field.confirmed()


async def test_an_event_that_cannot_be_stored_is_asked_for_again(field: LoraField) -> None:
    frame = field.meter.status_frame()
    body = json.dumps(event(fPort=lora_codec.STATUS_PORT, data=base64.b64encode(frame).decode())).encode()
    async with field.sessions() as session:
        connection = await session.connection()
        await connection.exec_driver_sql("ALTER TABLE lora_devices RENAME TO gone")
        await session.commit()
        assert await field.post("up", body) == 503
        connection = await session.connection()
        await connection.exec_driver_sql("ALTER TABLE gone RENAME TO lora_devices")
        await session.commit()
    assert await field.post("up", body) == 204
    assert await field.state() is not None


async def test_lorawan_turned_on_by_half_is_said_at_start(database_url: str, sessions: Sessions) -> None:
    listener = Listener(database_url)
    url = {"lorawan_api_url": "http://127.0.0.1:1"}
    whole = url | {"lorawan_api_token": "t", "lorawan_event_secrets": EVENT_SECRET}
    for values, words in (
        (url, "STANDPIPE_LORAWAN_API_TOKEN"),
        (whole | {"lorawan_api_url": "chirpstack:8080"}, "STANDPIPE_LORAWAN_API_URL"),
    ):
        with pytest.raises(ExceptionGroup) as caught:
            await run_carriers(make_settings(**values), sessions, listener)
        assert isinstance(caught.value.exceptions[0], SettingsError)
        assert words in str(caught.value.exceptions[0])
    with pytest.raises(ValueError, match="32 characters"):
        make_settings(**whole | {"lorawan_event_secrets": "short"})


async def test_the_api_is_spoken_to_over_tls_with_the_right_token_alone(tmp_path: Path) -> None:
    certificate, key = make_certificate()
    (tmp_path / "ca.pem").write_bytes(certificate)
    network = FakeChirpStack(events_url="http://127.0.0.1:1", event_secret="", token="right")
    network.add(dev_eui_of(0), "A", lambda _downlink: None)
    port = await network.start(credentials=grpc.ssl_server_credentials([(key, certificate)]))
    url = f"https://localhost:{port}"
    right, wrong = ChirpStack(url, "right", tmp_path / "ca.pem"), ChirpStack(url, "wrong", tmp_path / "ca.pem")
    stranger = ChirpStack(url, "right")
    try:
        item = await right.replace_queue(dev_eui_of(0), 20, b"x", None)
        assert await right.queue(dev_eui_of(0)) == {item}
        with pytest.raises(NetworkUnavailableError, match="UNAUTHENTICATED"):
            await wrong.flush(dev_eui_of(0))
        with pytest.raises(NetworkUnavailableError, match="NOT_FOUND"):
            await right.flush(dev_eui_of(1))
        with pytest.raises(NetworkUnavailableError, match="UNAVAILABLE"):
            await stranger.flush(dev_eui_of(0))
    finally:
        for api in (right, wrong, stranger):
            await api.close()
        await network.stop()


def test_missing_fields_are_defaults_and_unknown_ones_are_passed_over() -> None:
    given_ = event(fPort=10, rxInfo=[{"snr": "no number"}], object={"x": 1}, somethingNew=[1])
    read = read_event("up", json.dumps(given_).encode(), is_json=True)
    assert isinstance(read, Uplink)
    assert (read.f_cnt, read.payload, read.heard_at, read.deduplication_id) == (0, b"", None, "")
    log = pb.LogEvent(device_info=pb.DeviceInfo(dev_eui=dev_eui_of(0)), code=pb.LogCode.DOWNLINK_GATEWAY)
    lost = read_event("log", log.SerializeToString(), is_json=False)
    assert isinstance(lost, DownlinkLost)
    assert lost.queue_item_id is None
    log.code = pb.LogCode.UPLINK_MIC
    assert read_event("log", log.SerializeToString(), is_json=False) is None


@given(st.sampled_from(NAMES), st.booleans(), st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_m7_any_bytes_are_an_event_or_a_parsing_error(name: str, is_json: bool, body: bytes) -> None:
    try:
        read_event(name, body, is_json=is_json)
    except ParsingError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["deduplicationId", "time", "fCnt", "fPort", "data", "queueItemId", "acknowledged", "fCntDown", "code",
          "description", "context", "batteryLevel", "deviceInfo", "batteryLevelUnavailable"]  # fmt: skip


@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_m7_any_values_in_the_fields_that_we_read_are_an_event_or_a_parsing_error(
    name: str, fields: dict[str, object]
) -> None:
    body = json.dumps(event() | fields).encode("utf-8", "replace")
    try:
        read_event(name, body, is_json=True)
    except ParsingError:
        return


def test_m7_truncated_and_flipped_events_of_the_real_types() -> None:
    """Some thousands in the suite, 100,000 by `make chaos`."""
    chance = random.Random(7)
    real = pb.UplinkEvent(
        deduplication_id="d", f_cnt=5, f_port=10, data=bytes(40), device_info=pb.DeviceInfo(dev_eui=dev_eui_of(0))
    )
    real.time.seconds = 1_790_000_000
    whole = real.SerializeToString()
    for _ in range(ROUNDS):
        body = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        try:
            read_event(chance.choice(NAMES), bytes(body), is_json=False)
        except ParsingError:
            continue
