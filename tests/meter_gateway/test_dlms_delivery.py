"""DLMS meters over real sockets: what they tell arrives, what we order reaches them once, whatever gets lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

from standpipe.meter_gateway.delivery import CommandRefusedError
from standpipe.meter_gateway.dlms.profiles.profile import load_profiles, read_profile
from standpipe.meter_gateway.dlms.tariff import send_tariff
from standpipe.meters.models import CommandKind
from standpipe.platform.database import Sessions
from standpipe.readings.models import Reading
from standpipe.tariffs.pricing import Block, PriceTable
from standpipe_demo.simulator.meter_model import pour
from tests.support.dlms import HLS, TOKEN, DlmsField, dlms_field, enrol
from tests.support.rating import rate_due
from tests.support.town import until

pytestmark = pytest.mark.calendar

GUIDE = Path(__file__).parents[2] / "docs" / "meters" / "new-profile.md"


@pytest.fixture(params=[HLS, TOKEN])
async def field(
    request: pytest.FixtureRequest, database_url: str, sessions: Sessions, tmp_path: Path
) -> AsyncIterator[DlmsField]:
    async with dlms_field(database_url, sessions, tmp_path, request.param) as made:
        yield made


@pytest.fixture
async def hls(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[DlmsField]:
    async with dlms_field(database_url, sessions, tmp_path) as made:
        yield made


async def test_credit_reaches_the_meter_and_is_confirmed_by_its_own_word(field: DlmsField) -> None:
    await field.grant(5_000)
    field.run_meter()
    await field.until_statuses(("CREDIT", "CONFIRMED"))
    assert field.meter.objects.state.credit_remaining == 5_000
    await field.grant(700, "k2")  # While it is connected: no waiting for it to dial in.
    await field.until_statuses(("CREDIT", "CONFIRMED"), ("CREDIT", "CONFIRMED"))
    state = await field.until_stated()
    assert (state.credit_accepted, state.credit_remaining) == (5_700, 5_700)


async def test_the_statement_tells_register_valve_clock_and_battery(hls: DlmsField) -> None:
    hls.meter.objects.state.register_ml = 1_234_567
    hls.meter.objects.state.at = datetime.now(UTC).isoformat()
    hls.run_meter()
    state = await hls.until_stated()
    assert (state.battery_percent, state.valve, state.report_counter) == (87, "CLOSED", 1)
    assert state.valve_reason == "NO_CREDIT"
    assert set(await registers_of(hls)) == {1_234_567}  # The push before the contact tells it too.


async def test_the_load_profile_is_read_by_range_and_each_entry_once(field: DlmsField) -> None:
    """Forty hours are more than one APDU holds: they come in blocks."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=40)
    rows = [(int((hour + timedelta(hours=at)).timestamp()), 1_000 * at) for at in range(40)]
    field.meter.objects.state.at = datetime.now(UTC).isoformat()
    field.meter.objects.state.unsent, field.meter.objects.state.register_ml = list(rows), 39_000
    field.run_meter()
    await field.until_stated()
    assert (await registers_of(field))[:40] == [register_ml for _, register_ml in rows]
    asked = field.meter.objects.asked
    assert asked[-1] == 40
    field.meter.hang_up()
    await until(lambda: _later(lambda: len(asked) > 1))
    assert asked[-1] <= 1  # The statement's own hour may have come since; the rest is not asked for again.


