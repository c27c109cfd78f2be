"""What an operator asks of a meter, on the command line; the meter answers by its own radio."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from standpipe.billing.price_tables import push_table, push_to_all
from standpipe.meters.models import Meter, MeterCommand
from standpipe.platform.database import Sessions
from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import period_of
from standpipe.utilities.models import OperatorAction
from tests.support.office import hire
from tests.support.radio import make_field

pytestmark = pytest.mark.calendar

TARIFF = """\
tariff: d
name: Domestic
currency: KES
effective-from: {day}
blocks:
  - {{up-to-kl: 6, price: 53.45}}
  - {{price: 95.10}}
"""


async def test_a_meter_is_asked_and_its_answers_are_shown(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    amina = await hire(database_url, tmp_path)
    async with make_field(database_url, sessions, tmp_path, dtls=True) as field:
        serial = field.home.serial
        for order in ("read-now", "clock", "diagnostics", "tariff"):
            assert "queued" in await amina.good("meter-command", serial, order)
        waiting = json.loads(await amina.good("meter-command", serial, "list", "--json"))
        assert [(row["kind"], row["state"], row["waits"]) for row in waiting] == [
            ("TARIFF", "QUEUED", "yes"),
            ("DIAGNOSTICS", "QUEUED", "yes"),
            ("CLOCK", "QUEUED", "yes"),
            ("READ_NOW", "QUEUED", "yes"),
        ]
        await field.meter.wake()
        async with sessions() as session:
            assert set(await session.scalars(select(MeterCommand.status))) == {"CONFIRMED"}
        shown = await amina.good("meter-command", serial, "list")
        assert "sim 1.4.2" in shown
        assert "-97" in shown
    async with sessions() as session:
        trace = set(await session.scalars(select(OperatorAction.action)))
    assert {"meter.read-now", "meter.clock", "meter.diagnostics", "meter.tariff"} <= trace


async def test_what_cannot_be_asked_is_refused_with_one_clear_line(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    amina = await hire(database_url, tmp_path)
    async with make_field(database_url, sessions, tmp_path) as field:
        serial = field.home.serial
        assert "No meter has the serial NOBODY" in await amina.refused("meter-command", "NOBODY", "read-now")
        assert "--from goes with tariff" in await amina.refused(
            "meter-command", serial, "clock", "--from", "2030-01-01"
        )
        assert "begins after" in await amina.refused("meter-command", serial, "tariff", "--from", "2020-01-01")
        assert (await amina.run("meter-command", serial, "dance")).returncode == 2
    async with sessions() as session:
        assert (await session.scalars(select(MeterCommand))).all() == []
        with pytest.raises(InvalidInputError, match="knows no prices"):
            await push_table(session, Meter(wallet_kind="VOLUME"), now=datetime.now(UTC))


async def test_a_published_version_is_on_its_way_to_the_meters_that_deduct_by_it(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    amina = await hire(database_url, tmp_path)
    day = period_of(datetime.now(UTC).date() + timedelta(days=1))[1]
    file = tmp_path / "d.yaml"
    file.write_text(TARIFF.format(day=day))
    async with make_field(database_url, sessions, tmp_path, dtls=True) as field:
        assert "queued for 1 meters" in await amina.good("tariff", "publish", str(file))
        await field.meter.wake()
        waiting = field.meter.state.waiting_table
        assert waiting is not None
        assert [bound for bound, _ in waiting["blocks"]] == [6_000_000, None]
        assert await field.statuses() == [("TARIFF", "CONFIRMED")]
        # Said again, it changes nothing.
        async with sessions() as session:
            tariff_id = (await session.scalars(select(Meter.tariff_id))).one()
        assert await push_to_all(sessions, tariff_id, now=datetime.now(UTC), from_day=day) == 0
        assert "queued for 1 meters" in await amina.good("tariff", "withdraw", "d", str(day))
        await field.meter.wake()
        assert field.meter.state.waiting_table is None
        assert await field.statuses() == [("TARIFF", "CONFIRMED")] * 2


async def test_new_terms_of_supply_are_on_their_way_to_the_meter(
    database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    amina = await hire(database_url, tmp_path)
    day = (datetime.now(UTC) + timedelta(days=3)).date()
    async with make_field(database_url, sessions, tmp_path, dtls=True) as field:
        said = await amina.good("supply", "set", field.home.serial, "--from", str(day), "--households", "2")
        assert f"queued for {field.home.serial}" in said
        await field.meter.wake()
        assert ("TARIFF", "CONFIRMED") in await field.statuses()
        waiting = field.meter.state.waiting_table
        assert waiting is not None
        assert datetime.fromtimestamp(waiting["from"], ZoneInfo("Africa/Nairobi")).date() == day
