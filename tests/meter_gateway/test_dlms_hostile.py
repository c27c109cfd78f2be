"""What a DLMS gateway must survive: dying itself, meters that forget, impostors, replays, garbage, and silence."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from standpipe.meter_gateway.dlms import meters as dlms
from standpipe.platform.database import Sessions
from standpipe_demo.simulator.dlms_frames import Cryptographer
from standpipe_demo.simulator.dlms_meter import SimulatedDlmsMeter
from tests.support.database import free_port
from tests.support.dlms import (
    HLS,
    PATIENCE,
    TOKEN,
    DlmsField,
    dlms_field,
    enrol,
    identity_of,
    make_dlms_home,
    make_dlms_meter,
)
from tests.support.lengths import rounds
from tests.support.roles import running
from tests.support.town import METER_SECRET, make_home, make_settings, make_utility, until

ROUNDS = rounds(600, 3_000, "CHAOS_DATAGRAMS")


@pytest.fixture
async def hls(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[DlmsField]:
    async with dlms_field(database_url, sessions, tmp_path) as made:
        yield made


@pytest.mark.parametrize("profile", [HLS, TOKEN])
async def test_m2_a_gateway_killed_between_sending_and_answer_credits_once(
    database_url: str, sessions: Sessions, tmp_path: Path, profile: str
) -> None:
    settings, port = make_settings(), free_port()
    home, identity = await make_dlms_home(sessions, settings, profile)
    meter = make_dlms_meter(home, identity, tmp_path, port)
    meter.faults.lose_answers_to_actions = 1
    field = DlmsField(sessions, settings, database_url, home, meter, tmp_path, port)
    await field.grant(5_000)
    environment = {
        "DATABASE_URL": database_url,
        "METER_KEY_SECRETS": METER_SECRET,
        "DLMS_PORT": str(port),
        "DLMS_ALLOW_LLS": "1",
        "LOG_LEVEL": "ERROR",
    }
    async with running(environment) as roles:
        await roles.start("gateway")
        field.run_meter()
        await until(lambda: _is(lambda: meter.objects.calls != []), timeout_s=90)
        assert (await field.last_command()).status == "SENT"
        await roles.kill("gateway")
        await roles.start("gateway")
        await until(lambda: _confirmed(field), timeout_s=90)
    await field.stop()
    assert meter.objects.state.credit_accepted == 5_000
    assert len(meter.objects.calls) == 1
    assert (await field.last_command()).sequence == 1
    assert_counters_never_repeat(meter)


async def test_m3_a_meter_that_forgot_everything_gets_nothing_until_a_person_has_looked(hls: DlmsField) -> None:
    await hls.grant(5_000)
    hls.run_meter()
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    stated = (await hls.until_stated()).report_counter
    counters = hls.meter.objects.extra
    hls.meter.reboot(with_memory=False)
    hls.meter.objects.extra.sent_counter = counters.sent_counter  # Its counters outlive its registers.
    await hls.grant(300, "k2")
    asked = len(hls.meter.objects.asked)
    await until(lambda: _is(lambda: len(hls.meter.objects.asked) > asked))
    await until(lambda: _is(lambda: hls.server is not None and not hls.server._tasks))
    assert await hls.statuses() == [("CREDIT", "CONFIRMED"), ("CREDIT", "QUEUED")]
    assert (await hls.until_stated()).report_counter == stated
    assert hls.meter.objects.state.credit_accepted == 0
    async with hls.sessions.begin() as session:
        await dlms.start_anew(session, hls.home.meter_id)
    hls.meter.hang_up()
    await hls.until_statuses(("CREDIT", "CONFIRMED"), ("CREDIT", "CONFIRMED"))
    # Only what is new: what it forgot is a matter between people.
    assert hls.meter.objects.state.credit_remaining == 300


async def test_m4_a_meter_cannot_be_another(hls: DlmsField) -> None:
    utility_id, tariff_id = await make_utility(hls.sessions)
    installed_at = datetime.now(UTC) - timedelta(days=2)
    other = await make_home(
        hls.sessions, hls.settings, utility_id, tariff_id, installed_at=installed_at, zone="Africa/Nairobi"
    )
    theirs = identity_of(other)
    await enrol(hls.sessions, other, theirs)
    ours = hls.meter.identity
    await hls.grant(5_000)
    # By a push it is known by its title, asked for its name by that; each is worth nothing without the keys.
    impostures = (
        (theirs | {"system_title": ours.system_title, "name": ours.name}, True),
        (theirs | {"system_title": ours.system_title, "name": ours.name}, False),
        (theirs | {"name": ours.name}, False),
        (theirs | {"system_title": ours.system_title}, True),
        (theirs | {"system_title": ours.system_title}, False),
    )
    for imposture, push_first in impostures:
        meter = hls.another_meter(other, imposture, push_first=push_first)
        await ended(meter)
        assert meter.objects.calls == []
        assert meter.objects.state.credit_accepted == 0
    assert await hls.state() is None
    assert await hls.statuses() == [("CREDIT", "QUEUED")]


async def test_a_meter_with_a_wrong_key_is_not_served_and_the_right_one_still_is(hls: DlmsField) -> None:
    wrong = vars(hls.meter.identity) | {"authentication_key": "00" * 16}
    await hls.grant(5_000)
    for push_first in (True, False):
        await ended(hls.another_meter(hls.home, wrong, push_first=push_first))
    assert await hls.state() is None
    (hls.folder / "meters" / f"{hls.home.serial}.dlms.json").unlink(missing_ok=True)
    hls.run_meter()
    await hls.until_statuses(("CREDIT", "CONFIRMED"))


async def test_m5_our_counters_only_rise_also_over_restarts(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    for number in range(3):
        tasks, hls.tasks = hls.tasks[1:], hls.tasks[:1]
        await hls.stop()
        await hls.start()
        hls.tasks += tasks
        await hls.grant(100, f"k{number}")
        await hls.until_statuses(*[("CREDIT", "CONFIRMED")] * (number + 1))
    assert_counters_never_repeat(hls.meter)


async def test_m5_a_push_that_is_played_again_after_a_restart_is_refused(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    await hls.until_proven()
    push = next(frame for way, frame in hls.meter.traffic if way == "out" and frame[8] == 0xDB)
    await hls.stop()
    before = (await hls.row()).meter_counter
    assert before >= 1
    await hls.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", hls.port)
    writer.write(push)
    await writer.drain()
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert (await hls.row()).meter_counter == before


async def test_m5_a_meter_whose_counter_went_back_is_refused(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    await hls.until_proven()
    hls.meter.faults.asleep = True
    hls.meter.hang_up()
    await until(lambda: _is(lambda: hls.server is not None and hls.server.proven == 0))
    stated = (await hls.until_stated()).report_counter
    hls.meter.objects.extra.sent_counter = 0
    await hls.grant(5_000)
    hls.meter.faults.asleep = False
    await until(lambda: _is(lambda: hls.meter.objects.extra.sent_counter >= 5))
    assert (await hls.until_stated()).report_counter == stated
    assert await hls.statuses() == [("CREDIT", "QUEUED")]


@pytest.mark.parametrize("profile", [HLS, TOKEN])
async def test_m6_an_answer_from_before_does_not_complete_a_new_command(
    database_url: str, sessions: Sessions, tmp_path: Path, profile: str
) -> None:
    async with dlms_field(database_url, sessions, tmp_path, profile) as field:
        meter = field.meter
        await field.grant(5_000)
        field.run_meter()
        await field.until_statuses(("CREDIT", "CONFIRMED"))
        old = [frame for way, frame in meter.traffic if way == "out" and frame[8] in (0xC7, 0xCF)][-1]
        serve = meter._serve

        async def says_the_old_one(association: Any, client: int, apdu: bytes) -> None:
            """The request is lost, and in its place comes what was answered to the one before."""
            if apdu[0] in (0xC3, 0xCB) and meter.faults.lose_actions:
                await meter.send_raw(old)
            await serve(association, client, apdu)

        meter._serve = says_the_old_one  # type: ignore[method-assign]
        meter.faults.lose_actions = 1
        await field.grant(700, "k2")
        await field.until_statuses(("CREDIT", "CONFIRMED"), ("CREDIT", "CONFIRMED"))
        assert meter.faults.lose_actions == 0
        # It went out again, because the meter's own word did not hold it.
        assert (await field.last_command()).attempts == 2
        assert meter.state.credit_accepted == 5_700


async def test_m7_garbage_ends_its_own_connection_and_nobody_elses(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    await hls.until_proven()
    chance = random.Random(7)
    recorded = [frame for _, frame in hls.meter.traffic]
    writers = []
    for number in range(ROUNDS):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", hls.port)
            writer.write(_garbage(chance, recorded))
            writers.append(writer)
        except OSError:
            continue
        if number % 50 == 49:
            await asyncio.sleep(0)
            while writers:
                writers.pop().close()
    await hls.grant(5_000)
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    assert hls.server is not None
    await until(lambda: _is(lambda: hls.server is not None and hls.server.connections <= 1))
    # Everything that the strangers were given has gone with them.
    assert not hls.server._unproven
    assert len(hls.server._tasks) <= 1


async def test_m9_who_says_nothing_or_too_little_is_dropped_and_others_are_served(hls: DlmsField) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", hls.port) for _ in range(20)]
    slow = [await asyncio.open_connection("127.0.0.1", hls.port) for _ in range(20)]
    huge = [await asyncio.open_connection("127.0.0.1", hls.port) for _ in range(20)]
    hls.tasks.append(asyncio.create_task(_dribble([writer for _, writer in slow])))
    for _, writer in huge:
        writer.write(struct.pack(">HHHH", 1, 1, 16, 0xFFFF) + b"x")
    await hls.grant(5_000)
    hls.run_meter()
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    for reader, writer in (*silent, *slow, *huge):
        with suppress(ConnectionError):
            while await asyncio.wait_for(reader.read(1024), 10):
                pass
        writer.close()
    assert hls.server is not None
    assert hls.server.proven == 1


async def test_m9_a_meter_that_stops_in_the_middle_of_a_frame_is_dropped_and_dials_in_again(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    await hls.until_proven()
    assert hls.server is not None
    await until(lambda: _is(lambda: hls.server is not None and not hls.server._tasks))
    line = hls.server._proven[hls.home.meter_id]
    await hls.meter.send_raw(struct.pack(">HHHH", 1, 1, 1, 40) + b"half")
    await until(lambda: _is(lambda: not line.wire.is_open))
    await hls.grant(5_000)
    await hls.until_statuses(("CREDIT", "CONFIRMED"))


async def test_m9_a_connection_that_falls_silent_is_closed_in_the_end(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with dlms_field(database_url, sessions, tmp_path) as field:
        await field.stop()
        field.patience = replace(PATIENCE, idle_s=1.0)
        await field.start()
        with pytest.raises(asyncio.IncompleteReadError):
            await asyncio.wait_for(field.meter.dial(), 15)
        assert (await field.until_stated()).report_counter >= 1


async def test_m4_a_meter_that_cannot_answer_our_challenge_is_not_served(
    hls: DlmsField, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ciphers rightly, as whoever had stolen one key of the two might; the proof of HLS is wrong all the same."""
    monkeypatch.setattr(Cryptographer, "gmac", _wrong_for_the_meter(Cryptographer.gmac, hls.meter.identity.title))
    await hls.grant(5_000)
    await ended(hls.meter)
    assert await hls.state() is None
    assert hls.meter.objects.calls == []