async def test_a_push_is_taken_in_and_begins_a_contact(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    # A push in the middle of a contact is taken in, and begins no other.
    await until(lambda: _later(lambda: hls.server is not None and hls.server.proven == 1 and not hls.server._tasks))
    before = (await hls.until_stated()).report_counter
    hls.meter.objects.state.register_ml = 777
    hls.meter.objects.extra.alarms = 0b1000  # Air in the pipe, by this profile.
    await hls.meter.push()

    async def contacted() -> bool:
        state = await hls.state()
        return state is not None and state.report_counter > before

    await until(contacted)
    assert 777 in await registers_of(hls)


async def test_a_wrong_clock_is_set(hls: DlmsField) -> None:
    hls.meter.objects.extra.clock_error_s = 86_400 * 400.0
    hls.run_meter()
    state = await hls.until_stated()
    assert abs(hls.meter.objects.extra.clock_error_s) < 2
    assert state.stated_at is not None
    assert abs((datetime.now(UTC) - state.stated_at).total_seconds()) < 60


async def test_the_valve_obeys_and_refuses_a_trickle_with_its_reason(hls: DlmsField) -> None:
    await hls.grant(5_000)
    hls.run_meter()
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    await hls.order(CommandKind.VALVE, 1)
    await hls.until_statuses(("CREDIT", "CONFIRMED"), ("VALVE", "CONFIRMED"))
    assert (await hls.until_stated()).valve == "CLOSED"
    await hls.order(CommandKind.VALVE, 2)
    await until(lambda: _status_is(hls, "REJECTED"))
    assert "no valve that can be 2" in ((await hls.last_command()).reason or "")
    await hls.order(CommandKind.VALVE, 0)
    await until(lambda: _status_is(hls, "CONFIRMED"))
    assert (await hls.until_stated()).valve == "OPEN"


async def test_a_token_meter_takes_every_command_as_a_frame(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    async with dlms_field(database_url, sessions, tmp_path, TOKEN) as field:
        await field.grant(5_000)
        await field.order(CommandKind.VALVE, 2)
        await field.order(CommandKind.THRESHOLD, 900)
        field.run_meter()
        await field.until_statuses(("CREDIT", "CONFIRMED"), ("VALVE", "CONFIRMED"), ("THRESHOLD", "CONFIRMED"))
        assert (await field.until_stated()).valve == "RESTRICTED"


async def test_a_threshold_is_written_and_read_back(hls: DlmsField) -> None:
    await hls.order(CommandKind.THRESHOLD, 900)
    hls.run_meter()
    await hls.until_statuses(("THRESHOLD", "CONFIRMED"))
    assert hls.meter.objects.state.threshold_minor == 900


async def test_m1_an_answer_that_is_lost_makes_no_second_credit(field: DlmsField) -> None:
    await field.grant(5_000)
    field.meter.faults.lose_answers_to_actions = 1
    field.run_meter()
    await field.until_statuses(("CREDIT", "CONFIRMED"))
    assert field.meter.objects.state.credit_accepted == 5_000
    # Read back, not sent again.
    assert len([call for call in field.meter.objects.calls if "19.10" in call or call == "enter"]) == 1


async def test_m1_a_request_that_is_lost_goes_out_again_under_its_number(field: DlmsField) -> None:
    field.run_meter()
    await field.until_stated()
    field.meter.faults.lose_actions = 2
    field.meter.faults.lose_answers_to_actions = 1
    await field.grant(5_000)
    await field.until_statuses(("CREDIT", "CONFIRMED"))
    assert field.meter.objects.state.credit_accepted == 5_000
    assert (await field.last_command()).sequence == 1


async def test_m3_a_meter_that_loses_power_keeps_its_credit_and_its_count(field: DlmsField) -> None:
    await field.grant(5_000)
    field.run_meter()
    await field.until_statuses(("CREDIT", "CONFIRMED"))
    field.meter.reboot()
    await field.grant(300, "k2")
    await field.until_statuses(("CREDIT", "CONFIRMED"), ("CREDIT", "CONFIRMED"))
    assert field.meter.objects.state.credit_accepted == 5_300


async def test_m10_a_close_that_waits_gives_way_to_a_top_up(field: DlmsField) -> None:
    await field.order(CommandKind.VALVE, 1)
    await field.grant(5_000)
    field.run_meter()
    await field.until_statuses(("VALVE", "SUPERSEDED"), ("CREDIT", "CONFIRMED"))
    assert not [call for call in field.meter.objects.calls if "96.3.10" in call]
    assert (await field.until_stated()).valve == "OPEN"


async def test_m13_an_answer_without_a_statement_never_confirms(field: DlmsField) -> None:
    """An amount that was set is read back at once, so that silence then is already doubt."""
    doubt = "UNKNOWN" if field.meter.identity.profile == HLS else "ACKNOWLEDGED"
    field.meter.faults.deaf_after_action = True
    await field.grant(5_000)
    with pytest.raises(asyncio.IncompleteReadError):
        await field.meter.dial()
    await until(lambda: _status_is(field, doubt))
    assert (await field.until_stated()).credit_accepted == 0
    field.run_meter()
    await field.until_statuses(("CREDIT", "CONFIRMED"))
    assert field.meter.objects.state.credit_accepted == 5_000


@pytest.mark.parametrize("fault", ["say_twice", "push_before_answer"])
async def test_what_is_said_twice_or_out_of_turn_changes_nothing(field: DlmsField, fault: str) -> None:
    setattr(field.meter.faults, fault, True)
    await field.grant(5_000)
    field.run_meter()
    await field.until_statuses(("CREDIT", "CONFIRMED"))
    assert field.meter.objects.state.credit_accepted == 5_000


async def test_water_that_runs_between_reading_and_setting_is_put_right(hls: DlmsField) -> None:
    hls.meter.objects.state.ordered_valve = 0
    await hls.grant(5_000)
    hls.run_meter()
    await hls.until_statuses(("CREDIT", "CONFIRMED"))
    objects, act = hls.meter.objects, hls.meter.objects.act

    def act_later(class_id: int, obis: str, index: int, value: object) -> object:
        if class_id == 112 and not objects.calls[1:]:
            pour(objects.config, objects.state, 100_000)  # Five shillings' worth, before the new amount is there.
        return act(class_id, obis, index, value)  # type: ignore[arg-type]

    objects.act = act_later  # type: ignore[method-assign, assignment]
    await hls.grant(1_000, "k2")
    await hls.until_statuses(("CREDIT", "CONFIRMED"), ("CREDIT", "CONFIRMED"))
    state = await hls.until_stated()
    assert (state.credit_accepted, objects.state.credit_accepted) == (6_000, 6_000)
    assert objects.state.credit_remaining == 5_500


async def test_a_price_table_is_written_read_back_and_comes_into_force_on_its_day(hls: DlmsField) -> None:
    hls.run_meter()
    await hls.until_stated()
    await hls.until_proven()
    assert hls.server is not None
    line = hls.server._proven[hls.home.meter_id]
    await until(lambda: _later(lambda: line.task is None))
    assert line.client is not None
    table = PriceTable((Block(6_000_000, Decimal(4_000)), Block(None, Decimal(9_000))))
    profile = load_profiles()[HLS]
    await send_tariff(line.client, profile, "KES", table, datetime.now(UTC) - timedelta(seconds=1))
    hls.meter.objects.advance()
    assert hls.meter.objects.priced.blocks == ((6_000_000, "4000"), (None, "9000"))
    dear = PriceTable((Block(None, Decimal(40_000)),))
    with pytest.raises(CommandRefusedError):
        await send_tariff(line.client, profile, "KES", dear, datetime.now(UTC))


async def test_the_guides_worked_example_serves_a_meter(database_url: str, sessions: Sessions, tmp_path: Path) -> None:
    """A new model is a new file and nothing else: this one stands in docs/meters/new-profile.md."""
    text = GUIDE.read_text().split("```toml\n")[1].split("```")[0]
    profile = read_profile(text, "kestrel-w15.toml")
    async with dlms_field(database_url, sessions, tmp_path) as field:
        assert field.server is not None
        field.server._profiles = {profile.name: profile}
        identity = vars(field.meter.identity) | {"profile": profile.name}
        await enrol(sessions, field.home, identity)
        await field.grant(5_000)
        await field.order(CommandKind.VALVE, 1)
        field.run_meter(field.another_meter(field.home, identity, push_first=False))
        await field.until_statuses(("CREDIT", "CONFIRMED"), ("VALVE", "CONFIRMED"))


async def registers_of(field: DlmsField) -> list[int]:
    await rate_due(field.sessions)
    async with field.sessions() as session:
        rows = await session.scalars(
            select(Reading.register_ml).where(Reading.meter_id == field.home.meter_id).order_by(Reading.read_at)
        )
        return list(rows)


async def _later(look: Callable[[], bool]) -> bool:
    return look()


async def _status_is(field: DlmsField, status: str) -> bool:
    return (await field.last_command()).status == status