async def test_m9_a_crowd_of_strangers_keeps_no_meter_out(hls: DlmsField, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("standpipe.meter_gateway.dlms.server.MAX_UNPROVEN", 8)
    strangers = [await asyncio.open_connection("127.0.0.1", hls.port) for _ in range(40)]
    await hls.grant(5_000)
    hls.run_meter()
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    for _, writer in strangers:
        writer.close()


async def test_a_meter_that_dials_in_twice_is_served_on_the_newer_line(hls: DlmsField) -> None:
    first = asyncio.create_task(hls.meter.dial())
    await hls.until_stated()
    await hls.until_proven()
    second = hls.another_meter(hls.home, vars(hls.meter.identity))
    second.objects = hls.meter.objects
    # Not proven yet: whoever only claims to be the meter ends nothing.
    stranger = await asyncio.open_connection("127.0.0.1", hls.port)
    push = next(frame for way, frame in hls.meter.traffic if way == "out" and frame[8] == 0xDB)
    stranger[1].write(push)
    with suppress(ConnectionError):
        await asyncio.wait_for(stranger[0].read(), 5)
    stranger[1].close()
    assert not first.done()
    running_ = asyncio.create_task(second.dial())
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await asyncio.wait_for(first, 10)
    await hls.grant(5_000)
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    assert second.connected
    running_.cancel()
    with suppress(asyncio.CancelledError):
        await running_


async def test_a_meter_that_knows_only_lls_is_served_only_where_that_is_allowed(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with dlms_field(database_url, sessions, tmp_path, TOKEN) as field:
        assert field.server is not None
        field.server._allow_lls = False
        await ended(field.meter)
        assert await field.state() is None
        field.server._allow_lls = True
        field.run_meter()
        await field.until_stated()


async def test_a_meter_that_sleeps_is_unknown_and_read_back_when_it_wakes(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    await hls.until_proven()
    hls.meter.faults.lose_requests = 1_000
    await hls.grant(5_000)
    await until(lambda: _is(lambda: hls.server is not None and hls.server.proven == 0))
    assert (await hls.last_command()).status in {"QUEUED", "UNKNOWN"}
    hls.meter.faults.lose_requests = 0
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    assert hls.meter.objects.state.credit_accepted == 5_000


def assert_counters_never_repeat(meter: SimulatedDlmsMeter) -> None:
    """Under one key, no invocation counter of ours went over the wire twice."""
    seen: list[int] = []
    for way, frame in meter.traffic:
        apdu = frame[8:]
        if way == "in" and apdu[0] in {0xC8, 0xC9, 0xCB}:
            at = 2 if apdu[1] < 0x80 else 2 + (apdu[1] & 0x7F)
            seen.append(int.from_bytes(apdu[at + 1 : at + 5], "big"))
    assert seen == sorted(set(seen))


async def ended(meter: SimulatedDlmsMeter) -> None:
    """Dial in, and stay until the gateway hangs up."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await asyncio.wait_for(meter.dial(), 10)


def _wrong_for_the_meter(gmac: Any, meter_title: bytes) -> Any:
    def wrong(self: Cryptographer, title: bytes, counter: int, challenge: bytes) -> bytes:
        proof: bytes = gmac(self, title, counter, challenge)
        return proof[:-1] + bytes((proof[-1] ^ 1,)) if title == meter_title else proof

    return wrong


def _garbage(chance: random.Random, recorded: list[bytes]) -> bytes:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 200))
    if kind == 1:
        body = chance.randbytes(chance.randrange(1, 120))
        return struct.pack(">HHHH", 1, 1, 16, len(body)) + body
    frame = bytearray(chance.choice(recorded))
    if kind == 2:
        return bytes(frame[: chance.randrange(1, len(frame))])
    if kind == 3:
        frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
        return bytes(frame)
    return struct.pack(">HHHH", 1, 1, 16, 0xFFFF) + chance.randbytes(40)


async def _dribble(writers: list[asyncio.StreamWriter]) -> None:
    for octet in struct.pack(">HHHH", 1, 1, 16, 200) + bytes(200):
        for writer in writers:
            if not writer.is_closing():
                writer.write(bytes((octet,)))
        await asyncio.sleep(0.2)


async def _is(look: Any) -> bool:
    return bool(look())


async def _confirmed(field: DlmsField) -> bool:
    return await field.statuses() == [("CREDIT", "CONFIRMED")]
